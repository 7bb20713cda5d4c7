//! Clients of a serving router that go, drip and send what nobody should.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::http;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::serve::{LONG, PROMPT, TestServer, asked, begin, long, read, refusal};
use crate::swarm::{PATIENCE, Settings, ToySwarm};

/// A request as bytes.
fn request(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Until so many requests wait.
async fn until_waiting(addr: SocketAddr, wanted: u64) {
    let look = async {
        let mut every = interval(Duration::from_millis(5));
        loop {
            every.tick().await;
            let models = http::get(addr, "/v1/models").await.unwrap().json().await.unwrap();
            if models["data"][0]["waiting"] == wanted {
                break;
            }
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{wanted} requests should wait"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_is_noticed_behind_what_it_sent_ahead() {
    let swarm = ToySwarm::start(long(1)).await;
    let server = TestServer::start(&swarm, 100, |config| {
        config.admission.sessions_per_node = 1;
        config.queue_for = 10 * PATIENCE;
    })
    .await;
    let running = begin(server.addr, &asked(&PROMPT, LONG)).await;
    for ahead in [&b"G"[..], b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let bytes = [&request(asked(&PROMPT, 10).to_string().as_bytes())[..], ahead].concat();
        stream.write_all(&bytes).await.unwrap();
        until_waiting(server.addr, 1).await;
        drop(stream);
        until_waiting(server.addr, 0).await;
    }
    drop(running);
    swarm.wait_until_idle().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_byte_by_byte_has_no_more_time_than_others() {
    let swarm = ToySwarm::start(Settings::split(1)).await;
    let short = Duration::from_millis(400);
    let server = TestServer::start(&swarm, 100, |config| {
        config.http.head_within = short;
        config.http.body_within = short;
    })
    .await;
    let head = b"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{";
    for begins in [&b"POST /v1/generate HTTP/1.1\r\nx: "[..], head] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(begins).await.unwrap();
        let (mut from, mut to) = stream.split();
        let drip = async {
            let mut every = interval(Duration::from_millis(20));
            while to.write_all(b" ").await.is_ok() {
                every.tick().await;
            }
        };
        // It ends with an answer, or without one; but it ends.
        let ended = async {
            let mut rest = Vec::new();
            let _ = from.read_to_end(&mut rest).await;
            String::from_utf8(rest).unwrap()
        };
        let (told, ()) = timeout(PATIENCE, async { tokio::join!(ended, drip) }).await.unwrap();
        eprintln!("told: {told:?}");
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_nobody_should_send_get_an_answer_and_hurt_nobody() {
    let swarm = ToySwarm::start(Settings::split(1)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(1_000_000), close.repeat(1_000_000));
    let digits = "9".repeat(1_000_000);
    let bodies: Vec<Vec<u8>> = vec![
        deep("[", "]").into_bytes(),
        format!("{{\"stop\":{}}}", deep("[", "]")).into_bytes(),
        format!("{{\"x\":{}}}", deep("[", "]")).into_bytes(),
        format!("{{\"stop\":{}", "{\"a\":".repeat(700_000)).into_bytes(),
        format!("{{\"token_ids\":[1],\"max_tokens\":{digits}}}").into_bytes(),
        format!("{{\"token_ids\":[1],\"seed\":-{digits}}}").into_bytes(),
        format!("{{\"token_ids\":[1],\"temperature\":1e{digits}}}").into_bytes(),
        br#"{"token_ids":[1],"deadline_ms":18446744073709551615}"#.to_vec(),
        br#"{"token_ids":[4294967296]}"#.to_vec(),
        b"{\"prompt\":\"\xf0\x28\x8c\x28\"}".to_vec(),
        b"{\"prompt\":\"\xed\xa0\x80\"}".to_vec(),
        b"{\"token_ids\":[1]}\0".to_vec(),
        vec![0; 100_000],
        vec![b' '; 1_000_000],
        br#"{"token_ids":[1],"token_ids":[2]}"#.to_vec(),
        format!("{{\"token_ids\":[1],\"stop\":[{}\"a\"]}}", "\"a\",".repeat(500_000)).into_bytes(),
        format!("{{\"model\":\"{}\",\"token_ids\":[1]}}", "m".repeat(1_000_000)).into_bytes(),
        format!("{{\"{}\":1}}", "k".repeat(3_000_000)).into_bytes(),
        format!("{{\"priority\":\"{}\"}}", "p".repeat(3_000_000)).into_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = timeout(PATIENCE, http::send(server.addr, &request(&body))).await.unwrap().unwrap();
        let status = answer.status;
        let text = answer.text().await.unwrap();
        eprintln!("{shown}: {status} {}", &text[..text.len().min(160)]);
        assert!(matches!(status, 400 | 404), "{shown}: {status} {text}");
        assert!(text.len() < 8192, "{shown}: an answer of {} bytes", text.len());
    }
    let (ids, _) = read(&mut begin(server.addr, &asked(&PROMPT, 5)).await, PROMPT.len()).await;
    assert_eq!(ids, swarm.model.answer(&PROMPT, 5));
    swarm.wait_until_idle().await;
    server.stop().await;
}

/// The router and every node count the same time; whoever is first, the answer is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_passes_while_an_answer_comes_is_told_as_one() {
    let swarm = ToySwarm::start(long(3)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    for round in 0..10 {
        let mut body = asked(&PROMPT, 35_000);
        body["deadline_ms"] = json!(40 + round);
        let mut events = begin(server.addr, &body).await;
        let end = loop {
            let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap().expect("an end should come");
            if !event.name.is_empty() {
                break event;
            }
        };
        assert_eq!(end.name, "error", "{}", end.data);
        let object: Value = serde_json::from_str(&end.data).unwrap();
        assert_eq!(object["error"]["code"], "deadline_exceeded", "{object}");
        body["stream"] = json!(false);
        let answer = timeout(PATIENCE, http::post(server.addr, "/v1/generate", &body)).await.unwrap();
        let (status, code, _) = refusal(answer.unwrap()).await;
        assert_eq!((status, &code[..]), (504, "deadline_exceeded"));
    }
    swarm.wait_until_idle().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_close_their_side_at_once_leave_nothing_behind() {
    let swarm = ToySwarm::start(long(2)).await;
    let server = TestServer::start(&swarm, 100, |config| config.admission.sessions_per_node = 2).await;
    for stream in [true, false] {
        let mut clients = Vec::new();
        for _ in 0..16 {
            let mut client = TcpStream::connect(server.addr).await.unwrap();
            let mut body = asked(&PROMPT, LONG);
            body["stream"] = json!(stream);
            client.write_all(&request(body.to_string().as_bytes())).await.unwrap();
            client.shutdown().await.unwrap();
            clients.push(client);
        }
        for mut client in clients {
            // Whatever it is told, the connection ends.
            let _ = timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await.expect("it should end");
        }
        until_waiting(server.addr, 0).await;
        swarm.wait_until_idle().await;
    }
    let (ids, _) = read(&mut begin(server.addr, &asked(&PROMPT, 5)).await, PROMPT.len()).await;
    assert_eq!(ids, swarm.model.answer(&PROMPT, 5));
    server.stop().await;
}

/// A client that sends all of a body before it looks for an answer, as most do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let swarm = ToySwarm::start(Settings::split(1)).await;
    let server = TestServer::start(&swarm, 100, |config| config.http.body_bytes = 10_000).await;
    for round in 0..10 {
        let bytes = request(&vec![b' '; 3 << 20]);
        let answer = timeout(PATIENCE, http::send(server.addr, &bytes)).await.unwrap();
        let (status, code, _) = refusal(answer.unwrap_or_else(|error| panic!("{round}: {error:#}"))).await;
        assert_eq!((status, &code[..]), (413, "body_too_large"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_the_end_is_told_at_once_and_open_answers_are_finished() {
    let swarm = ToySwarm::start(long(1)).await;
    let server = TestServer::start(&swarm, 100, |config| {
        config.admission.sessions_per_node = 1;
        config.queue_for = 10 * PATIENCE;
        config.drain = PATIENCE;
    })
    .await;
    let mut open = begin(server.addr, &asked(&PROMPT, LONG)).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (addr, body) = (server.addr, asked(&PROMPT, 10));
        waiting.spawn(async move { http::post(addr, "/v1/generate", &body).await.unwrap() });
    }
    until_waiting(server.addr, 5).await;
    let mut drained = tokio::task::JoinSet::new();
    drained.spawn(server.stop_draining());
    while let Some(answer) = timeout(PATIENCE, waiting.join_next()).await.unwrap() {
        let (status, code, hint) = refusal(answer.unwrap()).await;
        assert_eq!((status, &code[..], hint.is_some()), (503, "draining", true));
    }
    let (ids, end): (Vec<u32>, Value) = read(&mut open, PROMPT.len()).await;
    assert_eq!((ids.len(), &end["finish_reason"]), (LONG as usize, &json!("length")));
    timeout(PATIENCE, drained.join_next()).await.unwrap().unwrap().unwrap();
    swarm.wait_until_idle().await;
}
