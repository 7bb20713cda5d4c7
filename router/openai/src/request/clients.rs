//! Requests with what clients and agents add to them: taken where nothing follows from it, refused by name where leaving it
//! out would change the answer.

use serde_json::{Value, json};

use super::{ChatRequest, CompletionRequest, ResponsesRequest};
use crate::error::ErrorCode::{UnknownParameter, UnsupportedContent, UnsupportedParameter};
use crate::error::{ApiError, ErrorCode};

fn chat(body: &Value) -> Result<ChatRequest, ApiError> {
    ChatRequest::parse(body.to_string().as_bytes())
}

fn plain() -> Value {
    json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": "Looking.", "reasoning_content": "hm",
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "22"},
    ], "tools": [{"type": "function", "function": {"name": "f"}}]})
}

#[test]
fn what_clients_add_changes_nothing() {
    let without = chat(&plain()).unwrap();
    let cache = json!({"type": "ephemeral"});
    let mut body = plain();
    for (name, value) in [
        ("store", json!(false)),
        ("metadata", json!({"user_id": "u"})),
        ("user", json!("u")),
        ("service_tier", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("prompt_cache_key", json!("k")),
        ("prompt_cache_retention", json!("24h")),
        ("safety_identifier", json!("s")),
        ("verbosity", json!("low")),
        ("reasoning_effort", json!("low")),
        ("reasoning", json!({"effort": "high", "exclude": true})),
        ("include_reasoning", json!(true)),
        ("thinking", json!({"type": "enabled", "budget_tokens": 1024})),
        ("cache_control", cache.clone()),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("audio", Value::Null),
        ("functions", Value::Null),
    ] {
        body[name] = value;
    }
    for message in body["messages"].as_array_mut().unwrap() {
        let role = message["role"].as_str().unwrap().to_owned();
        for name in ["cache_control", "annotations", "id", "metadata", "parsed", "provider_specific_fields"] {
            message[name] = json!({"any": [1]});
        }
        for name in ["reasoning_details", "thinking_blocks"] {
            message[name] = json!([{"type": "reasoning.text", "text": "hm"}]);
        }
        for name in ["audio", "function_call"] {
            message[name] = Value::Null;
        }
        if role != "assistant" {
            for name in ["refusal", "reasoning", "reasoning_content", "tool_calls", "name"] {
                message[name] = Value::Null;
            }
        }
    }
    body["messages"][1]["content"][0]["cache_control"] = cache.clone();
    let call = &mut body["messages"][2]["tool_calls"][0];
    (call["index"], call["extra_content"]) = (json!(0), json!({"google": {"thought_signature": "x"}}));
    call["function"]["parsed_arguments"] = json!({});
    // The other name of the same.
    body["messages"][2]["reasoning"] = json!("hm");
    body["messages"][2].as_object_mut().unwrap().remove("reasoning_content");
    body["messages"][3]["content"] = json!([{"type": "text", "text": "22", "cache_control": cache}]);
    body["tools"][0]["cache_control"] = cache.clone();
    body["tools"][0]["function"]["cache_control"] = cache;
    assert_eq!(chat(&body).unwrap(), without);
}

#[test]
fn responses_and_completions_take_what_clients_add() {
    let more = json!({"store": true, "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "service_tier": "flex",
        "prompt_cache_key": "k", "cache_control": {"type": "ephemeral"}});
    let with = |mut body: Value| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string().into_bytes()
    };
    let parse = |body: Value| ResponsesRequest::parse(&with(body)).unwrap();
    let item = json!({"role": "user", "id": "m", "cache_control": 1, "content": [
        {"type": "input_text", "text": "x", "cache_control": {"type": "ephemeral"}, "annotations": []}]});
    let extra = parse(
        json!({"input": [item], "reasoning": {"effort": "low", "summary": "auto"}, "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"}, "stop": ["a", "b"], "seed": 7}),
    );
    assert_eq!(extra.chat, parse(json!({"input": "x"})).chat);
    assert_eq!((extra.generation.stop, extra.generation.sampling.seed), (vec!["a".into(), "b".into()], 7));
    assert!(CompletionRequest::parse(&with(json!({"prompt": "x"}))).is_ok());
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    let mut told = 0;
    let mut refused = |change: &dyn Fn(&mut Value), place: &str, code: ErrorCode, cure: &str| {
        let mut body = plain();
        change(&mut body);
        let error = chat(&body).expect_err(place);
        assert_eq!(
            (error.param(), error.code(), error.status()),
            (Some(place), code, 400),
            "{}",
            error.message()
        );
        assert!(error.message().contains(cure), "{}", error.message());
        told += 1;
    };
    for (name, cure) in [
        ("audio", "only text"),
        ("functions", "`tools`"),
        ("web_search_options", "`tools`"),
        ("enable_thinking", "`chat_template_kwargs`"),
        ("guided_json", "`response_format`"),
        ("guided_regex", "`response_format`"),
    ] {
        refused(&|body| body[name] = json!({"any": 1}), name, UnsupportedParameter, cure);
    }
    refused(&|body| body["min_tokens"] = json!(5), "min_tokens", UnknownParameter, "min_tokens");
    for (at, name, value, cure) in [
        (2, "audio", json!({"id": "audio_1"}), "only text"),
        (2, "function_call", json!({"name": "f", "arguments": "{}"}), "`tool_calls`"),
        (1, "audio", json!({"id": "audio_1"}), "only text"),
        (1, "tool_calls", json!([]), "only an assistant's"),
        (1, "tool_call_id", json!("c"), "only a tool's"),
        (0, "reasoning_content", json!("hm"), "only an assistant's"),
    ] {
        let place = format!("messages[{at}].{name}");
        refused(&|body| body["messages"][at][name] = value.clone(), &place, UnsupportedParameter, cure);
    }
    let nonsense = "messages[0].nonsense";
    refused(&|body| body["messages"][0]["nonsense"] = Value::Null, nonsense, UnknownParameter, "nonsense");
    for kind in ["image_url", "input_audio", "file", "video_url", "input_image", "document"] {
        let change =
            |body: &mut Value| body["messages"][1]["content"][0] = json!({"type": kind, kind: {"url": "x"}});
        refused(&change, "messages[1].content[0]", UnsupportedContent, kind);
    }
    assert_eq!(told, 20);
}
