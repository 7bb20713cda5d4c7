//! The OpenAI API over a toy that talks: its shape on every path, web pages, and requests that nobody should send.

use std::net::SocketAddr;

use cluster_tests::http::{self, Answer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::serve::TestServer;
use crate::swarm::{PATIENCE, Settings, ToySwarm};

/// The endpoints that take a body, with the least that each of them takes.
pub(crate) fn endpoints() -> [(&'static str, Value); 6] {
    [
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})),
        ("/v1/completions", json!({"prompt": "hi", "max_tokens": 4})),
        ("/v1/responses", json!({"input": "hi", "max_output_tokens": 4})),
        ("/tokenize", json!({"prompt": "hi"})),
        ("/detokenize", json!({"tokens": [1]})),
        ("/v1/embeddings", json!({"input": "hi"})),
    ]
}

/// Sends a request with these headers, each ended by CR LF.
pub(crate) async fn send(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}{length}\r\n");
    let bytes = [head.as_bytes(), body].concat();
    timeout(PATIENCE, http::send(addr, &bytes)).await.unwrap().unwrap()
}

pub(crate) async fn post(addr: SocketAddr, path: &str, body: &[u8]) -> Answer {
    send(addr, "POST", path, "content-type: application/json\r\n", body).await
}

/// The status and the object of an error, which must have OpenAI's shape.
pub(crate) async fn error(answer: Answer) -> (u16, Value) {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status = answer.status;
    let text = answer.text().await.unwrap();
    assert!(text.len() < 8192, "an error of {} bytes", text.len());
    let object: Value = serde_json::from_str(&text).unwrap();
    let error = object["error"].clone();
    let words = |name: &str| error[name].as_str().is_some_and(|words| !words.is_empty());
    assert!(words("message") && words("type") && words("code"), "{object}");
    assert!(error["param"].is_string() || error["param"].is_null(), "{object}");
    (status, error)
}

