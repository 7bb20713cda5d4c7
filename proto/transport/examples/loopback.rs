//! Measures the transport on loopback: one-way latency of frames on a long-lived stream, echo, bulk throughput.
//! Two endpoints with a runtime and a thread each, as two processes would have.
//!
//! `cargo run --release -p proto-transport --example loopback [-- SECONDS_PER_LINE [WORKER_THREADS]]`
//! (no worker threads: tokio's single-threaded runtime, as the product's network threads use)

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use proto::{FrameKind, NodeKey};
use proto_transport::{Connection, ConnectionClass, Endpoint, EndpointConfig, FrameReceiver, Target};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

const KIB: usize = 1 << 10;

fn main() -> Result<()> {
    let seconds: f64 =
        std::env::args().nth(1).map_or(Ok(2.0), |text| text.parse()).context("SECONDS_PER_LINE")?;
    let line = Duration::from_secs_f64(seconds);
    let (tell, address) = oneshot::channel();
    let server = std::thread::Builder::new().name("server".into()).spawn(move || run(serve(tell)))?;
    run(async move {
        let addr = address.await.context("the server did not start")?;
        let endpoint = Endpoint::bind(EndpointConfig::new(NodeKey::from_seed(&[1; 32]), any_port()))?;
        let target = Target::node(NodeKey::from_seed(&[2; 32]).node_id(), addr);
        for size in [KIB, 8 * KIB, 64 * KIB] {
            for gap in [Duration::ZERO, Duration::from_millis(2), Duration::from_millis(20)] {
                let connection = endpoint.connect(target, ConnectionClass::Interactive).await?;
                one_way(&connection, size, gap, line).await?;
            }
        }
        let connection = endpoint.connect(target, ConnectionClass::Interactive).await?;
        echo(&connection, 8 * KIB, line).await?;
        drop(connection);
        let connection = endpoint.connect(target, ConnectionClass::Bulk).await?;
        bulk(&connection, 2 * KIB * KIB, line).await?;
        drop(connection);
        let connection = endpoint.connect(target, ConnectionClass::Discovery).await?;
        connection.request(FrameKind::Close, Bytes::new(), Duration::from_secs(1)).await.ok();
        endpoint.shutdown().await;
        anyhow::Ok(())
    })?;
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
}

