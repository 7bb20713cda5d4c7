//! Real sockets against a listener that serves nothing in particular.

use axum::body::{Body, Bytes};
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

/// Long enough for a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// A body without an end, as fast as it is taken.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&[b'x'; 4096])))))
    }
}

async fn listener(limits: HttpLimits) -> Listener {
    let app = axum::Router::new()
        .route("/endless", get(|| async { Body::new(Endless) }))
        .route("/short", get(|| async { "short" }));
    let listen = Listen::Exactly(([127, 0, 0, 1], 0).into());
    Listener::bind(listen, app, limits).await.unwrap()
}

async fn ask(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
}

#[test]
fn the_answer_to_a_connection_too_many_has_the_length_it_says() {
    let (head, body) = TOO_MANY.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("\r\ncontent-length: {}", body.len())), "{head}\n{body}");
    let object: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(object["error"]["code"], "busy");
}

#[tokio::test]
async fn every_connection_too_many_is_told_so_whole_though_it_has_sent_a_request() {
    let listener = listener(HttpLimits { connections: 1, ..HttpLimits::default() }).await;
    let mut first = TcpStream::connect(listener.addr()).await.unwrap();
    ask(&mut first, "/short").await;
    let mut begin = [0; 15];
    timeout(PATIENCE, first.read_exact(&mut begin)).await.unwrap().unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    for _ in 0..20 {
        let mut stream = TcpStream::connect(listener.addr()).await.unwrap();
        ask(&mut stream, "/short").await;
        let mut told = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut told)).await.unwrap().unwrap();
        assert_eq!(told, TOO_MANY);
    }
    listener.shutdown(Duration::ZERO).await;
}

/// It takes a little now and then, so that it never takes nothing for long.
#[tokio::test]
async fn a_client_that_takes_next_to_nothing_is_cut_off() {
    let stall = Duration::from_millis(500);
    let limits = HttpLimits { write_stall: stall, send_buffer: 64 << 10, ..HttpLimits::default() };
    let listener = listener(limits).await;
    let mut stream = TcpStream::connect(listener.addr()).await.unwrap();
    let _ = socket2::SockRef::from(&stream).set_recv_buffer_size(4 << 10);
    ask(&mut stream, "/endless").await;
    let sipping = async {
        let (mut every, mut sip, mut taken) = (tokio::time::interval(stall / 20), [0; 16], 0);
        loop {
            every.tick().await;
            match stream.read(&mut sip).await {
                Ok(read @ 1..) => taken += read,
                _ => return taken,
            }
            // Whoever is cut off has what the buffers hold still to read.
            if taken > 32 * 20 * sip.len() {
                return taken;
            }
        }
    };
    let gone = async {
        while !listener.tasks.is_empty() {
            tokio::time::sleep(stall / 20).await;
            if listener.tasks.len() == 1 {
                return;
            }
        }
    };
    tokio::select! {
        taken = sipping => panic!("{taken} bytes were taken, and it is still served"),
        done = timeout(PATIENCE, gone) => done.unwrap(),
    }
    listener.shutdown(Duration::ZERO).await;
}
