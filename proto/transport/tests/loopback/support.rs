//! Endpoints on loopback for the tests of this crate.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use proto::NodeKey;
use proto_transport::{Connection, ConnectionClass, Endpoint, EndpointConfig, Target};

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

/// `a` dials `b`: the connection as both see it.
pub(crate) async fn pair(a: &Endpoint, b: &Endpoint, class: ConnectionClass) -> (Connection, Connection) {
    let dial = a.connect(Target::node(b.node_id(), b.local_addr()), class);
    let (dialled, accepted) = within(async { tokio::join!(dial, b.accept()) }).await;
    (dialled.expect("dialled"), accepted.expect("accepted"))
}

/// Fails the test instead of hanging it.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("took over 20 s")
}
