//! Endpoints on loopback for the tests of this crate.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use proto::NodeKey;
use proto_transport::{Connection, ConnectionClass, Endpoint, EndpointConfig, Target, testing::Faults};

/// Any free port.
pub(crate) const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// The key with this number.
pub(crate) fn key(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

/// An endpoint with the key of this number.
pub(crate) fn endpoint(number: u8) -> Endpoint {
    Endpoint::bind(EndpointConfig::new(key(number), LOOPBACK)).expect("any free port")
}

/// An endpoint on a faulty network; prints the seed, which a failed test shows.
#[expect(clippy::print_stdout, reason = "the seed of a failed test")]
pub(crate) fn faulty(number: u8) -> (Endpoint, Faults) {
    let seed = std::env::var("LAYERLANE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7401);
    let faults = Faults::new(seed + u64::from(number));
    println!("seed of endpoint {number}: {} (LAYERLANE_SEED={seed})", faults.seed());
    let config = EndpointConfig::new(key(number), LOOPBACK).with_faults(&faults);
    (Endpoint::bind(config).expect("any free port"), faults)
}

/// `a` dials `b`: the connection as both see it.
pub(crate) async fn pair(a: &Endpoint, b: &Endpoint, class: ConnectionClass) -> (Connection, Connection) {
    let dial = a.connect(Target::node(b.node_id(), b.local_addr()), class);
    let (dialled, accepted) = within(async { tokio::join!(dial, b.accept()) }).await;
    (dialled.expect("dialled"), accepted.expect("accepted"))
}

/// Fails the test instead of hanging it.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("took over 30 s")
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("always there");
    let kilobytes: usize =
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kilobytes << 10
}

/// Answers every two-way stream of a connection with the frame it brought, until the connection ends.
pub(crate) async fn echo(connection: Connection) {
    while let Ok((mut sender, mut receiver)) = connection.accept_bi().await {
        while let Ok(Some(frame)) = receiver.recv().await {
            if sender.send(frame.kind, frame.body).await.is_err() {
                break;
            }
        }
    }
}
