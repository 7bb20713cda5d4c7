//! `router keys`: the program itself makes, lists, limits and revokes what a serving router then asks for.

use std::path::Path;
use std::time::Duration;

use cluster_tests::http;
use cluster_tests::processes::Programs;
use router::keys::KeyFile;
use serde_json::Value;
use tokio::time::timeout;

use crate::serve::{PROMPT, TestServer, asked};
use crate::swarm::{PATIENCE, Settings, ToySwarm};

/// Runs `router --json keys ..` over a state folder; what it printed, or its error.
fn keys(home: &Path, arguments: &[&str]) -> Result<Value, String> {
    let programs = Programs::built().unwrap();
    let folder = home.join("state").to_string_lossy().into_owned();
    let words = [&["keys"][..], arguments, &["--json", "--state-dir", &folder]].concat();
    let done = programs.run("router", home, &words, Duration::from_secs(30)).unwrap();
    if done.status.success() { Ok(serde_json::from_str(&done.stdout).unwrap()) } else { Err(done.stderr) }
}

async fn status(server: &TestServer, key: &str) -> u16 {
    let body = asked(&PROMPT, 3).to_string();
    let head = format!("POST /v1/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let answer = timeout(PATIENCE, http::send(server.addr, request.as_bytes())).await.unwrap().unwrap();
    let status = answer.status;
    answer.text().await.unwrap();
    status
}

/// Waits until the key is answered so: a change is seen within a second.
async fn until(server: &TestServer, key: &str, wanted: u16) {
    let answered = async {
        let mut look = tokio::time::interval(Duration::from_millis(100));
        while status(server, key).await != wanted {
            look.tick().await;
        }
    };
    assert!(timeout(PATIENCE, answered).await.is_ok(), "never {wanted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_listed_limited_and_revoked_by_the_program() {
    let home = tempfile::tempdir().unwrap();
    let made = keys(home.path(), &["create", "mine", "--concurrent", "3"]).unwrap();
    let secret = made["key"].as_str().unwrap().to_owned();
    let id = made["id"].as_str().unwrap().to_owned();
    let listed = keys(home.path(), &["list"]).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["name"]), (&made["id"], &"mine".into()));
    let text = std::fs::read_to_string(KeyFile::new(home.path().join("state")).path()).unwrap();
    assert!(!text.contains(&secret) && !listed.to_string().contains(&secret), "only its hash is kept");

    let swarm = ToySwarm::start(Settings { kv_positions: Some(1 << 20), ..Settings::split(1) }).await;
    let file = KeyFile::new(home.path().join("state"));
    let server = TestServer::start(&swarm, 100, |config| config.keys = Some(file)).await;
    assert_eq!((status(&server, &secret).await, status(&server, "sk-other").await), (200, 401));
    keys(home.path(), &["limit", &id, "--requests-per-minute", "1"]).unwrap();
    until(&server, &secret, 429).await;
    keys(home.path(), &["revoke", "mine"]).unwrap();
    until(&server, &secret, 401).await;
    let error = keys(home.path(), &["revoke", "nobody"]).unwrap_err();
    assert!(error.contains("nobody"), "{error}");
    server.stop_draining().await;
    // What it used is on its account after the end.
    let used = &keys(home.path(), &["list"]).unwrap()[0];
    assert!(
        used.to_string().contains("prompt_tokens") && !used.to_string().contains("\"requests\":0"),
        "{used}"
    );
    swarm.shutdown().await;
}
