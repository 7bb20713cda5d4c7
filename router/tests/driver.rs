//! The driver over real QUIC against scripted nodes: what it sends, and what it makes of honest, dying, stalled and
//! lying ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scripted;

use std::time::Duration;

use bytes::Bytes;
use proto::session::{Failed, Finish, Sampled};
use proto::status::{CloseCode, Refusal, RefusalCode};
use proto::{FrameKind, Generation, SessionId};
use router::driver::{Session, SessionEnd};
use router::session::{FinishReason, Outcome};
use scripted::{Heard, Node, OnOpen, PATIENCE, driver, ended, plan, progress, sampled, terms};
use tokio::time::{Instant, timeout};

async fn next(session: &mut Session) -> u32 {
    timeout(PATIENCE, session.next()).await.expect("a token should come").expect("a token").token.token
}

async fn end(session: Session) -> SessionEnd {
    timeout(PATIENCE, session.end()).await.expect("the session should end")
}

/// The error of a session that is expected to fail.
async fn failure(mut session: Session) -> String {
    let drained = async { while session.next().await.is_some() {} };
    timeout(PATIENCE, drained).await.expect("the session should end");
    match end(session).await.outcome {
        Outcome::Failed(error) => error.to_string(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn pair() -> (Node, Node) {
    (Node::start(1, OnOpen::Accept), Node::start(2, OnOpen::Accept))
}

#[tokio::test]
async fn a_session_opens_downstream_first_streams_and_collects_accounts() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    assert!(last.hear_open().await.tail.is_some());
    assert!(first.hear_open().await.tail.is_none());
    assert_eq!(first.hear_tokens().await.tokens, [5, 6, 7]);
    assert_eq!(first.hear_credit().await.run_until.get(), 7);
    for position in 3..6 {
        last.report(&sampled(1, position, 40 + position)).await;
        assert_eq!(next(&mut session).await, 40 + position);
        // Each token read is one more position of credit.
        assert_eq!(first.hear_credit().await.run_until.get(), 5 + position);
    }
    last.report(&Sampled { finish: Finish::Eos, ..sampled(1, 6, 2) }).await;
    assert_eq!(next(&mut session).await, 2);
    assert!(session.next().await.is_none());
    assert_eq!(first.hear_close().await.code, CloseCode::Finished);
    assert_eq!(last.hear_close().await.code, CloseCode::Finished);
    first.report(&ended(1)).await;
    last.report(&ended(1)).await;
    let end = end(session).await;
    assert_eq!(end.outcome, Outcome::Finished(FinishReason::Stop));
    assert_eq!(end.accounts, [Some(ended(1)), Some(ended(1))]);
    driver.shutdown().await;
}

#[tokio::test]
async fn a_slow_client_gets_no_further_credit() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    assert_eq!(first.hear_credit().await.run_until.get(), 7);
    for position in 3..=7 {
        last.report(&sampled(1, position, 40)).await;
    }
    // All five have arrived when the fifth can be read; only then does credit move.
    for _ in 0..5 {
        next(&mut session).await;
    }
    let mut granted = 7;
    while granted < 12 {
        let credit = first.hear_credit().await.run_until.get();
        assert!(credit > granted && credit <= 12, "{credit} after {granted}");
        granted = credit;
    }
    driver.shutdown().await;
}

#[tokio::test]
async fn a_tail_beyond_its_credit_is_a_violation() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    for position in 3..=8 {
        last.report(&sampled(1, position, 40)).await;
    }
    // Nobody reads, so the sixth token is one too many.
    let end = async {
        loop {
            if let Heard::Close(close) = first.hear().await {
                return close;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, end).await.unwrap().code, CloseCode::Protocol);
    assert!(failure(session).await.contains("ran past its credit"));
    driver.shutdown().await;
}

#[tokio::test]
async fn a_frozen_node_is_named_within_one_and_a_half_seconds() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    last.report(&sampled(1, 3, 40)).await;
    next(&mut session).await;
    last.faults.freeze();
    let frozen = Instant::now();
    // The other one lives on.
    let alive = async {
        loop {
            first.report(&progress(1, 4)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let text = tokio::select! {
        text = failure(session) => text,
        () = alive => unreachable!(),
    };
    let took = frozen.elapsed();
    assert!(took < Duration::from_millis(4500), "{took:?}");
    let named = format!("node {} (layers 15..30, {}) was lost", last.id.short(), last.addr);
    assert!(text.starts_with(&named), "{text}");
    driver.shutdown().await;
}

#[tokio::test]
async fn a_stage_that_stops_reporting_is_named_though_it_is_connected() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    last.report(&sampled(1, 3, 40)).await;
    next(&mut session).await;
    let begun = Instant::now();
    let alive = async {
        loop {
            last.report(&progress(1, 3)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let text = tokio::select! {
        text = failure(session) => text,
        () = alive => unreachable!(),
    };
    assert!(begun.elapsed() < Duration::from_millis(4500), "{:?}", begun.elapsed());
    assert!(text.starts_with(&format!("node {} (layers 0..15", first.id.short())), "{text}");
    assert!(text.contains("stalled"), "{text}");
    driver.shutdown().await;
}

#[tokio::test]
async fn a_stopped_node_is_named_at_once() {
    let (mut first, last) = pair();
    let driver = driver();
    let session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    last.endpoint.shutdown().await;
    let text = failure(session).await;
    assert!(text.starts_with(&format!("node {} (layers 15..30", last.id.short())), "{text}");
    assert_eq!(first.hear_close().await.code, CloseCode::HopLost);
    driver.shutdown().await;
}

#[tokio::test]
async fn refusals_and_lies_close_what_was_opened() {
    let refuse = OnOpen::Refuse(Refusal::new(RefusalCode::NoCapacity, "4096 of 4096 positions taken"));
    for (on_open, words) in [(refuse, "no room for another session"), (OnOpen::LieAboutDigest, "digest")] {
        let (first, mut last) = (Node::start(1, on_open), Node::start(2, OnOpen::Accept));
        let driver = driver();
        let session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
        let text = failure(session).await;
        assert!(text.contains(words) && text.contains(&first.id.short()), "{text}");
        last.hear_close().await;
        driver.shutdown().await;
    }
}

#[tokio::test]
async fn nobody_at_an_address_is_named() {
    let first = Node::start(1, OnOpen::Accept);
    let last = Node::start(2, OnOpen::Accept);
    last.endpoint.shutdown().await;
    let driver = driver();
    let text = failure(driver.start(terms(1, plan(&[&first, &last]))).unwrap()).await;
    assert!(text.starts_with(&format!("node {} (layers 15..30", last.id.short())), "{text}");
    assert!(text.contains("can't be reached"), "{text}");
    driver.shutdown().await;
}

#[tokio::test]
async fn an_open_without_answer_ends_in_time() {
    let (first, last) = (Node::start(1, OnOpen::Accept), Node::start(2, OnOpen::Ignore));
    let driver = driver();
    let begun = Instant::now();
    let text = failure(driver.start(terms(1, plan(&[&first, &last]))).unwrap()).await;
    assert!(text.contains("can't be reached") && begun.elapsed() < Duration::from_secs(4), "{text}");
    driver.shutdown().await;
}

#[tokio::test]
async fn older_generations_and_duplicates_change_nothing() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    last.report(&Sampled { generation: Generation::new(0), ..sampled(1, 3, 10) }).await;
    last.report(&sampled(1, 3, 40)).await;
    last.report(&sampled(1, 3, 41)).await;
    last.report(&Sampled { session: SessionId::new(99), ..sampled(1, 4, 42) }).await;
    last.report(&sampled(1, 4, 43)).await;
    assert_eq!((next(&mut session).await, next(&mut session).await), (40, 43));
    driver.shutdown().await;
}

#[tokio::test]
async fn junk_on_a_report_stream_ends_the_session_and_names_the_node() {
    let junk = [
        (FrameKind::Sampled, Bytes::from_static(b"junk")),
        (FrameKind::Fetch, Bytes::from_static(&[0; 32])),
        (FrameKind::Progress, Bytes::from_static(&[0; 100])),
    ];
    for (kind, body) in junk {
        let (mut first, mut last) = pair();
        let driver = driver();
        let session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
        first.hear_tokens().await;
        last.report_raw(kind, body).await;
        let text = failure(session).await;
        assert!(text.contains("broke the protocol") && text.contains(&last.id.short()), "{kind}: {text}");
        driver.shutdown().await;
    }
}

#[tokio::test]
async fn a_neighbours_word_names_the_lost_node() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    let failed = Failed {
        session: SessionId::new(1),
        generation: Generation::new(1),
        code: CloseCode::HopLost,
        lost: Some(first.id),
        detail: "upstream fell silent".into(),
    };
    last.report(&failed).await;
    let text = failure(session).await;
    assert!(text.starts_with(&format!("node {} (layers 0..15", first.id.short())), "{text}");
    assert!(text.contains("upstream fell silent"), "{text}");
    driver.shutdown().await;
}

#[tokio::test]
async fn sessions_share_one_connection_and_do_not_mix() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut sessions = Vec::new();
    for id in 1..=20 {
        sessions.push(driver.start(terms(id, plan(&[&first, &last]))).unwrap());
    }
    for _ in 1..=20 {
        first.hear_tokens().await;
    }
    for position in 3..6 {
        for id in (1..=20).rev() {
            last.report(&sampled(id, position, 20 + id as u32 + position)).await;
        }
    }
    for (id, session) in (1..).zip(&mut sessions) {
        for position in 3..6 {
            assert_eq!(next(session).await, 20 + id + position);
        }
    }
    assert_eq!((first.connection_count(), last.connection_count()), (1, 1));
    assert_eq!(driver.open_sessions(), 20);
    driver.shutdown().await;
    assert_eq!(driver.open_sessions(), 0);
}

#[tokio::test]
async fn a_dropped_handle_cancels_on_every_stage() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    drop(session);
    assert_eq!(first.hear_close().await.code, CloseCode::Cancelled);
    assert_eq!(last.hear_close().await.code, CloseCode::Cancelled);
    driver.shutdown().await;
}

#[tokio::test]
async fn a_satisfied_client_closes_and_ignores_the_overshoot() {
    let (mut first, mut last) = pair();
    let driver = driver();
    let mut session = driver.start(terms(1, plan(&[&first, &last]))).unwrap();
    first.hear_tokens().await;
    last.report(&sampled(1, 3, 40)).await;
    next(&mut session).await;
    session.satisfied();
    assert_eq!(last.hear_close().await.code, CloseCode::Finished);
    last.report(&sampled(1, 4, 41)).await;
    assert!(session.next().await.is_none());
    assert_eq!(end(session).await.outcome, Outcome::Finished(FinishReason::Stop));
    driver.shutdown().await;
}
