//! Peers that fall silent, and endings that must be prompt.

use std::time::Duration;

use bytes::Bytes;
use proto::{FrameKind, status::CloseCode};
use proto_transport::{Closed, ConnectionClass, Endpoint, EndpointConfig, Target};
use tokio::time::Instant;

use crate::support::{LOOPBACK, endpoint, faulty, key, pair, within};

/// The issue allows a router 1.5 s to name the dead node; this is the transport's part of it.
const SEEN_WITHIN: Duration = Duration::from_millis(1300);

#[tokio::test]
async fn a_dialler_sees_a_killed_peer_in_time() {
    for class in [ConnectionClass::Interactive, ConnectionClass::Bulk] {
        let (a, (b, faults)) = (endpoint(1), faulty(2));
        let (dialled, _accepted) = pair(&a, &b, class).await;
        faults.freeze();
        let frozen = Instant::now();
        assert_eq!(within(dialled.closed()).await, Closed::TimedOut);
        assert!(frozen.elapsed() <= SEEN_WITHIN, "{class}: {:?}", frozen.elapsed());
    }
}

#[tokio::test]
async fn an_acceptor_sees_a_killed_peer_in_time() {
    for class in [ConnectionClass::Interactive, ConnectionClass::Bulk] {
        let ((a, faults), b) = (faulty(1), endpoint(2));
        let (_dialled, accepted) = pair(&a, &b, class).await;
        faults.freeze();
        let frozen = Instant::now();
        assert_eq!(within(accepted.closed()).await, Closed::TimedOut);
        assert!(frozen.elapsed() <= SEEN_WITHIN, "{class}: {:?}", frozen.elapsed());
    }
}

#[tokio::test]
async fn a_killed_peer_is_seen_in_time_while_frames_are_sent_to_it() {
    let (a, (b, faults)) = (endpoint(1), faulty(2));
    let (dialled, _accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut sender = within(dialled.open_uni()).await.expect("open");
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..5 {
        tick.tick().await;
        sender.send(FrameKind::Activations, Bytes::from(vec![0; 8192])).await.expect("sent");
    }
    faults.freeze();
    let frozen = Instant::now();
    loop {
        tick.tick().await;
        let body = Bytes::from(vec![0; 8192]);
        if within(sender.send(FrameKind::Activations, body)).await.is_err() {
            break;
        }
    }
    assert_eq!(dialled.close_reason(), Some(Closed::TimedOut));
    assert!(frozen.elapsed() <= SEEN_WITHIN, "{:?}", frozen.elapsed());
}

#[tokio::test]
async fn an_idle_session_connection_stays_open() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let idle = tokio::time::timeout(Duration::from_millis(2500), async {
        tokio::select! { closed = dialled.closed() => closed, closed = accepted.closed() => closed }
    });
    assert!(idle.await.is_err(), "keep-alives hold it open");
}

#[tokio::test]
async fn a_cut_in_one_direction_ends_both_sides() {
    let ((a, faults), b) = (faulty(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    faults.cut_from(b.local_addr());
    let cut = Instant::now();
    // `a` hears nothing any more; `b` still hears its pings until `a` gives up.
    assert_eq!(within(dialled.closed()).await, Closed::TimedOut);
    assert!(cut.elapsed() <= SEEN_WITHIN, "{:?}", cut.elapsed());
    assert_eq!(within(accepted.closed()).await, Closed::TimedOut);
}

#[tokio::test]
async fn a_short_freeze_is_survived() {
    let (a, (b, faults)) = (endpoint(1), faulty(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    faults.freeze();
    assert!(tokio::time::timeout(Duration::from_millis(400), dialled.closed()).await.is_err());
    faults.thaw();
    let mut sender = within(accepted.open_uni()).await.expect("open");
    within(sender.send(FrameKind::Credit, Bytes::new())).await.expect("sent");
    let mut receiver = within(dialled.accept_uni()).await.expect("accepted");
    assert!(within(receiver.recv()).await.expect("received").is_some());
}

#[tokio::test]
async fn shutdown_is_prompt_tells_the_peers_and_frees_the_port() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let started = Instant::now();
    b.shutdown().await;
    assert!(started.elapsed() < Duration::from_millis(800), "{:?}", started.elapsed());
    assert!(
        matches!(within(dialled.closed()).await, Closed::ByPeer { code: CloseCode::ShuttingDown, .. }),
        "{:?}",
        dialled.close_reason()
    );
    assert_eq!(accepted.close_reason(), Some(Closed::Locally));
    assert!(within(b.accept()).await.is_none());
    let target = Target::node(a.node_id(), a.local_addr());
    let error = within(b.connect(target, ConnectionClass::Bulk)).await.expect_err("shut down");
    assert!(!error.is_retryable());
    drop(accepted);
    Endpoint::bind(EndpointConfig::new(key(3), b.local_addr())).expect("the port is free again");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_the_dead() {
    let (a, (b, faults)) = (endpoint(1), faulty(2));
    let (_dialled, _accepted) = pair(&a, &b, ConnectionClass::Discovery).await;
    faults.freeze();
    let started = Instant::now();
    a.shutdown().await;
    let bound = a.tuning().shutdown_timeout + Duration::from_millis(300);
    assert!(started.elapsed() < bound, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_busy_port_is_refused_with_the_cure() {
    let a = endpoint(1);
    let error = Endpoint::bind(EndpointConfig::new(key(2), a.local_addr())).expect_err("taken");
    assert!(error.is_busy());
    assert!(error.to_string().contains(&a.local_addr().port().to_string()), "{error}");
    let free = Endpoint::bind(EndpointConfig::new(key(2), LOOPBACK)).expect("any other");
    assert_ne!(free.local_addr(), a.local_addr());
}
