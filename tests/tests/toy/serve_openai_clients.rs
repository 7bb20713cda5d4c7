//! Clients of the OpenAI API that read slowly or go away.

use std::time::Duration;

use cluster_tests::http;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::serve::{LONG, TestServer, long};
use crate::swarm::{PATIENCE, Settings, ToySwarm, served, word_tokenizer};

/// Streams that outlast what sockets buffer.
pub(crate) fn wordy(parts: u32) -> Settings {
    let base = long(parts);
    let tokenizer = word_tokenizer(base.model.vocab);
    Settings { served: served(base.model, &[], Some(&tokenizer)), ..base }
}

pub(crate) fn asked(max_tokens: u32) -> Value {
    json!({"model": "toy", "prompt": [3, 1, 4, 1, 5], "max_tokens": max_tokens, "temperature": 0, "stream": true})
}

/// The text of a stream, and whether it came to its end.
pub(crate) async fn text(events: &mut http::Events) -> (String, bool) {
    let mut text = String::new();
    while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        if event.data == "[DONE]" {
            return (text, true);
        }
        let object: Value = serde_json::from_str(&event.data).unwrap();
        assert!(object["error"].is_null(), "{object}");
        text.push_str(object["choices"][0]["text"].as_str().unwrap());
    }
    (text, false)
}

pub(crate) fn words(swarm: &ToySwarm, count: usize) -> String {
    let ids = swarm.model.answer(&[3, 1, 4, 1, 5], count);
    ids.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_a_stream_slows_nobody_and_gets_its_whole_answer() {
    let swarm = ToySwarm::start(wordy(2)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let begin = |max_tokens| async move {
        let answer = http::post(server.addr, "/v1/completions", &asked(max_tokens)).await.unwrap();
        assert_eq!(answer.status, 200);
        answer.events()
    };
    let mut slow = timeout(PATIENCE, begin(LONG)).await.unwrap();
    for _ in 0..8 {
        let (told, whole) = text(&mut timeout(PATIENCE, begin(50)).await.unwrap()).await;
        assert_eq!((told.trim(), whole), (&words(&swarm, 50)[..], true));
    }
    let (told, whole) = text(&mut slow).await;
    assert!(whole && told.trim().starts_with(&words(&swarm, 200)), "{}", &told[..200]);
    assert_eq!(told.split_whitespace().count(), LONG as usize);
    swarm.wait_until_idle().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_cut_off_and_frees_its_session() {
    let swarm = ToySwarm::start(wordy(2)).await;
    let server =
        TestServer::start(&swarm, 100, |config| config.http.write_stall = Duration::from_millis(500)).await;
    let answer = http::post_with_little_room(server.addr, "/v1/completions", &asked(LONG)).await.unwrap();
    assert_eq!(answer.status, 200);
    swarm.wait_until_idle().await;
    drop(answer);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_close_a_side_or_go_free_their_sessions() {
    let swarm = ToySwarm::start(wordy(2)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    for (stream, half) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut body = asked(LONG);
            body["stream"] = json!(stream);
            let body = body.to_string();
            let length = body.len();
            let request =
                format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
            let mut client = TcpStream::connect(server.addr).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            if half {
                client.shutdown().await.unwrap();
            }
            clients.push(client);
        }
        for mut client in clients {
            if half {
                // Whatever it is told, the connection ends.
                let _ = timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await.expect("it should end");
            }
        }
        swarm.wait_until_idle().await;
    }
    server.stop().await;
}
