//! Streams against whole answers, and bytes as the API's clients read them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tools::ToolFormat;

fn head() -> AnswerHead {
    AnswerHead {
        id: "chatcmpl-1".into(),
        created: 7,
        model: "m".into(),
        system_fingerprint: "fp".into(),
    }
}

/// The objects of a stream, which must end as streams do.
fn events(out: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(out).unwrap();
    let text = text.strip_suffix(DONE).unwrap();
    text.split_terminator("\n\n").map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[test]
fn a_stream_of_a_chat_has_the_chunks_that_clients_expect() {
    let mut answer = ChatAnswer::new(head(), 1, None, false, true);
    let mut out = Vec::new();
    answer.begin(0, &mut out);
    answer.push(0, "Hé", &[], &mut out);
    answer.push(0, "", &[], &mut out);
    answer.end(0, FinishReason::Length, &mut out);
    answer.finish(Usage { prompt: 3, cached: 1, completion: 2 }, &mut out);
    let events = events(&out);
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|e| e["object"] == "chat.completion.chunk" && e["id"] == "chatcmpl-1"));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(events[1]["choices"][0], json!({"index": 0, "delta": {"content": "Hé"}, "finish_reason": null}));
    assert_eq!(events[2]["choices"][0], json!({"index": 0, "delta": {}, "finish_reason": "length"}));
    assert!(events[..3].iter().all(|e| e["usage"].is_null() && e.get("usage").is_some()));
    assert_eq!(events[3]["choices"], json!([]));
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1}});
    assert_eq!(events[3]["usage"], usage);
}

#[test]
fn calls_and_probabilities_are_told() {
    let mut answer = ChatAnswer::new(head(), 1, Some(ToolFormat::Tagged), true, false);
    let mut out = Vec::new();
    let half = TokenLogprob {
        bytes: vec![0xc3],
        logprob: f32::NEG_INFINITY,
        top: vec![TopLogprob { bytes: b"a".to_vec(), logprob: -0.5 }],
    };
    answer.push(0, "<tool_call>{\"name\":\"f\",\"arguments\":{}}", &[half], &mut out);
    answer.push(0, "</tool_call>", &[], &mut out);
    answer.end(0, FinishReason::Stop, &mut out);
    answer.finish(Usage::default(), &mut out);
    let events = events(&out);
    assert!(events[0].get("usage").is_none());
    let entry = json!({"token": "\u{fffd}", "logprob": -9999.0, "bytes": [0xc3],
        "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}]});
    assert_eq!(events[0]["choices"][0]["logprobs"]["content"][0], entry);
    let call = json!({"index": 0, "id": "call_chatcmpl-1_0_0", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    assert_eq!(events[1]["choices"][0]["delta"], json!({"tool_calls": [call]}));
    assert_eq!(events[2]["choices"][0]["finish_reason"], "tool_calls");
    let whole: Value = serde_json::from_str(&answer.whole(Usage::default())).unwrap();
    let choice = &whole["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&Value::Null, &"tool_calls".into()));
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), 1);
}

#[test]
fn a_completion_tells_probabilities_in_lists() {
    let mut answer = CompletionAnswer::new(head(), 2, true, false);
    let mut out = Vec::new();
    let token = |text: &str| TokenLogprob { bytes: text.into(), logprob: -1.0, top: Vec::new() };
    answer.push(1, "né", &[token("né")], &mut out);
    answer.push(1, "e", &[token("e")], &mut out);
    answer.end(1, FinishReason::Stop, &mut out);
    answer.end(0, FinishReason::Length, &mut out);
    answer.finish(Usage::default(), &mut out);
    assert_eq!(events(&out)[1]["choices"][0]["logprobs"]["text_offset"], json!([2]));
    let whole: Value = serde_json::from_str(&answer.whole(Usage::default())).unwrap();
    assert_eq!(whole["choices"][1]["text"], "née");
    assert_eq!(whole["choices"][1]["logprobs"]["text_offset"], json!([0, 2]));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
}

proptest! {
    #[test]
    fn the_pieces_of_a_stream_together_are_the_whole_answer(
        pieces in prop::collection::vec((0usize..3, prop::sample::select(vec![
            "a", " ", "é", "👩‍👩‍👧", "語", "e\u{301}", "<tool_call>", "{\"name\":\"f\",\"arguments\":{\"x\":\"🎉\"}}", "</tool_call>", "<",
        ])), 0..40),
        calls in any::<bool>(),
    ) {
        let mut answer = ChatAnswer::new(head(), 3, calls.then_some(ToolFormat::Tagged), false, false);
        let mut out = Vec::new();
        (0..3).for_each(|index| answer.begin(index, &mut out));
        for (index, piece) in &pieces {
            answer.push(*index, piece, &[], &mut out);
        }
        (0..3).for_each(|index| answer.end(index, FinishReason::Stop, &mut out));
        answer.finish(Usage::default(), &mut out);
        let whole: Value = serde_json::from_str(&answer.whole(Usage::default())).unwrap();
        for index in 0..3 {
            let chunks: Vec<Value> =
                events(&out).into_iter().map(|event| event["choices"][0].clone()).filter(|choice| choice["index"] == index).collect();
            let text: String = chunks.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
            let message = &whole["choices"][index]["message"];
            prop_assert_eq!(message["content"].as_str().unwrap_or_default(), text);
            let told: Vec<&Value> =
                chunks.iter().filter_map(|choice| choice["delta"]["tool_calls"].as_array()).flatten().map(|call| &call["function"]).collect();
            let found: Vec<&Value> = message["tool_calls"].as_array().into_iter().flatten().map(|call| &call["function"]).collect();
            prop_assert_eq!(told, found);
            prop_assert_eq!(&chunks.last().unwrap()["finish_reason"], &whole["choices"][index]["finish_reason"]);
        }
    }
}
