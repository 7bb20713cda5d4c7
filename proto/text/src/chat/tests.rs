//! Templates against Jinja itself (`golden/make_golden.py`), and the limits.

use std::collections::HashMap;

use serde::Deserialize;

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
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    text: Option<String>,
    raised: Option<String>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/chat.json")).unwrap()
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, TemplateError> {
    let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    ChatTemplate::new(source)?.render(input)
}

#[test]
fn every_golden_conversation_is_rendered_as_jinja_does() {
    let golden = golden();
    for case in &golden.cases {
        let rendered = ChatTemplate::new(&golden.templates[&case.template]).unwrap().render(ChatInput {
            messages: &case.messages,
            add_generation_prompt: case.add_generation_prompt,
            bos: Some("<s>"),
            eos: Some("</s>"),
            now: Some(golden.now),
        });
        match (rendered, &case.text, &case.raised) {
            (Ok(text), Some(want), _) => assert_eq!(&text, want, "{} {:?}", case.template, case.messages),
            (Err(TemplateError::Raised(message)), _, Some(want)) => assert_eq!(&message, want),
            (got, ..) => panic!("{}: {got:?}, wanted {:?} {:?}", case.template, case.text, case.raised),
        }
    }
    assert!(golden.cases.iter().any(|case| case.raised.is_some()));
}

#[test]
fn what_is_gravity_gets_the_default_system_prompt() {
    let text = render(&golden().templates["smollm2"], &[ChatMessage::new("user", "What is gravity?")]);
    assert_eq!(
        text.unwrap(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn without_a_date_templates_take_their_own() {
    let text = render(&golden().templates["llama-3"], &[ChatMessage::new("user", "Hi")]).unwrap();
    assert!(text.contains("26 Jul 2024"));
}

#[test]
fn hostile_templates_are_stopped() {
    let message = [ChatMessage::new("user", "x")];
    let long = format!("{{{{ '{}' }}}}", "x".repeat(200_000));
    assert!(matches!(render(&long, &message), Err(TemplateError::TooLarge { .. })));
    assert!(matches!(render("{% for", &message), Err(TemplateError::Syntax(_))));
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{{ a }}{% endfor %}{% endfor %}";
    assert!(matches!(render(endless, &message), Err(TemplateError::OutOfFuel)));
    let wide = "{% set x = 'y' * 100000 %}{% for a in range(1000) %}{{ x }}{% endfor %}";
    assert!(matches!(render(wide, &message), Err(TemplateError::OutputTooLong { .. })));
    let deep = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert!(matches!(render(deep, &message), Err(TemplateError::Render(_))));
    let nested = format!("{}{}", "{% if true %}".repeat(2000), "{% endif %}".repeat(2000));
    assert!(render(&nested, &message).is_err());
    let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(render(&brackets, &message).is_err());
    for missing in
        ["{{ nothing.at.all }}", "{{ messages[0].content.nomethod() }}", "{{ unknown_function() }}"]
    {
        assert!(matches!(render(missing, &message), Err(TemplateError::Render(_))), "{missing}");
    }
    for outside in ["{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'base' %}"] {
        assert!(render(outside, &message).is_err(), "{outside}");
    }
}

#[test]
fn templates_and_messages_of_any_bytes_do_not_panic() {
    use proptest::prelude::*;
    let parts = prop::sample::select(vec![
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "-",
        " generation ",
        " for x in messages ",
        " endfor ",
        " if ",
        " x.y ",
        " set a = ",
        "'",
        "\"",
        "|",
        "trim",
        "(",
        ")",
        "[",
        "]",
        "é",
        "\0",
        "\n",
        " endif ",
        "1",
        "::",
        "~",
        ".strip",
    ]);
    let source = prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat());
    proptest!(|(source in source, content: String)| {
        let _ = render(&source, &[ChatMessage::new("user", content)]);
    });
}
