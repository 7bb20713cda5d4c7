//! Who may connect to whom, over real QUIC on loopback.

use std::time::Duration;

use crate::support::{LOOPBACK, endpoint, key, pair, within};
use proto::FrameKind;
use proto_transport::{
    Closed, ConnectError, ConnectionClass, Direction, Endpoint, EndpointConfig, Target, Tuning,
};

#[tokio::test]
async fn both_sides_learn_the_others_proven_id() {
    for class in ConnectionClass::ALL {
        let (a, b) = (endpoint(1), endpoint(2));
        let (dialled, accepted) = pair(&a, &b, class).await;
        assert_eq!(
            (dialled.peer(), dialled.class(), dialled.direction()),
            (b.node_id(), class, Direction::Dialled)
        );
        assert_eq!(
            (accepted.peer(), accepted.class(), accepted.direction()),
            (a.node_id(), class, Direction::Accepted)
        );
        assert_eq!(dialled.remote_addr(), b.local_addr());
    }
}

#[tokio::test]
async fn a_wrong_id_is_refused_and_both_ids_are_named() {
    let (a, b) = (endpoint(1), endpoint(2));
    let expected = key(3).node_id();
    let error = within(a.connect(Target::node(expected, b.local_addr()), ConnectionClass::Interactive))
        .await
        .expect_err("another node lives there");
    assert!(!error.is_retryable());
    let text = error.to_string();
    assert!(text.contains(&expected.to_hex()) && text.contains(&b.node_id().to_hex()), "{text}");
    assert!(
        matches!(error, ConnectError::WrongNode { expected: e, found: f, .. } if e == expected && f == b.node_id())
    );
}

#[tokio::test]
async fn trust_first_returns_the_id_it_found() {
    let (a, b) = (endpoint(1), endpoint(2));
    let connection = within(a.connect(Target::trust_first(b.local_addr()), ConnectionClass::Discovery))
        .await
        .expect("anybody will do");
    assert_eq!(connection.peer(), b.node_id());
}

#[tokio::test]
async fn nobody_there_is_an_error_within_the_budget() {
    let a = endpoint(1);
    let gone = {
        let b = endpoint(2);
        let addr = b.local_addr();
        b.shutdown().await;
        addr
    };
    let started = tokio::time::Instant::now();
    let error = a
        .connect(Target::node(key(2).node_id(), gone), ConnectionClass::Interactive)
        .await
        .expect_err("nobody is there");
    let budget = Tuning::default().interactive.connect_timeout;
    assert!(started.elapsed() < budget + Duration::from_millis(500), "{:?}", started.elapsed());
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains(&gone.to_string()), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_answers_nobody() {
    let a = endpoint(1);
    let mut config = EndpointConfig::new(key(2), LOOPBACK);
    config.accept = false;
    let dial_only = Endpoint::bind(config).expect("any port");
    assert!(within(dial_only.accept()).await.is_none());
    let target = Target::node(dial_only.node_id(), dial_only.local_addr());
    let error = a.connect(target, ConnectionClass::Interactive).await.expect_err("nobody accepts");
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn the_wrong_ip_family_is_named() {
    let a = endpoint(1);
    let addr = "[::1]:7401".parse().expect("literal");
    let error =
        within(a.connect(Target::trust_first(addr), ConnectionClass::Bulk)).await.expect_err("v4 socket");
    assert!(matches!(error, ConnectError::BadAddress { .. }), "{error}");
}

#[tokio::test]
async fn a_closed_connection_says_who_closed_it_and_why() {
    use proto::status::CloseCode;
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    accepted.close(CloseCode::Superseded, "newer");
    let closed = within(dialled.closed()).await;
    assert_eq!(closed, Closed::ByPeer { code: CloseCode::Superseded, reason: "newer".into() });
    assert_eq!(within(accepted.closed()).await, Closed::Locally);
    assert_eq!(dialled.close_reason(), Some(closed));
}

#[tokio::test]
async fn the_last_handle_closes_the_connection() {
    use proto::status::CloseCode;
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let other = dialled.clone();
    drop(dialled);
    within(other.open_uni()).await.expect("still open");
    drop(other);
    let closed = within(accepted.closed()).await;
    assert_eq!(closed, Closed::ByPeer { code: CloseCode::Finished, reason: String::new() });
}

#[tokio::test]
async fn a_frame_crosses_in_each_direction() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    for (from, to) in [(&dialled, &accepted), (&accepted, &dialled)] {
        let mut sender = within(from.open_uni()).await.expect("open");
        sender.send(FrameKind::Tokens, vec![7; 300].into()).await.expect("sent");
        let mut receiver = within(to.accept_uni()).await.expect("accepted");
        let frame = within(receiver.recv()).await.expect("received").expect("a frame");
        assert_eq!((frame.kind, frame.body.len()), (FrameKind::Tokens, 300));
    }
}
