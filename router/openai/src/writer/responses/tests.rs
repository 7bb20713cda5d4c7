//! The events of a response, and that they make up the whole.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::calls::ToolFormat;
use crate::writer::{Thinking, TokenLogprob};

fn request(stream: bool) -> ResponsesRequest {
    let body = json!({"input": "x", "stream": stream, "model": "m", "include": ["message.output_text.logprobs"],
        "tools": [{"type": "function", "name": "f"}]});
    ResponsesRequest::parse(body.to_string().as_bytes()).unwrap()
}

fn head() -> Head {
    Head { id: "resp_1".into(), created: 7, model: "m".into(), system_fingerprint: "fp".into() }
}

fn reading(request: &ResponsesRequest) -> Reading {
    let tools = request.chat.tools.list.as_slice().into();
    Reading { thinking: Thinking::MayBegin, calls: Some((ToolFormat::Hermes, tools)) }
}

fn run(stream: bool, pieces: &[&str], finish: Finish) -> Vec<u8> {
    let request = request(stream);
    let mut writer = ResponsesWriter::new(&request, &head(), &reading(&request));
    let mut out = Vec::new();
    writer.begin(&mut out);
    for piece in pieces {
        let logprob = TokenLogprob { bytes: b"t", logprob: -1.0, top: &[] };
        writer.push(0, &Delta::token(piece).with_logprob(logprob), &mut out);
    }
    writer.finish(0, finish, &mut out);
    writer.end(&Usage { prompt: 5, cached: 4, completion: 3, waste: 0 }, &mut out);
    out
}

/// The events, whose names and numbers are checked.
fn events(out: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(out).unwrap();
    let event = |(number, event): (usize, &str)| -> Value {
        let (name, data) = event.split_once('\n').unwrap();
        let value: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name, format!("event: {}", value["type"].as_str().unwrap()));
        assert_eq!(value["sequence_number"], json!(number));
        value
    };
    text.strip_suffix("\n\n").unwrap().split("\n\n").enumerate().map(event).collect()
}

#[test]
fn events_come_in_openais_order() {
    let pieces = [
        "<think>hm",
        "</think>Let me ",
        "see.\n<tool_call>{\"name\": \"f\", \"arguments\": {",
        "}}</tool_call>",
    ];
    let events = events(&run(true, &pieces, Finish::Stop));
    let names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(events[0]["response"]["output"], json!([]));
    let response = &events[20]["response"];
    assert_eq!(
        (response["status"].as_str(), response["output"].as_array().unwrap().len()),
        (Some("completed"), 3)
    );
    assert_eq!(response["output"][1]["content"][0]["text"], json!("Let me see."));
    assert_eq!(response["output"][2]["arguments"], json!("{}"));
    assert_eq!(response["output"][2]["call_id"], events[15]["item"]["call_id"]);
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], json!(4));
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], json!(1));
    assert_eq!((&events[18]["name"], &events[18]["arguments"]), (&json!("f"), &json!("{}")));
}

#[test]
fn what_is_cut_off_or_fails_says_so() {
    let whole: Value = serde_json::from_slice(&run(false, &["Hi"], Finish::Length)).unwrap();
    assert_eq!((&whole["status"], &whole["object"]), (&json!("incomplete"), &json!("response")));
    assert_eq!(whole["incomplete_details"]["reason"], json!("max_output_tokens"));
    assert_eq!(whole["output"][0]["status"], json!("incomplete"));
    let empty: Value = serde_json::from_slice(&run(false, &[], Finish::Stop)).unwrap();
    assert_eq!(empty["output"][0]["content"][0]["text"], json!(""));
    let request = request(true);
    let mut writer = ResponsesWriter::new(&request, &head(), &reading(&request));
    let mut out = Vec::new();
    writer.begin(&mut out);
    writer.fail(&ApiError::new(crate::ErrorCode::NodesFailed, "lost", "try again"), &mut out);
    let events = events(&out);
    assert_eq!(events[2]["response"]["error"], json!({"code": "server_error", "message": "lost; try again"}));
}

proptest! {
    #[test]
    fn events_make_up_the_whole(
        parts in prop::collection::vec(prop::sample::select(vec!["<think>", "</think>", "<tool_call>", "</tool_call>",
            "{\"name\": \"f\", \"arguments\": ", "{\"a\": \"", "😀", "你", "e\u{301}", "\"}}", " ", "<"]), 0..20),
        finish in prop::sample::select(vec![Finish::Stop, Finish::Length]),
    ) {
        let text = parts.concat();
        let events = events(&run(true, &parts, finish));
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        let whole: Value = serde_json::from_slice(&run(false, &letters, finish)).unwrap();
        let last = &events.last().unwrap()["response"];
        // Cut otherwise, the text has other tokens, and so other probabilities.
        let plain = |output: &Value| {
            let mut output = output.clone();
            for part in output.as_array_mut().unwrap().iter_mut().filter_map(|item| item.get_mut("content")) {
                part[0]["logprobs"] = json!(null);
            }
            output
        };
        prop_assert_eq!(plain(&last["output"]), plain(&whole["output"]));
        let mut texts = vec![String::new(); whole["output"].as_array().unwrap().len()];
        for event in events.iter().filter(|event| event.get("delta").is_some()) {
            texts[event["output_index"].as_u64().unwrap() as usize].push_str(event["delta"].as_str().unwrap());
        }
        for (item, text) in whole["output"].as_array().unwrap().iter().zip(texts) {
            let own = item["arguments"].as_str().unwrap_or_else(|| item["content"][0]["text"].as_str().unwrap());
            prop_assert_eq!(own, text);
        }
    }
}