/// It is still there: an answer of the chat endpoint.
async fn still_answers(addr: SocketAddr) {
    let (path, body) = &endpoints()[0];
    let answer = post(addr, path, body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().await.unwrap()["usage"]["completion_tokens"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_paths_and_methods_are_told_in_openais_shape() {
    let swarm = ToySwarm::start(Settings::talking(1)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    for (method, path, status, code) in [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/generate", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("POST", "/v1/images/generations", 400, "unsupported_operation"),
        ("POST", "/v1/images/edits", 400, "unsupported_operation"),
        ("POST", "/v1/audio/speech", 400, "unsupported_operation"),
        ("POST", "/v1/audio/transcriptions", 400, "unsupported_operation"),
        ("GET", "/v1/assistants", 400, "unsupported_operation"),
        ("POST", "/v1/threads/thread_1/runs", 400, "unsupported_operation"),
        ("GET", "/v1/files", 400, "unsupported_operation"),
        ("DELETE", "/v1/files/file_1", 400, "unsupported_operation"),
        ("POST", "/v1/batches", 400, "unsupported_operation"),
        ("POST", "/v1/fine_tuning/jobs", 400, "unsupported_operation"),
        ("POST", "/v1/moderations", 400, "unsupported_operation"),
        ("GET", "/v1/responses/resp_1", 400, "unsupported_operation"),
        ("GET", "/v1", 404, "not_found"),
        ("POST", "/v1/chat/completions/", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/%ff%fe", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/models/%ff", 400, "invalid_value"),
        ("GET", "/v1/models/%20", 404, "model_not_found"),
    ] {
        let (got, error) = error(send(server.addr, method, path, "", b"").await).await;
        assert_eq!((got, error["code"].as_str()), (status, Some(code)), "{method} {path}: {error}");
        let words = error["message"].as_str().unwrap();
        assert!(
            code != "unsupported_operation" || words.contains("not supported") && words.contains(path),
            "{words}"
        );
    }
    // A file that is sent to one of them is no hang and no reset.
    let upload = vec![b'x'; 1 << 20];
    let (status, told) = error(post(server.addr, "/v1/files", &upload).await).await;
    assert_eq!((status, told["code"].as_str()), (400, Some("unsupported_operation")));
    still_answers(server.addr).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_allowed_origins_are_served_and_those_of_others_refused() {
    const PAGE: &str = "https://chat.example.org";
    let swarm = ToySwarm::start(Settings::talking(1)).await;
    let (path, body) = &endpoints()[0];
    let body = body.to_string().into_bytes();
    let preflight = |addr, origin: &str| {
        let headers = format!(
            "origin: {origin}\r\naccess-control-request-method: POST\r\n\
             access-control-request-headers: authorization,content-type,x-stainless-os\r\n"
        );
        async move { send(addr, "OPTIONS", path, &headers, b"").await }
    };
    let ask = |addr, origin: &str| {
        let (headers, body) = (format!("content-type: text/plain\r\norigin: {origin}\r\n"), body.clone());
        async move { send(addr, "POST", path, &headers, &body).await }
    };

    // By default none.
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    assert_eq!(preflight(server.addr, PAGE).await.header("access-control-allow-origin"), None);
    let (status, told) = error(ask(server.addr, PAGE).await).await;
    assert_eq!((status, told["code"].as_str()), (403, Some("permission_denied")));
    assert!(told["message"].as_str().unwrap().contains("--allow-origin"), "{told}");
    still_answers(server.addr).await;
    server.stop().await;

    let server = TestServer::start(&swarm, 101, |config| config.origins = vec![PAGE.parse().unwrap()]).await;
    let allowed = preflight(server.addr, PAGE).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some(PAGE)));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("POST"));
    let headers = allowed.header("access-control-allow-headers").unwrap();
    assert!(["authorization", "content-type", "x-stainless-os"].iter().all(|name| headers.contains(name)));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    let answer = ask(server.addr, PAGE).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(PAGE)));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("x-request-id"));
    // Errors, too, can be read by the page.
    let wrong = send(server.addr, "GET", "/v1/nothing", &format!("origin: {PAGE}\r\n"), b"").await;
    assert_eq!((wrong.status, wrong.header("access-control-allow-origin")), (404, Some(PAGE)));
    for other in
        ["https://evil.example.org", "https://chat.example.org:8443", "http://chat.example.org", "null"]
    {
        assert_eq!(
            preflight(server.addr, other).await.header("access-control-allow-origin"),
            None,
            "{other}"
        );
        let refused = ask(server.addr, other).await;
        assert_eq!(refused.header("access-control-allow-origin"), None, "{other}");
        assert_eq!(error(refused).await.0, 403, "{other}");
    }
    server.stop().await;

    let server = TestServer::start(&swarm, 102, |config| config.origins = vec!["*".parse().unwrap()]).await;
    let answer = ask(server.addr, "null").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_nobody_should_send_name_what_is_wrong_on_every_endpoint() {
    let swarm = ToySwarm::start(Settings::talking(1)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(500_000), close.repeat(500_000));
    for (path, least) in endpoints() {
        let with = |field: &str, value: &str| {
            let least = least.to_string();
            format!("{},\"{field}\":{value}}}", &least[..least.len() - 1])
        };
        let needed = least.as_object().unwrap().keys().next().unwrap().clone();
        let cases: Vec<(Vec<u8>, &str, Option<String>)> = vec![
            (b"".to_vec(), "invalid_json", None),
            (b"{".to_vec(), "invalid_json", None),
            (b"[1,2]".to_vec(), "invalid_json", None),
            (b"\"x\"".to_vec(), "invalid_json", None),
            (b"{\"model\":\"\xf0\x28\x8c\x28\"}".to_vec(), "invalid_json", None),
            (b"{\"model\":\"\xed\xa0\x80\"}".to_vec(), "invalid_json", None),
            (vec![0; 100_000], "invalid_json", None),
            (vec![b' '; 1_000_000], "invalid_json", None),
            (format!("{least}\0").into_bytes(), "invalid_json", None),
            (deep("[", "]").into_bytes(), "", None),
            (format!("{{\"x\":{}}}", deep("{\"a\":", "}")).into_bytes(), "", None),
            (with("nonsense", "1").into_bytes(), "unknown_parameter", Some("nonsense".into())),
            (with(&"k".repeat(1_000_000), "1").into_bytes(), "", None),
            (with("model", "7").into_bytes(), "invalid_type", Some("model".into())),
            (with("model", &format!("\"{}\"", "m".repeat(1_000_000))).into_bytes(), "", Some("model".into())),
            (with("model", "\"other\"").into_bytes(), "", None),
            (format!("{{\"{needed}\":true}}").into_bytes(), "invalid_type", Some(needed.clone())),
        ];
        for (body, code, param) in cases {
            let shown = String::from_utf8_lossy(&body[..body.len().min(50)]).into_owned();
            let begun = Instant::now();
            let (status, error) = error(post(server.addr, path, &body).await).await;
            eprintln!("{path} {shown}: {status} {} {}", error["code"], error["param"]);
            assert!(matches!(status, 400 | 404), "{path} {shown}: {status} {error}");
            assert!(code.is_empty() || error["code"] == code, "{path} {shown}: {error}");
            assert!(param.is_none_or(|param| error["param"] == param), "{path} {shown}: {error}");
            assert!(begun.elapsed().as_secs() < 5, "{path} {shown}: {:?}", begun.elapsed());
        }
    }
    still_answers(server.addr).await;
    swarm.wait_until_idle().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_parameters_name_the_one_that_is_to_blame() {
    let swarm = ToySwarm::start(Settings::talking(1)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let mut schema = json!({"type": "integer"});
    for _ in 0..60 {
        schema = json!({"type": "array", "items": schema});
    }
    let schemas =
        |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let cases = [
        ("stop", json!(vec!["a"; 250_000])),
        ("stop", json!("a".repeat(1_000_000))),
        ("stop", json!([""])),
        ("stop", json!(7)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(1e300)),
        ("max_tokens", json!("4")),
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("top_p", json!(7)),
        ("min_p", json!(-0.5)),
        ("n", json!(0)),
        ("n", json!(1_000_000)),
        ("seed", json!(0.5)),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"1": 1000})),
        ("logit_bias", json!([1])),
        ("logprobs", json!("yes")),
        ("top_logprobs", json!(1000)),
        ("stream", json!("yes")),
        ("deadline_ms", json!(-1)),
        ("priority", json!("highest")),
        ("tools", json!({"a": 1})),
        ("tools", json!([tool("")])),
        ("tools", json!([tool("a b")])),
        ("tools", json!([tool("a"), tool("a")])),
        ("tools", json!(vec![tool("a"); 1000])),
        ("tool_choice", json!("required")),
        ("tool_choice", tool("a")),
        ("tool_choice", json!("sometimes")),
        ("response_format", json!({"type": "xml"})),
        ("response_format", schemas(json!([1]))),
        ("response_format", schemas(json!({"enum": ["x".repeat(100_000)]}))),
        ("messages", json!([])),
        ("messages", json!([{"role": "nobody", "content": "x"}])),
        ("messages", json!([{"role": "user"}])),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ),
        ("messages", json!(vec![json!({"role": "user", "content": "x"}); 20_000])),
        ("modalities", json!(["audio"])),
        ("frequency_penalty", json!(99)),
    ];
    for (name, value) in cases {
        let mut body = endpoints()[0].1.clone();
        body[name] = value;
        let shown: String = body[name].to_string().chars().take(60).collect();
        let (status, error) =
            error(post(server.addr, "/v1/chat/completions", body.to_string().as_bytes()).await).await;
        eprintln!("{name} {shown}: {status} {error}");
        assert_eq!(status, 400, "{name} {shown}: {error}");
        let param = error["param"].as_str().unwrap_or_default();
        assert!(param.starts_with(name), "{name} {shown}: {error}");
    }
    // Deep ones are refused, or followed to the end of max_tokens: either way soon.
    for schema in
        [schema.clone(), json!({"$ref": "#"}), json!({"type": "integer", "minimum": 5, "maximum": 4})]
    {
        let mut body = endpoints()[0].1.clone();
        body["response_format"] = schemas(schema);
        let begun = Instant::now();
        let answer = post(server.addr, "/v1/chat/completions", body.to_string().as_bytes()).await;
        eprintln!(
            "{}: {} after {:?}",
            &body["response_format"].to_string()[..60],
            answer.status,
            begun.elapsed()
        );
        assert!(matches!(answer.status, 200 | 400), "{}", answer.status);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
        answer.text().await.unwrap();
    }
    still_answers(server.addr).await;
    swarm.wait_until_idle().await;
    server.stop().await;
}