/// Runs a future as a spawned task: waking the future inside `block_on` itself costs a system call.
fn run(future: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    runtime()?.block_on(async {
        let mut task = JoinSet::new();
        task.spawn(future);
        task.join_next().await.context("no task")??
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let threads: usize =
        std::env::args().nth(2).map_or(Ok(0), |text| text.parse()).context("WORKER_THREADS")?;
    let mut builder = match threads {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 0 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Accepts connections one after the other; the first stream says what is measured. A `Close` request ends it.
async fn serve(tell: oneshot::Sender<SocketAddr>) -> Result<()> {
    let endpoint = Endpoint::bind(EndpointConfig::new(NodeKey::from_seed(&[2; 32]), any_port()))?;
    tell.send(endpoint.local_addr()).ok().context("nobody asked for the address")?;
    while let Some(connection) = endpoint.accept().await {
        if connection.class() == ConnectionClass::Discovery {
            break;
        }
        while let Ok((mut sender, mut receiver)) = connection.accept_bi().await {
            let start = receiver.recv().await?.context("an empty stream")?;
            match start.kind {
                FrameKind::Open => {
                    let late = receive_stamped(&connection).await?;
                    sender.send(FrameKind::Activations, late.into()).await?;
                }
                FrameKind::Fetch => {
                    let mut blob = connection.accept_uni().await?;
                    while blob.recv().await?.is_some() {}
                    sender.send(FrameKind::NotFound, Bytes::new()).await?;
                }
                kind => {
                    sender.send(kind, start.body).await?;
                    while let Some(frame) = receiver.recv().await? {
                        sender.send(frame.kind, frame.body).await?;
                    }
                }
            }
        }
    }
    endpoint.shutdown().await;
    Ok(())
}

/// Microseconds that each frame of a stream took, from the stamp in its first eight bytes.
async fn receive_stamped(connection: &Connection) -> Result<Vec<u8>> {
    let mut stream: FrameReceiver = connection.accept_uni().await?;
    let mut late = Vec::new();
    while let Some(frame) = stream.recv().await? {
        let sent = u64::from_le_bytes(frame.body[..8].try_into()?);
        late.extend_from_slice(&(now_ns() - sent).to_le_bytes());
    }
    Ok(late)
}

async fn one_way(connection: &Connection, size: usize, gap: Duration, line: Duration) -> Result<()> {
    let (mut ask, mut answer) = connection.open_bi().await?;
    ask.send(FrameKind::Open, Bytes::new()).await?;
    let mut stream = connection.open_uni().await?;
    let end = Instant::now() + line;
    let mut count = 0;
    // The answer with all latencies must fit in one frame.
    while Instant::now() < end && count < 100_000 {
        let mut body = BytesMut::with_capacity(size);
        body.put_u64_le(now_ns());
        body.resize(size, 7);
        stream.send(FrameKind::Activations, body.freeze()).await?;
        count += 1;
        if gap.is_zero() {
            // Back to back, but never a queue of our own: let the packets go.
            tokio::time::sleep(Duration::from_micros(1)).await;
        } else {
            tokio::time::sleep(gap).await;
        }
    }
    stream.finish();
    let late = answer.recv().await?.context("no answer")?.body;
    let late =
        late.chunks_exact(8).map(|ns| u64::from_le_bytes(ns.try_into().unwrap_or_default()) as f64 / 1e3);
    report(
        &format!("one-way {} KiB, a frame each {} ms", size / KIB, gap.as_millis().max(1)),
        late.collect(),
    );
    Ok(())
}

async fn echo(connection: &Connection, size: usize, line: Duration) -> Result<()> {
    let (mut sender, mut receiver) = connection.open_bi().await?;
    let body = Bytes::from(vec![7; size]);
    let end = Instant::now() + line;
    let mut times = Vec::new();
    while Instant::now() < end {
        let sent = now_ns();
        sender.send(FrameKind::Activations, body.clone()).await?;
        receiver.recv().await?.context("no echo")?;
        times.push((now_ns() - sent) as f64 / 1e3);
    }
    report(&format!("echo {} KiB", size / KIB), times);
    Ok(())
}

async fn bulk(connection: &Connection, size: usize, line: Duration) -> Result<()> {
    let (mut ask, mut answer) = connection.open_bi().await?;
    ask.send(FrameKind::Fetch, Bytes::new()).await?;
    let mut stream = connection.open_uni().await?;
    let body = Bytes::from(vec![7; size]);
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < line {
        stream.send(FrameKind::Activations, body.clone()).await?;
        bytes += size;
    }
    stream.finish();
    answer.recv().await?.context("no answer")?;
    let seconds = started.elapsed().as_secs_f64();
    let stats = connection.stats();
    print_line(&format!(
        "bulk, frames of {} MiB: {:.0} MB/s ({} packets sent, {} lost, window {} kB)",
        size / KIB / KIB,
        bytes as f64 / seconds / 1e6,
        stats.sent_packets,
        stats.lost_packets,
        stats.congestion_window / 1000,
    ));
    Ok(())
}

fn report(what: &str, mut times: Vec<f64>) {
    // The first tenth warms caches and windows.
    times.drain(..times.len() / 10);
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    print_line(&format!(
        "{what:<34} n={:<6} p50 {:>7.1} us   p90 {:>7.1} us   p99 {:>7.1} us",
        times.len(),
        at(0.5),
        at(0.9),
        at(0.99)
    ));
}

#[expect(clippy::print_stdout, reason = "the result of a measurement")]
fn print_line(line: &str) {
    println!("{line}");
}

/// A clock that both threads share.
fn now_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
