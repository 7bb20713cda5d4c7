//! Frames over real streams: order, limits, cancellation, requests.

use std::time::Duration;

use bytes::Bytes;
use proto::{
    FrameHeader, FrameKind,
    frame::FrameError,
    status::{CloseCode, NodeStatus, NotFound, StatusRequest},
};
use proto_transport::{
    Closed, ConnectionClass, Endpoint, EndpointConfig, RecvError, RequestError, SendError, StreamPriority,
};

use crate::support::{LOOPBACK, echo, endpoint, key, pair, resident_bytes, within};

#[tokio::test]
async fn frames_of_every_size_arrive_whole_and_in_order() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Bulk).await;
    let sizes = [0, 1, 7, 8, 9, 1200, 65_535, 65_536, 1 << 20, 2 << 20, 16 << 20, 0, 3];
    let send = async {
        let mut sender = dialled.open_uni().await.expect("open");
        sender.set_priority(StreamPriority::High);
        for (number, &size) in (0_u8..).zip(&sizes) {
            // In three pieces, one of them empty.
            let body = Bytes::from(vec![number; size]);
            let mut pieces = [body.slice(..size / 2), Bytes::new(), body.slice(size / 2..)];
            sender.send_chunks(FrameKind::Activations, &mut pieces).await.expect("sent");
        }
        sender.finish();
        assert_eq!(sender.stopped().await.expect("open"), None);
    };
    let receive = async {
        let mut receiver = accepted.accept_uni().await.expect("accepted");
        for (number, &size) in (0_u8..).zip(&sizes) {
            let frame = receiver.recv().await.expect("received").expect("a frame");
            assert_eq!(frame.kind, FrameKind::Activations);
            assert_eq!(frame.body.len(), size);
            assert!(frame.body.iter().all(|&byte| byte == number));
        }
        assert_eq!(receiver.recv().await, Ok(None));
        assert_eq!(receiver.recv().await, Ok(None), "the end stays the end");
    };
    within(async { tokio::join!(send, receive) }).await;
}

#[tokio::test]
async fn our_own_oversized_frame_is_refused_before_it_is_sent() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut sender = within(dialled.open_uni()).await.expect("open");
    let error =
        within(sender.send(FrameKind::Credit, vec![0; 1025].into())).await.expect_err("limit is 1 KiB");
    assert!(matches!(error, SendError::Frame(FrameError::TooLong { .. })));
    within(sender.send(FrameKind::Credit, vec![0; 1024].into())).await.expect("the stream is still good");
    let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
    assert_eq!(within(receiver.recv()).await.expect("received").expect("a frame").body.len(), 1024);
}

#[tokio::test]
async fn a_bad_header_closes_the_connection_and_says_why() {
    let too_long = {
        let mut bytes = FrameHeader::new(FrameKind::Ping, 0).expect("empty").to_bytes();
        bytes[4..].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    let headers = [[0xff; 8], [1, 0, 1, 0, 0, 0, 0, 0], too_long];
    for header in headers {
        let (a, b) = (endpoint(1), endpoint(2));
        let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
        let mut sender = within(dialled.open_uni()).await.expect("open");
        within(sender.send_unframed(Bytes::copy_from_slice(&header))).await.expect("sent");
        let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
        let expected = FrameHeader::parse(header).expect_err("bad");
        assert_eq!(within(receiver.recv()).await, Err(RecvError::Frame(expected)));
        let closed = within(dialled.closed()).await;
        assert_eq!(closed, Closed::ByPeer { code: CloseCode::Protocol, reason: expected.to_string() });
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_closes_the_connection() {
    for bytes in [vec![1], FrameHeader::new(FrameKind::Open, 9).expect("small").to_bytes().to_vec()] {
        let (a, b) = (endpoint(1), endpoint(2));
        let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
        let mut sender = within(dialled.open_uni()).await.expect("open");
        within(sender.send_unframed(bytes.into())).await.expect("sent");
        sender.finish();
        let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
        assert_eq!(within(receiver.recv()).await, Err(RecvError::Truncated));
        assert!(matches!(within(dialled.closed()).await, Closed::ByPeer { code: CloseCode::Protocol, .. }));
    }
}

#[tokio::test]
async fn announced_bodies_that_never_come_cost_no_memory() {
    // As many as the budget of a bulk connection lets a peer announce.
    const STREAMS: usize = 2;
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Bulk).await;
    let limit = FrameKind::Activations.max_body();
    let header = FrameHeader::new(FrameKind::Activations, limit).expect("at the limit").to_bytes();
    let before = resident_bytes();
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        let mut sender = within(dialled.open_uni()).await.expect("open");
        within(sender.send_unframed(Bytes::copy_from_slice(&header))).await.expect("sent");
        let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
        assert!(tokio::time::timeout(Duration::from_millis(5), receiver.recv()).await.is_err(), "no body");
        held.push((sender, receiver));
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < STREAMS * limit / 8, "{grown} bytes for {STREAMS} announced bodies of {limit}");
}

#[tokio::test]
async fn a_cancelled_recv_loses_nothing() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut sender = within(dialled.open_uni()).await.expect("open");
    let mut bytes = FrameHeader::new(FrameKind::Tokens, 40).expect("small").to_bytes().to_vec();
    bytes.extend(0..40_u8);
    within(sender.send_unframed(vec![bytes[0]].into())).await.expect("sent");
    let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
    for byte in &bytes[1..bytes.len() - 1] {
        within(sender.send_unframed(vec![*byte].into())).await.expect("sent");
        assert!(tokio::time::timeout(Duration::from_millis(1), receiver.recv()).await.is_err(), "incomplete");
    }
    within(sender.send_unframed(vec![39].into())).await.expect("sent");
    let frame = within(receiver.recv()).await.expect("received").expect("a frame");
    assert!(frame.body.iter().copied().eq(0..40));
}

