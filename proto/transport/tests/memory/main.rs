//! Peers that make us hold large frames: how much memory that takes, who waits, who is closed. A binary of its own, as
//! it measures the process, and one test at a time.

#[path = "../loopback/support.rs"]
#[expect(dead_code, reason = "shared with the loopback tests; not all is needed here")]
mod support;

use std::time::Duration;

use bytes::Bytes;
use proto::{FrameHeader, FrameKind, status::CloseCode};
use proto_transport::{Closed, Connection, ConnectionClass, RecvError, Tuning};
use tokio::task::JoinSet;

use crate::support::{echo, endpoint, pair, resident_bytes, within};

/// The wire's limit of an `Activations` body.
const LARGEST: usize = 16 << 20;
/// What never quite becomes such a body.
const ALMOST: usize = 15 << 20;

/// Held by the test that runs.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A node's way: every stream has a task that reads it.
async fn read_all(connection: Connection) {
    let mut streams = JoinSet::new();
    while let Ok(mut stream) = connection.accept_uni().await {
        streams.spawn(async move { while let Ok(Some(_)) = stream.recv().await {} });
    }
    // The application lingers: what it still reads must end by itself.
    while streams.join_next().await.is_some() {}
}

/// Announces a body of 16 MiB, sends 15, and keeps the stream open until the connection ends.
async fn pin(connection: Connection, body: Bytes) {
    let Ok(mut sender) = connection.open_uni().await else { return };
    let header = FrameHeader::new(FrameKind::Activations, LARGEST).expect("at the limit").to_bytes();
    let _ = sender.send_unframed(Bytes::copy_from_slice(&header)).await;
    let _ = sender.send_unframed(body).await;
    connection.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_frames_pin_no_more_than_the_budget() {
    let _alone = ALONE.lock().await;
    let b = endpoint(2);
    let (honest, accepted) = pair(&endpoint(1), &b, ConnectionClass::Interactive).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(echo(accepted));
    let stranger = endpoint(3);
    let body = Bytes::from(vec![0xab; ALMOST]);
    for (class, streams) in
        [(ConnectionClass::Bulk, 128), (ConnectionClass::Bulk, 2), (ConnectionClass::Interactive, 128)]
    {
        let (dialled, accepted) = pair(&stranger, &b, class).await;
        tasks.spawn(read_all(accepted));
        let before = resident_bytes();
        let tuning = Tuning::default();
        let class = tuning.class(class);
        // Plus what the sender and the allocator take.
        let bound = class.most_received_bytes() + (32 << 20);
        let mut senders = JoinSet::new();
        for _ in 0..streams {
            senders.spawn(pin(dialled.clone(), body.clone()));
        }
        let (mut most, mut served) = (0, 0);
        let started = tokio::time::Instant::now();
        // Two unfinished frames are within the budget, so their connection stays.
        while dialled.close_reason().is_none() && (streams > 2 || started.elapsed() < Duration::from_secs(1))
        {
            most = most.max(resident_bytes().saturating_sub(before));
            assert!(most < bound, "{} MiB", most >> 20);
            assert!(started.elapsed() < Duration::from_secs(20), "neither closed nor over the bound");
            let answer = honest.request(FrameKind::Tokens, vec![1; 64].into(), Duration::from_secs(5)).await;
            assert_eq!(answer.expect("served meanwhile").body.len(), 64);
            served += 1;
        }
        println!("{streams} streams: at most {} MiB, {served} honest requests meanwhile", most >> 20);
        match dialled.close_reason() {
            None => assert_eq!(streams, 2),
            Some(Closed::ByPeer { code, .. }) => {
                assert_eq!(code, CloseCode::Overload);
                assert!(streams > 2);
            }
            Some(other) => panic!("{other}"),
        }
        dialled.close(CloseCode::Finished, "");
        within(async { while senders.join_next().await.is_some() {} }).await;
    }
}

#[tokio::test]
async fn a_large_frame_waits_while_the_application_holds_too_many() {
    let _alone = ALONE.lock().await;
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Bulk).await;
    let budget = Tuning::default().bulk.frame_budget as usize;
    let fit = budget / LARGEST;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut sender = dialled.open_uni().await.expect("open");
        for _ in 0..2 * fit {
            sender.send(FrameKind::Activations, vec![5; LARGEST].into()).await.expect("sent");
        }
        sender.send(FrameKind::Credit, vec![6; 10].into()).await.expect("sent");
        sender.finish();
        dialled.closed().await;
    });
    let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
    let mut held = Vec::new();
    for _ in 0..fit {
        held.push(within(receiver.recv()).await.expect("received").expect("a frame").body.slice(1..2));
    }
    for _ in 0..fit {
        let early = tokio::time::timeout(Duration::from_millis(200), receiver.recv()).await;
        assert!(early.is_err(), "the budget is spent on what we hold ourselves");
        assert_eq!(held.remove(0)[..], [5], "a piece keeps the whole body");
        // The dropped `recv` had read the header: nothing of it may be lost.
        let frame = within(receiver.recv()).await.expect("received").expect("a frame");
        assert_eq!(frame.body.len(), LARGEST);
        held.push(frame.body);
    }
    let small = within(receiver.recv()).await.expect("received").expect("small frames need no share");
    assert_eq!(small.body.len(), 10);
    assert_eq!(within(receiver.recv()).await, Ok(None));
    assert!(accepted.close_reason().is_none());
}

#[tokio::test]
async fn a_waiting_receiver_hears_of_the_connections_end() {
    let _alone = ALONE.lock().await;
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Bulk).await;
    let fit = Tuning::default().bulk.frame_budget as usize / LARGEST;
    let send = async {
        let mut sender = dialled.open_uni().await.expect("open");
        for _ in 0..fit {
            sender.send(FrameKind::Activations, vec![5; LARGEST].into()).await.expect("sent");
        }
        sender.send(FrameKind::Activations, vec![5; 1 << 20].into()).await.expect("sent");
        sender
    };
    let mut held = Vec::new();
    let receive = async {
        let mut receiver = accepted.accept_uni().await.expect("accepted");
        for _ in 0..fit {
            held.push(receiver.recv().await.expect("received").expect("a frame"));
        }
        receiver
    };
    let (_sender, mut receiver) = within(async { tokio::join!(send, receive) }).await;
    let end = async {
        tokio::task::yield_now().await;
        dialled.close(CloseCode::Finished, "");
    };
    let (ended, ()) = within(async { tokio::join!(receiver.recv(), end) }).await;
    assert!(matches!(ended, Err(RecvError::Connection(_))));
    assert_eq!(held.len(), fit);
}
