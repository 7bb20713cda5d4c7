//! Bodies that come as the test says.

use std::convert::Infallible;
use std::task::{Context, Poll};

use hyper::body::Frame;
use tokio::sync::mpsc;

use super::*;

/// A body whose parts come when the test says so.
struct Parts(mpsc::Receiver<usize>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|part| part.map(|bytes| Ok(Frame::data(Bytes::from(vec![b' '; bytes])))))
    }
}

fn reader(body_units: usize, all_units: usize) -> BodyReader {
    BodyReader::new(HttpLimits {
        body_bytes: SMALL + body_units * UNIT,
        bodies_bytes: all_units * UNIT,
        ..HttpLimits::default()
    })
}

async fn whole(reader: &BodyReader, bytes: usize) -> Result<Room, Problem> {
    let (sender, parts) = mpsc::channel(1);
    sender.send(bytes).await.unwrap();
    drop(sender);
    reader.receive(Parts(parts)).await.map(|(_, room)| room)
}

#[tokio::test(start_paused = true)]
async fn silent_clients_take_no_room() {
    let reader = reader(4, 4);
    let (_silent, parts) = mpsc::channel(1);
    let mut waiting = std::pin::pin!(reader.receive(Parts(parts)));
    tokio::select! {
        biased;
        _ = waiting.as_mut() => panic!("nothing was sent"),
        () = tokio::task::yield_now() => {}
    }
    let room = whole(&reader, SMALL + 4 * UNIT).await.unwrap();
    assert_eq!(room.taken.unwrap().num_permits(), 4);
}

#[tokio::test(start_paused = true)]
async fn room_is_held_until_the_prompt_is_encoded_and_who_finds_none_hears_so_at_once() {
    let reader = reader(4, 4);
    let being_encoded = whole(&reader, SMALL + 3 * UNIT).await.unwrap();
    let begun = Instant::now();
    let problem = whole(&reader, SMALL + 2 * UNIT).await.unwrap_err();
    assert_eq!((problem.code(), begun.elapsed()), (ErrorCode::Busy, Duration::ZERO));
    assert!(problem.error().try_again_after() > Some(Duration::ZERO));
    drop(whole(&reader, SMALL + UNIT).await.unwrap());
    let _all = whole(&reader, SMALL + UNIT).await.unwrap();
    // Small ones have their own room, however many there are.
    for _ in 0..100 {
        drop(whole(&reader, SMALL).await.unwrap());
    }
    drop(being_encoded);
    drop(whole(&reader, SMALL + 3 * UNIT).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_a_byte_now_and_then_has_no_more_time_than_others() {
    let reader = reader(4, 4);
    let (sender, parts) = mpsc::channel(1);
    let begun = Instant::now();
    let drip = async {
        let mut every = tokio::time::interval(Duration::from_secs(3));
        while sender.send(1).await.is_ok() {
            every.tick().await;
        }
    };
    let read = async { reader.receive(Parts(parts)).await.map(drop) };
    let (read, ()) = tokio::join!(read, drip);
    assert_eq!(read.unwrap_err().code(), ErrorCode::BodyTimeout);
    assert!(begun.elapsed() < HttpLimits::default().body_within + Duration::from_secs(4));
    assert_eq!(reader.budget.available_permits(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_that_stands_still_gives_its_room_back_soon() {
    let reader = reader(1000, 1000);
    let (sender, parts) = mpsc::channel(1);
    let begun = Instant::now();
    sender.send(SMALL + 900 * UNIT).await.unwrap();
    let drip = async {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        while sender.send(UNIT).await.is_ok() {
            every.tick().await;
        }
    };
    let read = async { reader.receive(Parts(parts)).await.map(drop) };
    let (read, ()) = tokio::join!(read, drip);
    assert_eq!(read.unwrap_err().code(), ErrorCode::BodyTimeout);
    assert!(begun.elapsed() < STALL + Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(reader.budget.available_permits(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_on_a_slow_line_is_read_to_its_end() {
    let reader = reader(1000, 1000);
    let (sender, parts) = mpsc::channel(1);
    let send = async {
        let mut every = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..250 {
            every.tick().await;
            // 40 KiB a second.
            sender.send(UNIT).await.unwrap();
        }
        drop(sender);
    };
    let read = async { reader.receive(Parts(parts)).await.map(|(bytes, _)| bytes.len()) };
    let (read, ()) = tokio::join!(read, send);
    assert_eq!(read.unwrap(), 250 * UNIT);
}
