//! Shared dials and the table of connections; the metrics that count them.

use std::{net::SocketAddr, time::Duration};

use prometheus::{Encoder, Registry, TextEncoder};
use proto::{FrameKind, NodeId, status::CloseCode};
use proto_transport::{ConnectError, ConnectionClass, Endpoint, EndpointConfig, Peers, TransportMetrics};

use crate::support::{LOOPBACK, echo, endpoint, key, within};

const INTERACTIVE: ConnectionClass = ConnectionClass::Interactive;

fn counted(number: u8) -> (Endpoint, Registry) {
    let registry = Registry::new();
    let mut config = EndpointConfig::new(key(number), LOOPBACK);
    config.metrics = TransportMetrics::new(&registry).expect("a fresh registry");
    (Endpoint::bind(config).expect("any free port"), registry)
}

fn value(registry: &Registry, series: &str) -> f64 {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).expect("encodes");
    let text = String::from_utf8(text).expect("ASCII");
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().expect("a number"))
}

#[tokio::test]
async fn dials_at_the_same_time_are_one_dial() {
    let ((a, registry), b) = (counted(1), endpoint(2));
    let peers = Peers::new(a, 8);
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (peers, node, addr) = (peers.clone(), b.node_id(), b.local_addr());
        asks.spawn(async move { peers.connection(node, &[addr], INTERACTIVE).await.map(|c| c.peer()) });
    }
    while let Some(asked) = within(asks.join_next()).await {
        assert_eq!(asked.expect("no panic").expect("dialled"), b.node_id());
    }
    let series = "transport_connections_total{class=\"interactive\",direction=\"dialled\"}";
    assert_eq!(value(&registry, series), 1.0);
    assert_eq!(peers.open_connections(), 1);
    within(peers.connection(b.node_id(), &[b.local_addr()], ConnectionClass::Bulk)).await.expect("dialled");
    assert_eq!(peers.open_connections(), 2, "each class has its own");
}

#[tokio::test]
async fn a_failed_dial_fails_for_all_who_wait_and_is_tried_anew() {
    let ((a, registry), b) = (counted(1), endpoint(2));
    let peers = Peers::new(a, 8);
    let wrong = key(9).node_id();
    let addrs = [b.local_addr()];
    let ask = || peers.connection(wrong, &addrs, INTERACTIVE);
    let (one, two) = within(async { tokio::join!(ask(), ask()) }).await;
    for error in [one.expect_err("wrong id"), two.expect_err("wrong id")] {
        assert!(matches!(error, ConnectError::WrongNode { .. }), "{error}");
    }
    let series = "transport_handshake_failures_total{direction=\"dialled\",reason=\"wrong_node\"}";
    assert_eq!(value(&registry, series), 1.0);
    within(ask()).await.expect_err("still wrong");
    assert_eq!(value(&registry, series), 2.0);
    let error = within(peers.connection(b.node_id(), &[], INTERACTIVE)).await.expect_err("where?");
    assert!(matches!(error, ConnectError::NoAddress { .. }));
}

#[tokio::test]
async fn a_dead_connection_is_dialled_anew() {
    let (a, b) = (endpoint(1), endpoint(2));
    let peers = Peers::new(a, 8);
    let addrs = [b.local_addr()];
    let ask = || peers.connection(b.node_id(), &addrs, INTERACTIVE);
    let first = within(ask()).await.expect("dialled");
    assert!(peers.get(b.node_id(), INTERACTIVE).is_some());
    let accepted = within(b.accept()).await.expect("accepted");
    accepted.close(CloseCode::ShuttingDown, "");
    within(first.closed()).await;
    assert!(peers.get(b.node_id(), INTERACTIVE).is_none());
    let second = within(ask()).await.expect("dialled anew");
    assert_eq!(second.close_reason(), None);
    peers.forget(b.node_id());
    assert_eq!(peers.open_connections(), 0);
    assert_eq!(second.close_reason(), None, "its user still has it");
}

