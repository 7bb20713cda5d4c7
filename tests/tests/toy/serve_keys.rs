//! A serving router with API keys: who is let in, what a key may use, and the account of it.

use std::time::Duration;

use cluster_tests::http::{self, Answer};
use router::keys::{KeyFile, KeyLimits, Secret};
use serde_json::Value;
use tokio::time::timeout;

use crate::serve::{LONG, PROMPT, TestServer, asked, long, refusal};
use crate::swarm::{PATIENCE, Settings, ToySwarm};

async fn post(server: &TestServer, body: &Value, key: &str) -> Answer {
    let body = body.to_string();
    let request = format!(
        "POST /v1/generate HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    timeout(PATIENCE, http::send(server.addr, request.as_bytes())).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_keys_are_served_and_each_within_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let file = KeyFile::new(folder.path().to_owned());
    let secrets = [1, 2].map(|byte| Secret::of_random([byte; 32]));
    let narrow = KeyLimits { concurrent: Some(1), tokens_per_minute: Some(20), ..KeyLimits::default() };
    let id = file.change(|set| set.create(&secrets[0], "narrow", 1, narrow)).unwrap();
    file.change(|set| set.create(&secrets[1], "wide", 1, KeyLimits::default())).unwrap();
    let bearer = secrets.map(|secret| format!("Bearer {}", secret.reveal()));

    let swarm = ToySwarm::start(Settings { kv_positions: Some(1 << 20), ..long(2) }).await;
    let server = TestServer::start(&swarm, 100, |config| config.keys = Some(file.clone())).await;
    // Before anything of the body is looked at.
    for (body, key) in [(asked(&PROMPT, 3), "Bearer sk-1"), (Value::Null, "Basic x"), (Value::Null, "")] {
        let (status, code, _) = refusal(post(&server, &body, key).await).await;
        assert_eq!((status, &code[..]), (401, "invalid_api_key"));
    }
    let without = http::post(server.addr, "/v1/generate", &asked(&PROMPT, 3)).await.unwrap();
    assert_eq!(without.status, 401);
    assert_eq!(http::get(server.addr, "/v1/models").await.unwrap().status, 401);
    assert_eq!(http::get(server.addr, "/health").await.unwrap().status, 200);

    // One at a time, while the other key is not concerned.
    let mut running = post(&server, &asked(&PROMPT, LONG), &bearer[0]).await;
    assert_eq!(running.status, 200);
    assert!(timeout(PATIENCE, running.next()).await.unwrap().unwrap().is_some());
    let (status, code, hint) = refusal(post(&server, &asked(&PROMPT, 3), &bearer[0]).await).await;
    assert_eq!((status, &code[..]), (429, "rate_limit_exceeded"));
    assert!(hint > Some(0));
    let other = post(&server, &asked(&PROMPT, 3), &bearer[1]).await;
    assert_eq!(other.status, 200);
    other.text().await.unwrap();
    // It goes away: what was generated until then is on its account, and it has overdrawn its minute.
    drop(running);
    let overdrawn = async {
        loop {
            let answer = post(&server, &asked(&PROMPT, 3), &bearer[0]).await;
            let text = answer.text().await.unwrap();
            if text.contains("tokens a minute") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, overdrawn).await.unwrap();
    server.stop_draining().await;
    let used = file.usage().unwrap();
    assert!(used[&id].prompt_tokens + used[&id].completion_tokens >= 20, "{used:?}");
    assert_eq!(used[&id].prompt_tokens, used[&id].requests * PROMPT.len() as u64);
    assert_eq!(used.len(), 2);
    swarm.shutdown().await;
}
