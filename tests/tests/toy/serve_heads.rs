//! Heads of answers: the request's id on every one, sessions and routes where a model answers.

use std::sync::mpsc;
use std::time::Duration;

use cluster_tests::http::Answer;
use serde_json::{Value, json};
use shard_node_stage::StepHook;
use tokio::time::timeout;

use crate::serve::TestServer;
use crate::serve_openai::{endpoints, send};
use crate::swarm::{PATIENCE, Settings, ToySwarm};

const ID: &str = "x-request-id";

/// Every kind of answer there is, errors among them: method, path, headers, body and status.
fn everything() -> Vec<(&'static str, &'static str, &'static str, Vec<u8>, u16)> {
    let mut all: Vec<(&str, &str, &str, Vec<u8>, u16)> = Vec::new();
    for (path, body) in endpoints() {
        let status = if path == "/v1/embeddings" { 400 } else { 200 };
        all.push(("POST", path, "", body.to_string().into_bytes(), status));
        all.push(("POST", path, "", b"{".to_vec(), 400));
        all.push(("POST", path, "origin: https://a.example\r\n", body.to_string().into_bytes(), 403));
        all.push(("PUT", path, "", Vec::new(), 405));
    }
    all.push(("POST", "/v1/generate", "", br#"{"prompt":"hi","max_tokens":3}"#.to_vec(), 200));
    all.push(("POST", "/v1/generate", "", b"{}".to_vec(), 400));
    all.push(("POST", "/v1/generate", "", vec![b' '; 200_000], 413));
    all.push(("POST", "/v1/chat/completions", "", vec![b' '; 200_000], 413));
    for (path, status) in [
        ("/v1/models", 200),
        ("/v1/models/toy", 200),
        ("/v1/models/other", 404),
        ("/health", 200),
        ("/ready", 200),
        ("/info", 200),
        ("/openapi.json", 200),
        ("/nothing", 404),
        ("/v1/files", 400),
    ] {
        all.push(("GET", path, "", Vec::new(), status));
    }
    all
}

fn drawn(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_requests_id_and_the_clients_own_if_it_sent_one() {
    let swarm = ToySwarm::start(Settings::talking(2)).await;
    let server = TestServer::start(&swarm, 100, |config| config.http.body_bytes = 100_000).await;
    let mut ids = Vec::new();
    for (method, path, headers, body, status) in everything() {
        for (sent, taken) in [(None, false), (Some("trace-7f3a.1:b/c+d=_"), true), (Some("a b\"c"), false)] {
            let own = sent.map_or_else(String::new, |sent| format!("X-Request-ID: {sent}\r\n"));
            let answer = send(server.addr, method, path, &format!("{headers}{own}"), &body).await;
            assert_eq!(answer.status, status, "{method} {path}");
            let id = answer.header(ID).unwrap_or_else(|| panic!("{method} {path} {status}")).to_owned();
            if taken {
                assert_eq!(Some(&id[..]), sent, "{method} {path}");
            } else {
                assert!(drawn(&id), "{method} {path}: {id}");
                ids.push(id);
            }
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    server.stop().await;
}

/// `layerlane-session` and `layerlane-route`, as they must be: so many sessions, each over both nodes in order.
fn sessions(answer: &Answer, swarm: &ToySwarm, count: usize) -> Vec<String> {
    let route = [0, 1].map(|node| {
        let ready = swarm.nodes[node].ready();
        format!("{}[{}]", ready.node.short(), ready.layers.unwrap())
    });
    assert_eq!(answer.header("layerlane-route"), Some(&vec![route.join(">"); count].join(",")[..]));
    let sessions: Vec<String> =
        answer.header("layerlane-session").unwrap().split(',').map(str::to_owned).collect();
    assert_eq!(sessions.len(), count);
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_a_model_name_their_sessions_and_routes_streamed_or_not() {
    let swarm = ToySwarm::start(Settings::talking(2)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let own = ("/v1/generate", json!({"prompt": "hi", "max_tokens": 3}));
    let mut seen = Vec::new();
    for (path, body) in endpoints().into_iter().take(3).chain([own]) {
        for (stream, n) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
            let several = path.ends_with("completions");
            let mut body = body.clone();
            body["stream"] = json!(stream);
            if several {
                body["n"] = json!(n);
            } else if n > 1 {
                continue;
            }
            let answer =
                send(server.addr, "POST", path, "x-request-id: mine\r\n", body.to_string().as_bytes()).await;
            assert_eq!(answer.status, 200, "{path}");
            let named = sessions(&answer, &swarm, n);
            assert_eq!(answer.header(ID), Some("mine"));
            let kind = if stream { "text/event-stream" } else { "application/json" };
            assert_eq!(answer.header("content-type"), Some(kind));
            let text = timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
            if path == "/v1/generate" {
                let end: Value = if stream {
                    let done = text.rsplit("event: done\ndata: ").next().unwrap();
                    serde_json::from_str(done.trim()).unwrap()
                } else {
                    serde_json::from_str(&text).unwrap()
                };
                assert_eq!((&end["session"], &end["request_id"]), (&json!(named[0]), &json!("mine")));
            } else {
                // Objects have ids of their own: two requests may be called the same.
                assert!(!text.contains("mine"), "{text}");
            }
            seen.extend(named);
        }
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((seen.len(), count), (count, 20));
    // What no model answered has neither.
    for (path, body) in [("/tokenize", r#"{"prompt":"x"}"#), ("/v1/completions", "{}")] {
        let answer = send(server.addr, "POST", path, "", body.as_bytes()).await;
        assert!(answer.header("layerlane-session").is_none() && answer.header("layerlane-route").is_none());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_says_which_session_it_was() {
    let hook: fn(usize) -> Option<StepHook> = |_| {
        let (keep, never) = mpsc::channel::<()>();
        Some(Box::new(move |_| {
            let _open = &keep;
            let _ = never.recv_timeout(Duration::from_millis(5));
            Ok(())
        }))
    };
    let swarm = ToySwarm::start(Settings { hook, ..Settings::talking(2) }).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    // Its first token is soon there, its last one never.
    for path in ["/v1/completions", "/v1/generate"] {
        let body = json!({"prompt": "hi", "max_tokens": 3000, "deadline_ms": 3000, "temperature": 0});
        let answer = send(server.addr, "POST", path, "", body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 504, "{path}");
        sessions(&answer, &swarm, 1);
        assert!(drawn(answer.header(ID).unwrap()));
    }
    swarm.wait_until_idle().await;
    server.stop().await;
}
