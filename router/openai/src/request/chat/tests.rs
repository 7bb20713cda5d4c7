//! Requests as clients send them, and as they should not.

use proptest::prelude::*;
use proto::tensor::NumericsClass;
use router_plan::ModelRef;
use router_plan::admission::Priority;
use serde_json::json;

use super::*;
use crate::{Delivery, ToolChoice};

fn parse(body: &Value) -> Result<ChatRequest, ApiError> {
    ChatRequest::parse(body.to_string().as_bytes())
}

fn with(name: &str, value: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    body[name] = value;
    body
}

#[test]
fn a_plain_request_has_openais_defaults() {
    let request =
        parse(&json!({"model": "ORG/NAME", "messages": [{"role": "user", "content": "Hi"}]})).unwrap();
    let generation = request.generation;
    assert_eq!(generation.model, Some(ModelRef::Name("ORG/NAME".into())));
    assert_eq!((generation.sampling.temperature, generation.sampling.top_p), (1.0, 1.0));
    assert!(generation.draw_seed);
    assert_eq!((generation.n, generation.max_tokens, generation.logprobs), (1, None, None));
    assert_eq!(generation.delivery, Delivery::Whole);
    assert_eq!(request.chat.messages, [ChatMessage::new("user", "Hi")]);
    assert!(request.chat.add_generation_prompt);
    assert_eq!(request.constraint, Constraint::None);
}

#[test]
fn a_whole_request_is_read() {
    let request = ChatRequest::parse(
        br#"{
        "model": "ORG/NAME@0123abcd", "stream": true, "stream_options": {"include_usage": true}, "n": 3, "seed": -7,
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "presence_penalty": -2, "frequency_penalty": 2,
        "repetition_penalty": 1.1, "logit_bias": {"0": -100, "17": 3}, "stop": ["a", "b"], "logprobs": true,
        "top_logprobs": 20, "max_tokens": 9, "max_completion_tokens": 9.0, "numerics": "exact", "priority": "high",
        "deadline_ms": 1500, "user": "u", "metadata": {"a": 1}, "store": true, "service_tier": "auto",
        "reasoning_effort": "low", "verbosity": "high", "response_format": null, "modalities": ["text"],
        "chat_template_kwargs": {"enable_thinking": false}, "add_generation_prompt": false,
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]},
            {"role": "user", "content": "Hi", "name": "Ann"},
            {"role": "assistant", "content": null, "refusal": null, "annotations": [], "audio": null,
             "tool_calls": [{"id": "call_1", "type": "function", "index": 0,
                             "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
            {"role": "assistant", "content": "done", "reasoning_content": "hm"}
        ]}"#,
    )
    .unwrap();
    let generation = &request.generation;
    assert_eq!(generation.model, Some(ModelRef::NameAndId("ORG/NAME".into(), "0123abcd".into())));
    assert_eq!(generation.class, Some(NumericsClass::Exact));
    assert_eq!((generation.priority, generation.deadline.unwrap().as_millis()), (Priority::High, 1500));
    assert_eq!((generation.n, generation.max_tokens, generation.logprobs), (3, Some(9), Some(20)));
    assert_eq!((generation.sampling.seed, generation.draw_seed), (-7_i64 as u64, false));
    assert_eq!(generation.sampling_of(8).seed, 1);
    assert_eq!(generation.sampling.logit_bias, [(0, -100.0), (17, 3.0)]);
    assert_eq!((generation.sampling.top_k, generation.stop.len()), (0, 2));
    assert_eq!(generation.delivery, Delivery::Stream { include_usage: true });
    let messages = &request.chat.messages;
    assert_eq!(messages[0], ChatMessage::new("system", "Be\nbrief"));
    assert_eq!(messages[1].name.as_deref(), Some("Ann"));
    assert_eq!(
        (messages[2].content.as_deref(), messages[2].tool_calls[0].arguments.as_str()),
        (None, "{\"x\":1}")
    );
    assert_eq!(messages[3].tool_call_id.as_deref(), Some("call_1"));
    assert_eq!(messages[4].reasoning_content.as_deref(), Some("hm"));
    assert_eq!(request.chat.variables["enable_thinking"], json!(false));
    assert!(!request.chat.add_generation_prompt);
}

