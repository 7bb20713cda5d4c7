//! The admin endpoint over real sockets: answers, refusals, junk, and a prompt end.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn metrics_livez_and_readyz_answer() {
    let registry = Registry::new();
    registry.counter("demo_total", "Demo.").unwrap().inc_by(3);
    let readiness = Readiness::starting("loading layers 0..10");
    let server = AdminServer::bind(loopback(), registry, readiness.clone()).await.unwrap();
    let addr = server.local_addr();

    let metrics = fetch(addr, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("demo_total 3"), "{metrics}");
    assert!(metrics.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(fetch(addr, "/livez").await.ends_with("alive\n"));
    let starting = fetch(addr, "/readyz").await;
    assert!(starting.starts_with("HTTP/1.1 503") && starting.contains("loading layers 0..10"), "{starting}");
    readiness.set(ReadyState::Ready);
    assert!(fetch(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
    readiness.set(ReadyState::Draining);
    assert!(fetch(addr, "/readyz").await.ends_with("draining\n"));
    assert!(fetch(addr, "/secrets").await.starts_with("HTTP/1.1 404"));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_busy_port_is_named_with_the_cure() {
    let first = empty_server().await;
    let addr = first.local_addr();
    let error = AdminServer::bind(addr, Registry::new(), Readiness::starting("test")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, BindAdminError::Busy { .. }), "{text}");
    assert!(text.contains(&addr.to_string()) && text.contains("--admin"), "{text}");
    first.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_default_port_that_is_taken_gives_way_to_a_later_one() {
    let first = empty_server().await;
    let addr = first.local_addr();
    let second = AdminServer::bind_default(addr, Registry::new(), Readiness::starting("test")).await.unwrap();
    assert!(second.local_addr().port() > addr.port());
    second.shutdown().await.unwrap();
    first.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_port_is_free_again_after_shutdown() {
    let first = empty_server().await;
    let addr = first.local_addr();
    first.shutdown().await.unwrap();
    AdminServer::bind(addr, Registry::new(), Readiness::starting("test"))
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
}

#[tokio::test]
async fn junk_is_tolerated() {
    let server = empty_server().await;
    let addr = server.local_addr();
    let long = vec![b'a'; 1 << 20];
    let junk: [&[u8]; 6] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        &long,
    ];
    for bytes in junk {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // The server may hang up in the middle of it: that is an answer too.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    assert!(fetch(addr, "/livez").await.ends_with("alive\n"));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn shutdown_is_prompt_with_idle_half_sent_and_unread_connections() {
    let server = empty_server().await;
    let addr = server.local_addr();
    let _silent = TcpStream::connect(addr).await.unwrap();
    let mut half = TcpStream::connect(addr).await.unwrap();
    half.write_all(b"GET /metrics HTT").await.unwrap();
    let mut unread = TcpStream::connect(addr).await.unwrap();
    unread.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(64)).await.unwrap();
    within(server.shutdown()).await.unwrap();
    let mut end = Vec::new();
    // Cut: end of stream or a reset, but no waiting.
    let _ = within(half.read_to_end(&mut end)).await;
}

#[tokio::test]
async fn join_does_not_return_while_serving() {
    let mut server = empty_server().await;
    assert!(tokio::time::timeout(Duration::from_millis(20), server.join()).await.is_err());
    server.shutdown().await.unwrap();
}

async fn empty_server() -> AdminServer {
    AdminServer::bind(loopback(), Registry::new(), Readiness::starting("test")).await.unwrap()
}

async fn fetch(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(5), future).await.expect("within 5 s")
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
