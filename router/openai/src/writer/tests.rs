//! Bytes as OpenAI's clients read them, and that a stream's pieces are the whole answer.

use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::calls::ToolFormat;
use crate::request::{Chat, ChatRequest, Constraint};

fn head() -> Head {
    Head { id: "chatcmpl-1".into(), created: 7, model: "m".into(), system_fingerprint: "fp".into() }
}

fn request(more: &Value) -> ChatRequest {
    let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    ChatRequest::parse(body.to_string().as_bytes()).unwrap()
}

fn usage() -> Usage {
    Usage { prompt: 5, cached: 4, completion: 3, waste: 2 }
}

/// The objects of a stream that ends as it must.
fn chunks(stream: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stream).unwrap();
    let mut events: Vec<&str> = text.strip_suffix("\n\n").unwrap().split("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[test]
fn a_stream_is_openais_byte_for_byte() {
    let request = request(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut stream = ChatStream::new(&request, &head(), &Reading::default());
    let mut out = Vec::new();
    stream.begin(&mut out);
    stream.push(0, &Delta::token("Hi \"é\"\n"), &mut out);
    stream.push(0, &Delta::token(""), &mut out);
    stream.push(1, &Delta::token("nobody"), &mut out);
    stream.finish(0, Finish::Stop, &mut out);
    stream.end(&usage(), &mut out);
    let chunk = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":7,\"model\":\"m\",\
             \"system_fingerprint\":\"fp\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n"
        )
    };
    let expected = [
        chunk(
            r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}"#,
            "null",
        ),
        chunk(r#"{"index":0,"delta":{"content":"Hi \"é\"\n"},"logprobs":null,"finish_reason":null}"#, "null"),
        chunk(r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#, "null"),
        chunk(
            "",
            r#"{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":0,"waste_tokens":2}}"#,
        ),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(String::from_utf8(out).unwrap(), expected.concat());
}

#[test]
fn calls_are_streamed_and_counted() {
    let request =
        request(&json!({"stream": true, "tools": [{"type": "function", "function": {"name": "f"}}]}));
    let reading = Reading::new(&request.chat, &Constraint::None, "<tool_call></think>", "..<think>\n");
    assert_eq!((reading.thinking, reading.markers().count()), (Thinking::Begun, 4));
    let mut stream = ChatStream::new(&request, &head(), &reading);
    let mut out = Vec::new();
    for text in
        ["hm", "</think>\n\n<tool_", "call>{\"name\": \"f\", \"argum", "ents\": {\"a\": ", "1}}</tool_call>"]
    {
        stream.push(0, &Delta::token(text), &mut out);
    }
    stream.finish(0, Finish::Stop, &mut out);
    stream.end(&usage(), &mut out);
    let chunks = chunks(&out);
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let call = &deltas[1]["tool_calls"][0];
    assert_eq!(deltas[0], &json!({"reasoning_content": "hm"}));
    assert_eq!((call["index"].as_u64(), call["type"].as_str()), (Some(0), Some("function")));
    assert_eq!(call["function"], json!({"name": "f", "arguments": ""}));
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(deltas[2]["tool_calls"], json!([{"index": 0, "function": {"arguments": "{\"a\": "}}]));
    assert_eq!(deltas[3]["tool_calls"], json!([{"index": 0, "function": {"arguments": "1}"}}]));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], json!("tool_calls"));
}

#[test]
fn probabilities_have_the_bytes_of_half_characters() {
    let request = request(&json!({"stream": true, "logprobs": true, "top_logprobs": 2}));
    let mut stream = ChatStream::new(&request, &head(), &Reading::default());
    let mut out = Vec::new();
    let halves: [&[u8]; 2] = [&"é".as_bytes()[..1], &"é".as_bytes()[1..]];
    let top: &[(&[u8], f32)] = &[(halves[0], -0.5), (b"x", f32::NEG_INFINITY)];
    for (half, text) in halves.into_iter().zip(["", "é"]) {
        let logprob = TokenLogprob { bytes: half, logprob: -0.5, top };
        stream.push(0, &Delta::token(text).with_logprob(logprob), &mut out);
    }
    stream.finish(0, Finish::Length, &mut out);
    stream.end(&usage(), &mut out);
    let chunks = chunks(&out);
    let tokens = &chunks[0]["choices"][0]["logprobs"]["content"];
    assert_eq!(tokens.as_array().unwrap().len(), 2);
    assert_eq!((&tokens[0]["bytes"], &tokens[1]["bytes"]), (&json!([0xc3]), &json!([0xa9])));
    assert_eq!((&tokens[0]["token"], &tokens[0]["logprob"]), (&json!("\u{fffd}"), &json!(-0.5)));
    assert_eq!(tokens[0]["top_logprobs"][1], json!({"token": "x", "bytes": [120], "logprob": -9999.0}));
    assert_eq!(
        chunks[1]["choices"][0],
        json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"})
    );
}

#[test]
fn a_failed_stream_tells_it_and_a_failed_object_is_nothing() {
    let (request, error) =
        (request(&json!({})), ApiError::new(crate::ErrorCode::NodesFailed, "lost", "try again"));
    let mut out = Vec::new();
    ChatWhole::new(&request, &head(), &Reading::default()).fail(&error, &mut out);
    assert!(out.is_empty());
    ChatStream::new(&request, &head(), &Reading::default()).fail(&error, &mut out);
    assert!(out.starts_with(b"data: {\"error\":{\"message\":\"lost; try again\"") && out.ends_with(b"}\n\n"));
}

