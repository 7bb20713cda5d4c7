//! API keys at the OpenAI endpoints: who is let in, what a key may use, its account, and a file of keys that vanishes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cluster_tests::http::{self, Answer};
use router::keys::{KeyFile, KeyId, KeyLimits, Secret};
use router::serve::Listen;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{interval, timeout};

use crate::serve::{LONG, PROMPT, TestServer, long};
use crate::serve_openai::{endpoints, error, send};
use crate::swarm::{PATIENCE, Settings, ToySwarm};

/// A file with a key for each of these limits, and how each is sent.
fn keys(limits: &[KeyLimits]) -> (TempDir, KeyFile, Vec<(KeyId, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let file = KeyFile::new(folder.path().to_owned());
    let made = limits.iter().zip(1..).map(|(limits, number)| {
        let secret = Secret::of_random([number; 32]);
        let id = file.change(|set| set.create(&secret, &format!("key-{number}"), 1, *limits)).unwrap();
        (id, format!("authorization: Bearer {}\r\n", secret.reveal()))
    });
    let made = made.collect();
    (folder, file, made)
}

async fn post(addr: SocketAddr, path: &str, key: &str, body: &Value) -> Answer {
    send(addr, "POST", path, &format!("content-type: application/json\r\n{key}"), body.to_string().as_bytes())
        .await
}

/// The `usage` of an answer, whole or at the end of its stream.
async fn usage(answer: Answer) -> (u64, u64) {
    assert_eq!(answer.status, 200);
    let stream = answer.header("content-type") == Some("text/event-stream");
    let text = timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
    let objects: Vec<Value> = if stream {
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str(data).ok()).collect()
    } else {
        vec![serde_json::from_str(&text).unwrap()]
    };
    let of = |object: &Value| {
        [&object["usage"], &object["response"]["usage"]].into_iter().find(|usage| usage.is_object()).cloned()
    };
    let usage = objects.iter().rev().find_map(of).unwrap_or_else(|| panic!("no usage in {text}"));
    let count = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_u64()).unwrap();
    (count(["prompt_tokens", "input_tokens"]), count(["completion_tokens", "output_tokens"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_needs_a_key_and_what_answers_take_is_on_its_account() {
    let swarm = ToySwarm::start(Settings::talking(2)).await;
    let (_folder, file, keys) = keys(&[KeyLimits::default(), KeyLimits::default()]);
    let server = TestServer::start(&swarm, 100, |config| config.keys = Some(file.clone())).await;
    let paths = endpoints().map(|(path, body)| ("POST", path, body));
    let models = ["/v1/models", "/v1/models/toy"].map(|path| ("GET", path, Value::Null));
    for (method, path, body) in paths.into_iter().chain(models) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        for key in [
            "",
            "authorization: Bearer sk-wrong\r\n",
            "authorization: Basic eDp5\r\n",
            "authorization: Bearer\r\n",
            "api-key: x\r\n",
        ] {
            let (status, told) = error(send(server.addr, method, path, key, &body).await).await;
            assert_eq!((status, &told["code"]), (401, &json!("invalid_api_key")), "{path} {key}");
            assert_eq!(told["type"], "authentication_error");
        }
        let answer = send(server.addr, method, path, &keys[0].1, &body).await;
        assert_eq!(answer.status, if path == "/v1/embeddings" { 400 } else { 200 }, "{path}");
        answer.text().await.unwrap();
    }
    for path in ["/health", "/ready", "/info", "/openapi.json"] {
        assert_eq!(http::get(server.addr, path).await.unwrap().status, 200, "{path}");
    }
    // Each key's account, by what the answers say of themselves.
    let mut told: BTreeMap<&KeyId, (u64, u64, u64)> = BTreeMap::new();
    for (round, (path, body)) in endpoints().into_iter().take(3).cycle().take(12).enumerate() {
        let (id, key) = &keys[usize::from(round % 4 == 3)];
        let mut body = body;
        if round % 2 == 1 {
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        if path == "/v1/completions" {
            body["n"] = json!(2);
        }
        let (prompt, completion) = usage(post(server.addr, path, key, &body).await).await;
        let sum = told.entry(id).or_default();
        *sum = (sum.0 + 1, sum.1 + prompt * body["n"].as_u64().unwrap_or(1), sum.2 + completion);
    }
    // The first key also paid for the three above, of `endpoints`, whose answers are as long as they may be.
    server.stop_draining().await;
    let used = file.usage().unwrap();
    for (id, (requests, prompt, completion)) in told {
        let first = *id == keys[0].0;
        let (more, tokens) = if first { (3, 12) } else { (0, 0) };
        let used = &used[id];
        assert_eq!(
            (used.requests, used.completion_tokens),
            (requests + more, completion + tokens),
            "{used:?}"
        );
        assert!(
            if first { used.prompt_tokens > prompt } else { used.prompt_tokens == prompt },
            "{used:?} {prompt}"
        );
    }
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_at_its_limits_is_told_when_to_come_back_and_others_are_served() {
    let base = long(2);
    let words = cluster_tests::toy::word_tokenizer(base.model.vocab);
    let served = crate::swarm::served(base.model, &[], Some(&words));
    let swarm = ToySwarm::start(Settings { served, ..base }).await;
    let rate = KeyLimits { requests_per_minute: Some(3), ..KeyLimits::default() };
    let narrow = KeyLimits { concurrent: Some(1), ..KeyLimits::default() };
    let (_folder, file, keys) = keys(&[rate, narrow, KeyLimits::default()]);
    let server = TestServer::start(&swarm, 100, |config| config.keys = Some(file.clone())).await;
    let short = json!({"prompt": PROMPT, "max_tokens": 2});
    let limited = |answer: Answer| async move {
        let seconds: Option<u64> = answer.header("retry-after").and_then(|value| value.parse().ok());
        let (status, told) = error(answer).await;
        assert_eq!(
            (status, &told["code"], &told["type"]),
            (429, &json!("rate_limit_exceeded"), &json!("rate_limit_error"))
        );
        let hint = told["retry_after_ms"].as_u64().unwrap();
        assert_eq!(seconds, Some(hint.div_ceil(1000).max(1)), "{told}");
        (hint, told["message"].as_str().unwrap().to_owned())
    };
    // The rate: three at once, then one every twenty seconds. Whatever the endpoint.
    for _ in 0..3 {
        assert_eq!(post(server.addr, "/v1/completions", &keys[0].1, &short).await.status, 200);
    }
    for (path, body) in endpoints() {
        let (hint, words) = limited(post(server.addr, path, &keys[0].1, &body).await).await;
        assert!((1..=20_000).contains(&hint) && words.contains("3 requests a minute"), "{hint} {words}");
    }
    // As many at once: a stream that is not read holds its place.
    let running = json!({"prompt": PROMPT, "max_tokens": LONG, "temperature": 0, "stream": true});
    let mut running = post(server.addr, "/v1/completions", &keys[1].1, &running).await;
    assert!(timeout(PATIENCE, running.next()).await.unwrap().unwrap().is_some());
    let (hint, words) = limited(post(server.addr, "/v1/completions", &keys[1].1, &short).await).await;
    assert!(hint > 0 && words.contains("1 requests at once"), "{words}");
    assert_eq!(post(server.addr, "/v1/completions", &keys[2].1, &short).await.status, 200);
    drop(running);
    let again = async {
        let mut every = interval(Duration::from_millis(10));
        while post(server.addr, "/v1/completions", &keys[1].1, &short).await.status != 200 {
            every.tick().await;
        }
    };
    timeout(PATIENCE, again).await.expect("it has its place again");
    server.stop().await;
}

/// The file is removed under a running router: one on a public address goes on asking, one on loopback is open again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_router_stays_closed_when_its_key_file_vanishes() {
    let swarm = ToySwarm::start(Settings::talking(1)).await;
    for (number, address) in [(100, Ipv4Addr::UNSPECIFIED), (101, Ipv4Addr::LOCALHOST)] {
        let (_folder, file, keys) = keys(&[KeyLimits::default()]);
        let server = TestServer::start(&swarm, number, |config| {
            config.keys = Some(file.clone());
            config.listen = Listen::Exactly((address, 0).into());
        })
        .await;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, server.addr.port()));
        let (path, body) = &endpoints()[0];
        let status = |key: String| async move { post(addr, path, &key, body).await.status };
        let key = keys[0].1.clone();
        assert_eq!((status(key.clone()).await, status(String::new()).await), (200, 401), "{address}");
        std::fs::remove_file(file.path()).unwrap();
        // That it has seen it: the key of the file is nobody's any more, or nobody needs one.
        let seen = async {
            let mut every = interval(Duration::from_millis(20));
            while status(if number == 100 { key.clone() } else { String::new() }).await
                != if number == 100 { 401 } else { 200 }
            {
                every.tick().await;
            }
        };
        timeout(PATIENCE, seen).await.expect("the file is looked at once a second");
        if number == 100 {
            for (path, body) in endpoints() {
                let (status, told) = error(post(addr, path, "", &body).await).await;
                assert_eq!((status, told["code"].as_str()), (401, Some("invalid_api_key")), "{path}");
            }
            let own = json!({"prompt": "hi"});
            assert_eq!(post(addr, "/v1/generate", "", &own).await.status, 401);
            assert_eq!(http::get(addr, "/v1/models").await.unwrap().status, 401);
        }
        server.stop().await;
    }
}
