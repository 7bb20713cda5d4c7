//! `router serve` as a process, over real nodes: answers, clients that are killed, a drain by signal.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::http::{self, Events};
use cluster_tests::processes::{NodeProcess, Programs, Running};
use cluster_tests::prompts::PROMPTS;
use cluster_tests::serving::Serving;
use serde_json::{Value, json};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_mins(1);

fn serve(programs: &Programs, home: &Path, swarm: &[NodeProcess], extra: &[&str]) -> Serving {
    let serving = Serving::start(programs, home, &swarm[0].ready().target(), extra).unwrap();
    assert_eq!(serving.models, 1);
    serving
}

fn asked(prompt: &str, max_tokens: u32) -> Value {
    json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "stream": true})
}

async fn begin(address: SocketAddr, body: &Value) -> Events {
    let answer = http::post(address, "/v1/generate", body).await.unwrap();
    if answer.status != 200 {
        let status = answer.status;
        panic!("{status}: {}", answer.text().await.unwrap());
    }
    answer.events()
}

/// The text to the end, whose positions have no gap.
async fn read(events: &mut Events) -> (String, Value) {
    let (mut text, mut next) = (String::new(), None);
    loop {
        let event = events.next().await.unwrap().expect("an end should come");
        let object: Value = serde_json::from_str(&event.data).unwrap();
        match &event.name[..] {
            "" => {
                let position = object["position"].as_u64().unwrap();
                assert!(next.is_none_or(|next| next == position), "{object}");
                next = Some(position + object["token_ids"].as_array().unwrap().len() as u64);
                text.push_str(object["text"].as_str().unwrap());
            }
            "done" => return (text, object),
            _ => panic!("{object}"),
        }
    }
}

fn wait_for_no_session(node: &NodeProcess) -> Duration {
    let started = now();
    while node.metric("shard_node_sessions").unwrap() > 0.0 {
        assert!(started.elapsed() < PATIENCE, "sessions left: {}", node.log_text());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    started.elapsed()
}

#[tokio::test]
async fn clients_are_answered_and_a_killed_one_frees_its_session() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let swarm = programs.swarm(home.path(), &["0..15", "15..30"], &[]).unwrap();
    let router = serve(&programs, home.path(), &swarm, &[]);
    let mut four = Vec::new();
    for prompt in &PROMPTS[..4] {
        four.push(begin(router.listen, &asked(prompt, 16)).await);
    }
    let mut texts = Vec::new();
    for events in &mut four {
        let (text, end) = read(events).await;
        assert_eq!(end["route"].as_array().unwrap().len(), 2);
        texts.push(text);
    }
    assert!(texts[0].starts_with("Gravity is"), "{texts:?}");
    // A client in a process of its own that is killed in the middle of its answer.
    let script = "import sys, urllib.request as u\n\
                  r = u.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode()))\n\
                  while r.readline(): print('line', flush=True)\n";
    let mut client = Command::new("python3");
    let url = format!("http://{}/v1/generate", router.listen);
    client.args(["-c", script, &url, &asked("Tell me a very long story.", 2000).to_string()]);
    let mut client = Running::start(client, &home.path().join("client.log")).unwrap();
    client.wait_for_output(30, PATIENCE).unwrap();
    client.kill_hard().unwrap();
    for node in &swarm {
        println!("freed after {:?}", wait_for_no_session(node));
    }
    let metrics = http::get(router.admin, "/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("router_requests_total{outcome=\"client_gone\"} 1"), "{metrics}");
    assert!(metrics.contains("router_requests_total{outcome=\"ok\"} 4"), "{metrics}");
}

#[tokio::test]
async fn sigterm_finishes_open_answers_and_refuses_new_ones() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let swarm = programs.swarm(home.path(), &["0..30"], &[]).unwrap();
    let mut router = serve(&programs, home.path(), &swarm, &["--drain", "60"]);
    let mut open = begin(router.listen, &asked("Tell me a very long story.", 100)).await;
    open.next().await.unwrap().expect("a token");
    router.process.signal("TERM").unwrap();
    while http::get(router.admin, "/readyz").await.unwrap().status != 503 {
        tokio::task::yield_now().await;
    }
    let refused = http::post(router.listen, "/v1/generate", &asked("Hello", 1)).await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let (text, end) = read(&mut open).await;
    assert!(!text.is_empty(), "{end}");
    let status = router.process.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", router.process.log_text());
    assert!(TcpStream::connect(router.listen).await.is_err());
    wait_for_no_session(&swarm[0]);
}

#[tokio::test]
async fn a_second_signal_ends_a_drain() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let swarm = programs.swarm(home.path(), &["0..30"], &[]).unwrap();
    let mut router = serve(&programs, home.path(), &swarm, &["--drain", "600"]);
    let mut open = begin(router.listen, &asked("Tell me a very long story.", 2000)).await;
    open.next().await.unwrap().expect("a token");
    router.process.signal("TERM").unwrap();
    while http::get(router.admin, "/readyz").await.unwrap().status != 503 {
        tokio::task::yield_now().await;
    }
    router.process.signal("INT").unwrap();
    router.process.wait(Duration::from_secs(20)).unwrap();
    wait_for_no_session(&swarm[0]);
}

#[test]
fn what_can_not_be_listened_on_is_an_error_with_the_cure() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let public = ["serve", "--listen", "0.0.0.0:0", "--bootstrap", "127.0.0.1:1"].map(str::to_owned);
    let finished = programs.run("router", home.path(), &public, PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("--public"), "{}", finished.stderr);
    let swarm = programs.swarm(home.path(), &["0..30"], &[]).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let held = std::net::TcpListener::bind(&taken).unwrap();
    let busy =
        ["serve", "--listen", &taken, "--admin", "127.0.0.1:0", "--bootstrap", &swarm[0].ready().target()]
            .map(str::to_owned);
    let finished = programs.run("router", home.path(), &busy, PATIENCE).unwrap();
    assert!(!finished.status.success());
    assert!(finished.stderr.contains(&taken) && finished.stderr.contains("in use"), "{}", finished.stderr);
    drop(held);
    let shown = ["config", "--queue", "5", "show", "--bootstrap", "127.0.0.1:1"].map(str::to_owned);
    let finished = programs.run("router", home.path(), &shown, PATIENCE).unwrap();
    assert!(
        finished.stdout.contains("[serve]") && finished.stdout.contains("queue = 5"),
        "{}",
        finished.stdout
    );
}

#[expect(clippy::disallowed_methods, reason = "times real processes from outside")]
fn now() -> Instant {
    Instant::now()
}
