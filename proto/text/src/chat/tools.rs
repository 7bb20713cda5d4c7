//! Templates that know tools, against Jinja itself (`tools/make_golden.py`): calls, their answers, variables, JSON.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;

#[derive(Deserialize)]
struct Golden {
    now: i64,
    templates: HashMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Value>,
    tools: Vec<Value>,
    variables: Map<String, Value>,
    text: Option<String>,
    raised: Option<String>,
}

/// A message as the API has it: with arguments as a text.
fn message(value: &Value) -> ChatMessage {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let call = |call: &Value| ToolCall {
        id: text(&call["id"]).unwrap(),
        name: text(&call["function"]["name"]).unwrap(),
        arguments: call["function"]["arguments"].to_string(),
    };
    ChatMessage {
        role: text(&value["role"]).unwrap(),
        content: text(&value["content"]),
        name: text(&value["name"]),
        tool_calls: value["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        tool_call_id: text(&value["tool_call_id"]),
        reasoning_content: text(&value["reasoning_content"]),
    }
}

#[test]
fn conversations_with_tools_are_rendered_as_jinja_does() {
    let golden: Golden = serde_json::from_str(include_str!("tools/golden.json")).unwrap();
    assert!(golden.cases.len() > 50);
    for case in &golden.cases {
        let messages: Vec<ChatMessage> = case.messages.iter().map(message).collect();
        let input = ChatInput {
            messages: &messages,
            add_generation_prompt: true,
            bos: Some("<s>"),
            eos: Some("</s>"),
            now: Some(golden.now),
        };
        let options = ChatOptions { tools: &case.tools, variables: Some(&case.variables) };
        let rendered =
            ChatTemplate::new(&golden.templates[&case.template]).unwrap().render_with(input, options);
        match (rendered, &case.text, &case.raised) {
            (Ok(text), Some(want), _) => assert_eq!(&text, want, "{} {:?}", case.template, case.messages),
            (Err(TemplateError::Raised(message)), _, Some(want)) => assert_eq!(&message, want),
            (got, ..) => panic!("{}: {got:?}, wanted {:?} {:?}", case.template, case.text, case.raised),
        }
    }
}

fn render(source: &str, messages: &[ChatMessage], options: ChatOptions<'_>) -> Result<String, TemplateError> {
    ChatTemplate::new(source)?.render_with(ChatInput { messages, ..ChatInput::default() }, options)
}

#[test]
fn arguments_that_are_no_json_stay_a_text() {
    let call = |arguments: &str| ChatMessage {
        tool_calls: vec![ToolCall { id: "1".into(), name: "f".into(), arguments: arguments.into() }],
        ..ChatMessage::new("assistant", "")
    };
    let source =
        "{% set a = messages[0].tool_calls[0].function.arguments %}{{ a is string }} {{ a is mapping }}";
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (arguments, expected) in
        [("{\"a\":1}", "False True"), ("{\"a\":", "True False"), (&deep, "True False")]
    {
        assert_eq!(render(source, &[call(arguments)], ChatOptions::default()).unwrap(), expected);
    }
}

#[test]
fn variables_can_not_replace_the_conversation() {
    let variables = json!({"messages": [], "bos_token": "x", "own": 7});
    let options = ChatOptions { variables: variables.as_object(), ..ChatOptions::default() };
    let text =
        render("{{ messages|length }}{{ bos_token }}{{ own }}", &[ChatMessage::new("user", "")], options);
    assert_eq!(text.unwrap(), "17");
}

#[test]
fn many_tools_and_hostile_json_keep_the_limits() {
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}});
    let tools = vec![tool; 128];
    let options = ChatOptions { tools: &tools, variables: None };
    let source = "{% for t in tools %}{{ t | tojson(indent=4) }}{% for k, v in t.function.parameters.properties|items %}{{ k }}{{ v.type }}{% endfor %}{% endfor %}";
    assert!(render(source, &[], options).unwrap().len() > 128 * 100);
    let endless = "{% for a in range(10000) %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endfor %}";
    assert!(render(endless, &[], options).is_err());
    for wrong in [
        "{{ tools|tojson(indent=1000) }}",
        "{{ tools|tojson(separators=('x' * 100, ':')) }}",
        "{{ tools|tojson(what=1) }}",
    ] {
        assert!(render(wrong, &[], options).is_err(), "{wrong}");
    }
}