#[test]
fn a_token_costs_little() {
    let request = request(&json!({"stream": true}));
    let mut stream = ChatStream::new(&request, &head(), &Reading::default());
    let mut out = Vec::new();
    let tokens: u32 = 200_000;
    #[expect(clippy::disallowed_methods, reason = "the test measures the cost of a token")]
    let begun = Instant::now();
    for _ in 0..tokens {
        out.clear();
        stream.push(0, &Delta::token(" gravity"), &mut out);
    }
    // About 0.1 us on an idle machine; the bound leaves room for a busy one.
    assert!(begun.elapsed().as_nanos() / u128::from(tokens) < 2_000, "{:?}", begun.elapsed() / tokens);
}

/// What a client puts together from a stream's chunks, as `message`, `logprobs` and `finish_reason` of each choice.
fn collected(chunks: &[Value], choices: usize) -> Vec<Value> {
    let message = || json!({"content": "", "reasoning_content": "", "tool_calls": []});
    let mut all = vec![json!({"message": message(), "logprobs": [], "finish_reason": null}); choices];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let own = &mut all[choice["index"].as_u64().unwrap() as usize];
        for name in ["content", "reasoning_content"] {
            if let Some(text) = choice["delta"][name].as_str() {
                own["message"][name] = json!(format!("{}{text}", own["message"][name].as_str().unwrap()));
            }
        }
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let calls = own["message"]["tool_calls"].as_array_mut().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                let mut call = call.clone();
                call.as_object_mut().unwrap().remove("index");
                calls.push(call);
            } else {
                let more = call["function"]["arguments"].as_str().unwrap();
                let known = calls[index]["function"]["arguments"].as_str().unwrap();
                calls[index]["function"]["arguments"] = json!(format!("{known}{more}"));
            }
        }
        let logprobs = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        own["logprobs"].as_array_mut().unwrap().extend(logprobs);
        if !choice["finish_reason"].is_null() {
            own["finish_reason"] = choice["finish_reason"].clone();
        }
    }
    all
}

fn of_whole(object: &Value) -> Vec<Value> {
    let or = |value: &Value, otherwise: Value| if value.is_null() { otherwise } else { value.clone() };
    let choice = |choice: &Value| {
        let message = &choice["message"];
        json!({
            "message": {
                "content": or(&message["content"], json!("")),
                "reasoning_content": or(&message["reasoning_content"], json!("")),
                "tool_calls": or(&message["tool_calls"], json!([])),
            },
            "logprobs": or(&choice["logprobs"]["content"], json!([])),
            "finish_reason": choice["finish_reason"],
        })
    };
    object["choices"].as_array().unwrap().iter().map(choice).collect()
}

fn text() -> impl Strategy<Value = String> {
    let parts = vec![
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"f\", \"arguments\": ",
        "{\"a\": \"",
        "😀",
        "你好",
        "e\u{301}",
        "\"}",
        "}",
        "[TOOL_CALLS]",
        "f[ARGS]",
        " ",
        "\n",
        "<",
        "a",
        "[",
        "]",
        "👩\u{200d}🚀",
    ];
    prop::collection::vec(prop::sample::select(parts), 0..25).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_streams_pieces_are_the_whole_answer(
        texts in prop::collection::vec(text(), 1..4),
        cuts in prop::collection::vec(1usize..5, 1..20),
        other_cuts in prop::collection::vec(1usize..5, 1..20),
        format in prop::sample::select(vec![None, Some(ToolFormat::Hermes), Some(ToolFormat::Llama), Some(ToolFormat::Mistral), Some(ToolFormat::Json)]),
        thinking in prop::sample::select(vec![Thinking::Off, Thinking::MayBegin, Thinking::Begun]),
        finish in prop::sample::select(vec![Finish::Stop, Finish::Length]),
    ) {
        let request = request(&json!({"stream": true, "n": texts.len(), "logprobs": true,
            "tools": [{"type": "function", "function": {"name": "f"}}]}));
        let reading = Reading { thinking, calls: format.map(|format| (format, request.chat.tools.list.as_slice().into())) };
        let run = |writer: &mut dyn AnswerWriter, cuts: &[usize]| {
            let mut out = Vec::new();
            writer.begin(&mut out);
            // Choices by turns.
            let mut rest: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut cuts = cuts.iter().cycle();
            while rest.iter().any(|rest| !rest.is_empty()) {
                for (index, rest) in rest.iter_mut().enumerate().filter(|(_, rest)| !rest.is_empty()) {
                    let end = rest.char_indices().nth(*cuts.next().unwrap()).map_or(rest.len(), |(at, _)| at);
                    writer.push(index as u32, &Delta::token(&rest[..end]), &mut out);
                    *rest = &rest[end..];
                }
            }
            (0..texts.len()).for_each(|index| writer.finish(index as u32, finish, &mut out));
            writer.end(&usage(), &mut out);
            out
        };
        let stream = run(&mut ChatStream::new(&request, &head(), &reading), &cuts);
        let whole = run(&mut ChatWhole::new(&request, &head(), &reading), &other_cuts);
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        prop_assert_eq!(collected(&chunks(&stream), texts.len()), of_whole(&whole));
        if format.is_none() && thinking == Thinking::Off {
            prop_assert_eq!(&of_whole(&whole)[0]["message"]["content"], &json!(texts[0]));
        }
    }
}

#[test]
fn a_grammar_decides_how_the_text_is_read() {
    let constraint = Constraint::JsonObject;
    assert_eq!(Reading::new(&Chat::default(), &constraint, "</think>", "<think>"), Reading::default());
}
