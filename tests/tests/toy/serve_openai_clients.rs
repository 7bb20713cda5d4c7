//! Clients of the OpenAI API that read slowly, go away, or are too many.

use std::time::Duration;

use cluster_tests::http;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::serve::{LONG, TestServer, long};
use crate::serve_openai::error;
use crate::swarm::{PATIENCE, Settings, ToySwarm, served, word_tokenizer};

/// Streams that outlast what sockets buffer.
fn wordy(parts: u32) -> Settings {
    let base = long(parts);
    let tokenizer = word_tokenizer(base.model.vocab);
    Settings { served: served(base.model, &[], Some(&tokenizer)), ..base }
}

fn asked(max_tokens: u32) -> Value {
    json!({"model": "toy", "prompt": [3, 1, 4, 1, 5], "max_tokens": max_tokens, "temperature": 0, "stream": true})
}

/// The text of a stream, and whether it came to its end.
async fn text(events: &mut http::Events) -> (String, bool) {
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

fn words(swarm: &ToySwarm, count: usize) -> String {
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

/// All that the router takes are held open, and ten thousand more come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_too_many_are_told_or_closed_and_hurt_nobody() {
    const HELD: usize = 200;
    const MORE: usize = 10_000;
    const AT_ONCE: usize = 100;
    let swarm = ToySwarm::start(wordy(1)).await;
    let server = TestServer::start(&swarm, 100, |config| config.http.connections = HELD).await;
    let answer = http::post(server.addr, "/v1/completions", &asked(LONG)).await.unwrap();
    assert_eq!(answer.status, 200);
    let mut held = Vec::new();
    for _ in 1..HELD {
        held.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let (mut told, mut closed, mut clients) = (0, 0, JoinSet::new());
    let body = asked(1).to_string();
    let request =
        format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for client in 0..MORE + AT_ONCE {
        if client >= AT_ONCE {
            if timeout(PATIENCE, clients.join_next()).await.unwrap().unwrap().unwrap() {
                told += 1;
            } else {
                closed += 1;
            }
        }
        if client < MORE {
            let (addr, request) = (server.addr, request.clone());
            clients.spawn(async move {
                match http::send(addr, request.as_bytes()).await {
                    Ok(answer) => {
                        let (status, error) = error(answer).await;
                        assert_eq!((status, error["code"].as_str()), (503, Some("busy")));
                        true
                    }
                    Err(_) => false,
                }
            });
        }
    }
    eprintln!("{told} were told, {closed} closed without a word");
    assert!(told > 0 && told + closed == MORE);
    // The stream that was there goes on, and there is room again.
    let (text, whole) = text(&mut answer.events()).await;
    assert!(whole && text.split_whitespace().count() == LONG as usize);
    drop(held);
    let again = async {
        while http::get(server.addr, "/v1/models").await.map_or(0, |answer| answer.status) != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    swarm.wait_until_idle().await;
    server.stop().await;
}