#[tokio::test]
async fn a_full_table_lets_go_of_the_one_unused_for_longest() {
    let a = endpoint(1);
    let peers = Peers::new(a, 2);
    let others: Vec<Endpoint> = (2..5).map(endpoint).collect();
    let ask = |b: &Endpoint| {
        let (peers, node, addr) = (peers.clone(), b.node_id(), b.local_addr());
        async move { within(peers.connection(node, &[addr], INTERACTIVE)).await.expect("dialled") }
    };
    let _first = ask(&others[0]).await;
    let second = ask(&others[1]).await;
    drop(second);
    ask(&others[0]).await;
    ask(&others[2]).await;
    let kept: Vec<bool> = others.iter().map(|b| peers.get(b.node_id(), INTERACTIVE).is_some()).collect();
    assert_eq!(kept, [true, false, true]);
    let accepted = within(others[1].accept()).await.expect("accepted");
    within(accepted.closed()).await;
}

#[tokio::test]
async fn a_dead_address_costs_a_head_start_only() {
    let (a, b) = (endpoint(1), endpoint(2));
    let nobody: SocketAddr = {
        let gone = endpoint(3);
        let addr = gone.local_addr();
        gone.shutdown().await;
        addr
    };
    let peers = Peers::new(a, 8);
    let started = tokio::time::Instant::now();
    within(peers.connection(b.node_id(), &[nobody, b.local_addr()], INTERACTIVE)).await.expect("dialled");
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn two_that_dial_each_other_each_use_their_own() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (from_a, from_b) = (Peers::new(a.clone(), 8), Peers::new(b.clone(), 8));
    let (of_a, of_b) = ([a.local_addr()], [b.local_addr()]);
    let (to_b, to_a) = within(async {
        tokio::join!(
            from_a.connection(b.node_id(), &of_b, INTERACTIVE),
            from_b.connection(a.node_id(), &of_a, INTERACTIVE)
        )
    })
    .await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(echo(within(a.accept()).await.expect("accepted")));
    tasks.spawn(echo(within(b.accept()).await.expect("accepted")));
    for connection in [to_a.expect("dialled"), to_b.expect("dialled")] {
        let answer = connection.request(FrameKind::Tokens, vec![1].into(), Duration::from_secs(5)).await;
        assert_eq!(answer.expect("answered").body[..], [1]);
    }
}

#[tokio::test]
async fn one_peer_may_not_hold_every_slot() {
    let mut config = EndpointConfig::new(key(2), LOOPBACK);
    config.tuning.max_connections_per_peer = 3;
    let (a, b) = (endpoint(1), Endpoint::bind(config).expect("any free port"));
    let target = proto_transport::Target::node(b.node_id(), b.local_addr());
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(within(a.connect(target, INTERACTIVE)).await.expect("dialled"));
        held.push(within(b.accept()).await.expect("accepted"));
    }
    let fourth = within(a.connect(target, INTERACTIVE)).await.expect("the key is fine");
    let closed = within(fourth.closed()).await;
    assert!(matches!(closed, proto_transport::Closed::ByPeer { code: CloseCode::Overload, .. }), "{closed}");
    within(endpoint(3).connect(target, INTERACTIVE)).await.expect("others are welcome");
}

#[tokio::test]
async fn metrics_count_connections_and_frames() {
    let ((a, registry), b) = (counted(1), endpoint(2));
    let (dialled, accepted) = crate::support::pair(&a, &b, INTERACTIVE).await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(echo(accepted));
    dialled.request(FrameKind::Tokens, vec![0; 92].into(), Duration::from_secs(5)).await.expect("answered");
    for direction in ["sent", "received"] {
        let labels = format!("{{class=\"interactive\",direction=\"{direction}\"}}");
        assert_eq!(value(&registry, &format!("transport_frames_total{labels}")), 1.0);
        assert_eq!(value(&registry, &format!("transport_frame_bytes_total{labels}")), 100.0);
    }
    let open = "transport_connections{class=\"interactive\",direction=\"dialled\"}";
    assert_eq!(value(&registry, open), 1.0);
    dialled.close(CloseCode::Finished, "");
    a.shutdown().await;
    assert_eq!(value(&registry, open), 0.0);
    assert_eq!(value(&registry, "transport_closed_total{reason=\"local\"}"), 1.0);
    assert!(value(&registry, "transport_udp_bytes_total{direction=\"sent\"}") > 1200.0);
    assert!(TransportMetrics::new(&registry).is_err(), "registered once");
}

#[tokio::test]
async fn an_unknown_peer_is_nowhere() {
    let peers = Peers::new(endpoint(1), 1);
    assert!(peers.get(NodeId::from_bytes([9; 32]), INTERACTIVE).is_none());
}