#[test]
fn mistakes_name_their_place() {
    let user =
        |content: Value| json!([{"role": "user", "content": "a"}, {"role": "user", "content": content}]);
    let image = json!([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    for (name, value, place, code) in [
        ("temperature", json!(2.1), "temperature", ErrorCode::InvalidValue),
        ("temperature", json!("hot"), "temperature", ErrorCode::InvalidType),
        ("top_p", json!(-0.1), "top_p", ErrorCode::InvalidValue),
        ("n", json!(0), "n", ErrorCode::InvalidValue),
        ("n", json!(1e300), "n", ErrorCode::InvalidValue),
        ("max_tokens", json!(0), "max_tokens", ErrorCode::InvalidValue),
        ("seed", json!(1.5), "seed", ErrorCode::InvalidValue),
        ("stop", json!([""]), "stop[0]", ErrorCode::InvalidValue),
        ("stop", json!(vec!["x"; 1 << 18]), "stop", ErrorCode::TooMany),
        ("stop", json!(["x".repeat(300)]), "stop[0]", ErrorCode::InvalidValue),
        ("stop", json!(7), "stop", ErrorCode::InvalidType),
        ("logit_bias", json!({"x": 1}), "logit_bias", ErrorCode::InvalidValue),
        ("logit_bias", json!({"07": 1}), "logit_bias", ErrorCode::InvalidValue),
        ("logit_bias", json!({"7": 101}), "logit_bias.7", ErrorCode::InvalidValue),
        ("top_logprobs", json!(3), "top_logprobs", ErrorCode::Conflict),
        ("top_logprobs", json!(21), "top_logprobs", ErrorCode::InvalidValue),
        ("stream_options", json!({"include_usage": true}), "stream_options", ErrorCode::Conflict),
        (
            "stream_options",
            json!({"include_usages": true}),
            "stream_options.include_usages",
            ErrorCode::UnknownParameter,
        ),
        ("model", json!(""), "model", ErrorCode::InvalidValue),
        ("numerics", json!("f64"), "numerics", ErrorCode::InvalidValue),
        ("priority", json!("urgent"), "priority", ErrorCode::InvalidValue),
        ("deadline_ms", json!(0), "deadline_ms", ErrorCode::InvalidValue),
        ("functions", json!([]), "functions", ErrorCode::UnsupportedParameter),
        ("tempreature", json!(1), "tempreature", ErrorCode::UnknownParameter),
        ("modalities", json!(["audio"]), "modalities[0]", ErrorCode::UnsupportedValue),
        ("messages", json!([]), "messages", ErrorCode::InvalidValue),
        ("messages", json!("Hi"), "messages", ErrorCode::InvalidType),
        ("messages", Value::Null, "messages", ErrorCode::MissingParameter),
        ("messages", json!([{"role": "king", "content": ""}]), "messages[0].role", ErrorCode::InvalidValue),
        ("messages", json!([{"content": ""}]), "messages[0].role", ErrorCode::MissingParameter),
        (
            "messages",
            json!([{"role": "tool", "content": ""}]),
            "messages[0].tool_call_id",
            ErrorCode::MissingParameter,
        ),
        ("messages", json!([{"role": "assistant"}]), "messages[0].content", ErrorCode::MissingParameter),
        ("messages", user(image), "messages[1].content[1]", ErrorCode::UnsupportedContent),
        ("messages", user(json!([7])), "messages[1].content[0]", ErrorCode::InvalidType),
        ("messages", user(json!(null)), "messages[1].content", ErrorCode::MissingParameter),
        ("chat_template_kwargs", json!({"tools": 1}), "chat_template_kwargs.tools", ErrorCode::InvalidValue),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type", ErrorCode::UnsupportedValue),
        (
            "tools",
            json!([{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
            ErrorCode::InvalidValue,
        ),
        ("tool_choice", json!("required"), "tool_choice", ErrorCode::Conflict),
        ("response_format", json!({"type": "xml"}), "response_format.type", ErrorCode::InvalidValue),
        (
            "response_format",
            json!({"type": "json_schema"}),
            "response_format.json_schema",
            ErrorCode::MissingParameter,
        ),
    ] {
        let error = parse(&with(name, value.clone())).expect_err(name);
        assert_eq!((error.param(), error.code()), (Some(place), code), "{name}: {}", error.message());
        assert!(error.to_json().len() < 4096 && error.status() == 400);
    }
    let both = with("max_tokens", json!(1)).as_object().unwrap().clone();
    let both = Value::Object(both.into_iter().chain([("max_completion_tokens".into(), json!(2))]).collect());
    assert_eq!(parse(&both).unwrap_err().code(), ErrorCode::Conflict);
}

#[test]
fn tools_and_formats_become_a_constraint() {
    let tools = json!([
        {"type": "function", "function": {"name": "add", "description": "Adds.", "strict": true, "parameters": {
            "type": "object", "$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    let mut body = with("tools", tools);
    let request = parse(&body).unwrap();
    assert!(request.chat.tools.may_be_called());
    assert_eq!((request.constraint, request.chat.tools.definitions().len()), (Constraint::None, 2));
    body["tool_choice"] = json!("none");
    let request = parse(&body).unwrap();
    assert!(!request.chat.tools.may_be_called() && request.chat.tools.definitions().is_empty());
    body["tool_choice"] = json!({"type": "function", "function": {"name": "add"}});
    let request = parse(&body).unwrap();
    assert_eq!(request.chat.tools.choice, ToolChoice::Named("add".into()));
    let schema = request.constraint.schema().unwrap();
    assert_eq!(schema["$defs"]["tool_0"]["properties"]["a"]["$ref"], json!("#/$defs/tool_0/$defs/n"));
    assert_eq!(schema["anyOf"][0]["properties"]["name"]["const"], json!("add"));
    body["tool_choice"] = json!("required");
    let schema = parse(&body).unwrap().constraint.schema().unwrap();
    assert_eq!(
        (schema["type"].as_str(), schema["items"]["anyOf"].as_array().unwrap().len()),
        (Some("array"), 2)
    );
    body["tool_choice"] = json!("auto");
    body["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "array"}}});
    let schema = parse(&body).unwrap().constraint.schema().unwrap();
    assert_eq!(schema["$defs"]["answer"], json!({"type": "array"}));
    body["tool_choice"] = json!({"type": "function", "function": {"name": "sub"}});
    assert_eq!(parse(&body).unwrap_err().param(), Some("tool_choice"));
    let format = with("response_format", json!({"type": "json_object"}));
    assert_eq!(parse(&format).unwrap().constraint, Constraint::JsonObject);
    let huge = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": "x".repeat(70_000)}}});
    assert_eq!(
        parse(&with("response_format", huge)).unwrap_err().param(),
        Some("response_format.json_schema.schema")
    );
}

proptest! {
    #[test]
    fn any_value_of_any_parameter_is_taken_or_refused(at in 0usize..40, text in "[{}\\[\\]\",:0-9a-z]{0,40}", number: i64) {
        let name = parameters::names(CHAT).nth(at % parameters::names(CHAT).count()).unwrap();
        for value in [text.as_str(), &number.to_string(), &json!(text).to_string(), &format!("[{number}]")] {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"{name}":{value}}}"#);
            if let Err(error) = ChatRequest::parse(body.as_bytes()) {
                prop_assert_eq!(error.status(), 400);
            }
        }
    }
}
