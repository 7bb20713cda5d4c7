//! Responses as OpenAI's clients ask for them.

use proto_text::ChatMessage;
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::request::ToolChoice;

fn parse(body: &Value) -> Result<ResponsesRequest, ApiError> {
    ResponsesRequest::parse(body.to_string().as_bytes())
}

#[test]
fn a_conversation_with_calls_becomes_a_chat() {
    let request = parse(&json!({
        "model": "m", "instructions": "Be brief.", "max_output_tokens": 9, "store": true, "include": ["message.output_text.logprobs"],
        "input": [
            {"role": "user", "content": "Weather?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}", "status": "completed"},
            {"type": "function_call", "call_id": "call_2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "Sunny", "annotations": []}]},
        ],
    }))
    .unwrap();
    let messages = &request.chat.messages;
    assert_eq!(messages[0], ChatMessage::new("system", "Be brief."));
    assert_eq!(messages[1], ChatMessage::new("user", "Weather?"));
    assert_eq!((messages[2].tool_calls.len(), messages[2].reasoning_content.as_deref()), (2, Some("hm")));
    assert_eq!((messages[2].content.as_deref(), messages[3].tool_call_id.as_deref()), (None, Some("call_1")));
    assert_eq!(messages[4], ChatMessage::new("assistant", "Sunny"));
    assert_eq!((request.generation.max_tokens, request.generation.logprobs), (Some(9), Some(0)));
}

#[test]
fn flat_tools_and_formats_are_read() {
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true, "description": "d"});
    let mut body = json!({"input": "x", "tools": [tool], "tool_choice": {"type": "function", "name": "f"}});
    let request = parse(&body).unwrap();
    assert_eq!(request.chat.tools.choice, ToolChoice::Named("f".into()));
    assert_eq!(request.chat.tools.definitions()[0]["function"]["description"], json!("d"));
    assert!(matches!(request.constraint, Constraint::ToolCall(_)));
    let echo: Value =
        serde_json::from_str(&format!("{{\"a\":1{}}}", String::from_utf8(request.echo).unwrap())).unwrap();
    assert_eq!((&echo["tools"], &echo["tool_choice"]), (&body["tools"], &body["tool_choice"]));
    assert_eq!((&echo["metadata"], &echo["text"]["format"]["type"]), (&json!({}), &json!("text")));
    body["tool_choice"] = json!("none");
    body["text"] =
        json!({"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": true}});
    assert_eq!(parse(&body).unwrap().constraint, Constraint::JsonSchema(json!({"type": "object"})));
}

#[test]
fn what_needs_state_or_eyes_is_refused() {
    for (name, value, place, code) in [
        ("previous_response_id", json!("resp_1"), "previous_response_id", ErrorCode::UnsupportedParameter),
        ("conversation", json!("c"), "conversation", ErrorCode::UnsupportedParameter),
        ("background", json!(true), "background", ErrorCode::UnsupportedValue),
        ("truncation", json!("auto"), "truncation", ErrorCode::UnsupportedValue),
        (
            "input",
            json!([{"type": "item_reference", "id": "x"}]),
            "input[0].type",
            ErrorCode::UnsupportedValue,
        ),
        (
            "input",
            json!([{"role": "user", "content": [{"type": "input_image"}]}]),
            "input[0].content[0]",
            ErrorCode::UnsupportedContent,
        ),
        ("input", json!([]), "input", ErrorCode::InvalidValue),
        ("input", json!(7), "input", ErrorCode::InvalidType),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type", ErrorCode::UnsupportedValue),
        ("include", json!(["x"]), "include[0]", ErrorCode::InvalidValue),
        ("max_tokens", json!(1), "max_tokens", ErrorCode::UnknownParameter),
    ] {
        let mut body = json!({"input": "x"});
        body[name] = value;
        let error = parse(&body).expect_err(name);
        assert_eq!((error.param(), error.code()), (Some(place), code), "{}", error.message());
    }
}
