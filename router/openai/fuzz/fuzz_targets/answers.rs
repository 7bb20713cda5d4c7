//! Any text as a model's answer to a chat with tools, cut anywhere: what is written is JSON, and the pieces of a stream come
//! to the answer at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use router_openai::{ChatRequest, Delta, Finish, Head, Reading, Usage};
use serde_json::Value;

const TEMPLATES: [&str; 4] =
    ["{{ tools }}<tool_call><think>", "{{ tools }}[TOOL_CALLS]", "{{ tools }}<|python_tag|>", "{{ tools }}"];
const CHOICES: [&str; 3] =
    ["\"auto\"", "\"required\"", r#"{"type":"function","function":{"name":"f"}}"#];

/// An answer's bytes.
fn answer(request: &ChatRequest, template: &str, text: &str, step: usize) -> Vec<u8> {
    let reading = Reading::new(&request.chat, &request.constraint, template, "");
    let mut writer = request.writer(&Head::default(), &reading);
    let mut out = Vec::new();
    writer.begin(&mut out);
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest.ceil_char_boundary(step.min(rest.len()));
        writer.push(0, &Delta::token(&rest[..cut]), &mut out);
        rest = &rest[cut..];
    }
    writer.finish(0, Finish::Stop, &mut out);
    writer.end(&Usage::default(), &mut out);
    out
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fuzz_target!(|data: &[u8]| {
    let [template, choice, step, text @ ..] = data else { return };
    let (template, choice) = (TEMPLATES[*template as usize % 4], CHOICES[*choice as usize % 3]);
    let text = String::from_utf8_lossy(text);
    let request = |stream: bool| {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"x"}}],"stream":{stream},"tool_choice":{choice},"tools":[
                {{"type":"function","function":{{"name":"f"}}}},{{"type":"function","function":{{"name":"g-1"}}}}]}}"#
        );
        ChatRequest::parse(body.as_bytes()).expect("it is a request")
    };
    let whole = answer(&request(false), template, &text, text.len().max(1));
    let whole: Value = serde_json::from_slice(&whole).expect("an answer is JSON");
    let message = &whole["choices"][0]["message"];
    let streamed = answer(&request(true), template, &text, *step as usize % 16 + 1);
    let streamed = String::from_utf8(streamed).expect("a stream is UTF-8");
    let (mut content, mut thoughts, mut calls) = (String::new(), String::new(), Vec::<(String, String)>::new());
    for line in streamed.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]") {
        let chunk: Value = serde_json::from_str(line).expect("a chunk is JSON");
        let delta = &chunk["choices"][0]["delta"];
        content.push_str(words(&delta["content"]));
        thoughts.push_str(words(&delta["reasoning_content"]));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"].as_u64().expect("a call has its place") as usize;
            calls.resize(calls.len().max(at + 1), (String::new(), String::new()));
            calls[at].0.push_str(words(&call["function"]["name"]));
            calls[at].1.push_str(words(&call["function"]["arguments"]));
        }
    }
    assert_eq!(content, words(&message["content"]));
    assert_eq!(thoughts, words(&message["reasoning_content"]));
    let told = message["tool_calls"].as_array().into_iter().flatten();
    let told = told.map(|call| (words(&call["function"]["name"]).into(), words(&call["function"]["arguments"]).into()));
    assert_eq!(calls, told.collect::<Vec<(String, String)>>());
});
