//! Bodies as clients write them, and as nobody should.

use super::*;

fn parse(body: &str) -> Result<ChatRequest, ApiError> {
    ChatRequest::parse(body.as_bytes())
}

/// With these further fields.
fn with(fields: &str) -> Result<ChatRequest, ApiError> {
    parse(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#))
}

#[test]
fn a_whole_request_is_read() {
    let request = with(
        r#""max_completion_tokens":7,"temperature":0,"top_p":0.5,"top_k":-1,"min_p":0.1,"seed":-1,"stop":["a","b"],
        "n":2,"logprobs":true,"top_logprobs":3,"stream":true,"stream_options":{"include_usage":true},
        "logit_bias":{"5":-100},"user":"u","metadata":{"a":1},"store":false,"numerics":"bf16","priority":"high",
        "deadline_ms":5,"response_format":{"type":"json_object"},"chat_template_kwargs":{"enable_thinking":false}"#,
    )
    .unwrap();
    let asked = &request.asked;
    assert_eq!((asked.choices, asked.max_tokens, asked.logprobs), (2, Some(7), Some(3)));
    assert_eq!((asked.sampling.temperature, asked.sampling.top_k, asked.sampling.seed), (0.0, 0, u64::MAX));
    assert_eq!((&asked.stop[..], asked.include_usage), (&["a".to_owned(), "b".to_owned()][..], true));
    assert_eq!(asked.sampling.logit_bias, [(5, -100.0)]);
    assert_eq!((request.format, request.template_values.len()), (ResponseFormat::JsonObject, 1));
    let plain = with(r#""stream":false"#).unwrap();
    assert_eq!((plain.asked.sampling.temperature, plain.asked.seeded, plain.asked.max_tokens), (1.0, false, None));
}

#[test]
fn messages_keep_what_templates_need() {
    let request = parse(
        r#"{"model":"m","messages":[
            {"role":"developer","content":[{"type":"text","text":"be "},{"type":"text","text":"kind"}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
                "function":{"name":"f","arguments":"{\"x\":1}"}}],"refusal":null},
            {"role":"tool","tool_call_id":"c","content":"7"}]}"#,
    )
    .unwrap();
    assert_eq!((&request.messages[0].role[..], &request.messages[0].content[..]), ("system", "be kind"));
    assert_eq!(request.messages[1].more["content"], Value::Null);
    assert_eq!(request.messages[1].more["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    assert_eq!(request.messages[2].more["tool_call_id"], "c");
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (fields, param, word) in [
        (r#""tempreature":1"#, "tempreature", "`temperature` is known"),
        (r#""temperature":"hot""#, "temperature", "invalid type"),
        (r#""temperature":3"#, "temperature", "0 to 2"),
        (r#""temperature":1e99"#, "temperature", "not within"),
        (r#""max_tokens":0"#, "max_tokens", "at least 1"),
        (r#""max_tokens":-1"#, "max_tokens", "invalid value"),
        (r#""max_tokens":3,"max_completion_tokens":4"#, "max_completion_tokens", "give one"),
        (r#""n":0"#, "n", "1 to 16"),
        (r#""n":1000000"#, "n", "1 to 16"),
        (r#""top_logprobs":2"#, "top_logprobs", "only with"),
        (r#""logprobs":true,"top_logprobs":21"#, "top_logprobs", "over 20"),
        (r#""logit_bias":{"x":1}"#, "logit_bias", "no token id"),
        (r#""logit_bias":{"1":101}"#, "logit_bias", "-100 to 100"),
        (r#""stream_options":{}"#, "stream_options", "only with"),
        (r#""stop":7"#, "stop", "a text or a list"),
        (r#""functions":[]"#, "functions", "give `tools`"),
        (r#""response_format":{"type":"xml"}"#, "response_format.type", "one of text"),
        (r#""response_format":{"type":"json_schema"}"#, "response_format.json_schema", "a `schema`"),
        (r#""response_format":{"type":"json_schema","json_schema":{"name":"a","schema":7}}"#, "response_format.json_schema.schema", "an? JSON object"),
        (r#""priority":"urgent""#, "priority", "urgent"),
        (r#""deadline_ms":0"#, "deadline_ms", "not within"),
        (r#""numerics":"f64""#, "numerics", "f64"),
        (r#""tool_choice":"required""#, "tool_choice", "empty"),
    ] {
        let error = with(fields).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{fields}: {error:?}");
        assert!(error.message.contains(word) || word.contains('?'), "{fields}: {}", error.message);
    }
    for (body, param, word) in [
        (r#"{"messages":[{"role":"user","content":"x"}]}"#, Some("model"), "needed"),
        (r#"{"model":"m"}"#, Some("messages"), "needed"),
        (r#"{"model":"m","messages":[]}"#, Some("messages"), "empty"),
        (r#"{"model":"m","messages":"hi"}"#, Some("messages"), "a list"),
        (r#"{"model":"m","messages":[{"role":"king","content":"x"}]}"#, Some("messages[0].role"), "one of"),
        (r#"{"model":"m","messages":[{"role":"user"}]}"#, Some("messages[0].content"), "missing"),
        (r#"{"model":"m","messages":[{"role":"tool","content":"x"}]}"#, Some("messages[0].tool_call_id"), "names"),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#,
            Some("messages[0].content"),
            "image_url",
        ),
        ("", None, "no JSON object"),
        ("[]", None, "no JSON object"),
        ("{", None, "no JSON"),
        (r#"{"model":"m","model":"n"}"#, None, "duplicate"),
        (r#"{"model":"\ud800"}"#, None, "no JSON"),
    ] {
        let error = parse(body).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, param), "{body}: {error:?}");
        assert!(error.message.contains(word), "{body}: {}", error.message);
    }
    assert!(ChatRequest::parse(b"{\"model\":\"\xff\"}").unwrap_err().message.contains("UTF-8"));
}

#[test]
fn large_and_deep_bodies_end_early() {
    let stops = format!(r#""stop":[{}"x"]"#, r#""x","#.repeat(1 << 20));
    assert!(with(&stops).unwrap_err().message.contains("more than"));
    let deep = format!(r#""metadata":{}1{}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(with(&deep).is_err());
    let schema = format!(r#""response_format":{{"type":"json_schema","json_schema":{{"schema":{{"enum":["{}"]}}}}}}"#, "x".repeat(70_000));
    assert!(with(&schema).unwrap_err().message.contains("at most 65536"));
    let name = "x".repeat(100_000);
    let error = with(&format!(r#""{name}":1"#)).unwrap_err();
    assert!(error.to_json().len() < 1000, "errors repeat no more than a little");
}