#[tokio::test]
async fn a_cancelled_send_resets_its_stream_and_only_that() {
    let mut config = EndpointConfig::new(key(2), LOOPBACK);
    for class in [&mut config.tuning.interactive, &mut config.tuning.bulk, &mut config.tuning.discovery] {
        class.stream_window = 64 << 10;
    }
    let (a, b) = (endpoint(1), Endpoint::bind(config).expect("any free port"));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut sender = within(dialled.open_uni()).await.expect("open");
    let big = Bytes::from(vec![1; 16 << 20]);
    let blocked = sender.send(FrameKind::Activations, big.clone());
    assert!(tokio::time::timeout(Duration::from_millis(50), blocked).await.is_err(), "nobody reads");
    assert_eq!(within(sender.send(FrameKind::Activations, big)).await, Err(SendError::Cancelled));
    let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
    assert_eq!(within(receiver.recv()).await, Err(RecvError::Reset(CloseCode::Cancelled)));
    let mut sender = within(dialled.open_uni()).await.expect("the connection is fine");
    within(sender.send(FrameKind::Credit, Bytes::new())).await.expect("sent");
    let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
    assert!(within(receiver.recv()).await.expect("received").is_some());
}

#[tokio::test]
async fn a_receiver_that_stops_tells_the_sender() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut sender = within(dialled.open_uni()).await.expect("open");
    within(sender.send(FrameKind::Credit, Bytes::new())).await.expect("sent");
    let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
    receiver.stop(CloseCode::Cancelled);
    assert_eq!(within(sender.stopped()).await, Ok(Some(CloseCode::Cancelled)));
    let error = within(sender.send(FrameKind::Credit, Bytes::new())).await.expect_err("stopped");
    assert_eq!(error, SendError::Stopped(CloseCode::Cancelled));
}

#[tokio::test]
async fn a_request_has_its_answer_or_an_error_in_time() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let timeout = Duration::from_millis(200);
    let ask = async {
        let status: NodeStatus = dialled.request_message(&StatusRequest, timeout).await.expect("answered");
        assert_eq!(status.sessions, 3);
        let error =
            dialled.request_message::<_, NodeStatus>(&StatusRequest, timeout).await.expect_err("other kind");
        assert!(matches!(error, RequestError::Decode(_)), "{error}");
        let error = dialled.request(FrameKind::Ping, Bytes::new(), timeout).await.expect_err("no frame");
        assert!(matches!(error, RequestError::NoAnswer(FrameKind::Ping)), "{error}");
        let error = dialled.request(FrameKind::Ping, Bytes::new(), timeout).await.expect_err("no end either");
        assert!(matches!(error, RequestError::TimedOut { kind: FrameKind::Ping, .. }), "{error}");
        dialled.close(CloseCode::Finished, "");
        let error = dialled.request(FrameKind::Ping, Bytes::new(), timeout).await.expect_err("closed");
        assert!(matches!(error, RequestError::Send(SendError::Connection(Closed::Locally))), "{error}");
    };
    let answer = async {
        let status = NodeStatus { sessions: 3, kv_reserved: 0, kv_capacity: 0, step_us: 0, draining: false };
        let (mut sender, mut receiver) = accepted.accept_bi().await.expect("accepted");
        assert!(receiver.recv_message::<StatusRequest>().await.expect("received").expect("a frame").is_ok());
        sender.send_message(&status).await.expect("sent");
        let (mut sender, _receiver) = accepted.accept_bi().await.expect("accepted");
        sender.send_message(&NotFound).await.expect("sent");
        let (sender, _receiver) = accepted.accept_bi().await.expect("accepted");
        drop(sender);
        let (_sender, mut receiver) = accepted.accept_bi().await.expect("accepted");
        while let Ok(Some(_)) = receiver.recv().await {}
        accepted.closed().await;
    };
    within(async { tokio::join!(ask, answer) }).await;
}

#[tokio::test]
async fn many_requests_at_once_share_a_connection() {
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(echo(accepted));
    // More than the peer lets us have open at once: the rest wait their turn.
    let mut asks = tokio::task::JoinSet::new();
    for number in 0..500_u32 {
        let dialled = dialled.clone();
        asks.spawn(async move {
            let body = Bytes::copy_from_slice(&number.to_le_bytes());
            let answer = dialled.request(FrameKind::Tokens, body.clone(), Duration::from_secs(20)).await;
            assert_eq!(answer.expect("answered").body, body);
        });
    }
    while let Some(asked) = within(asks.join_next()).await {
        asked.expect("no panic");
    }
}