/// As much as a client can send before it is told, and none of it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_a_hundred_megabytes_is_refused_at_once() {
    let swarm = ToySwarm::start(Settings::talking(1)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    for (path, _) in endpoints() {
        for length in ["content-length: 104857600", "transfer-encoding: chunked"] {
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (from, mut to) = stream.into_split();
            let mut sending = JoinSet::new();
            let chunked = length.starts_with("transfer");
            sending.spawn(async move {
                let part = vec![b' '; 1 << 20];
                let mut sent = 0;
                for _ in 0..100 {
                    let size = format!("{:x}\r\n", part.len());
                    let before = if chunked { size.as_bytes() } else { b"" };
                    let after = if chunked { &b"\r\n"[..] } else { b"" };
                    for bytes in [before, &part, after] {
                        // It ends when the router does not take any more.
                        if to.write_all(bytes).await.is_err() {
                            return sent;
                        }
                    }
                    sent += 1;
                }
                sent
            });
            let mut told = Vec::new();
            let mut reading = from;
            timeout(PATIENCE, reading.read_to_end(&mut told)).await.unwrap().unwrap_or_default();
            let told = String::from_utf8(told).unwrap();
            assert!(
                told.starts_with("HTTP/1.1 413") && told.contains("body_too_large"),
                "{path} {length}: {told}"
            );
            let sent = timeout(PATIENCE, sending.join_next()).await.unwrap().unwrap().unwrap();
            eprintln!("{path} {length}: {sent} of 100 MiB were taken");
            assert!(sent < 100, "{path} {length}");
        }
    }
    still_answers(server.addr).await;
    server.stop().await;
}
