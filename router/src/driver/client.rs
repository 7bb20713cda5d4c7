//! The two ends between a session's task and whoever reads its answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proto::session::{Ended, Sampled};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::session::{Outcome, SessionError, SessionTerms};

/// A token with the time it came, counted from the session's start.
#[derive(Clone, PartialEq, Debug)]
pub struct TimedToken {
    /// The token.
    pub token: Sampled,
    /// When.
    pub at: Duration,
    /// When its frame was there, before anything was done with it.
    pub arrived: Instant,
}

/// How a session ended.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionEnd {
    /// Why.
    pub outcome: Outcome,
    /// The stages' accounts in order, as far as they came.
    pub accounts: Vec<Option<Ended>>,
    /// When the prompt was sent, counted from the session's start; `None` if it was not.
    pub prompt_sent: Option<Duration>,
}

impl SessionEnd {
    /// Of a session whose task has gone without a word.
    const fn lost() -> Self {
        let outcome = Outcome::Failed(SessionError::ShuttingDown);
        Self { outcome, accounts: Vec::new(), prompt_sent: None }
    }

    /// Tokens that nodes computed beyond the `delivered` first ones, by the accounts that came: the stage that went
    /// furthest counts. The first token comes of the prompt's last row, each later one takes a row of its own.
    pub fn waste(&self, delivered: u64) -> u64 {
        let rows = self.accounts.iter().flatten().map(|account| u64::from(account.decode_steps)).max();
        rows.map_or(0, |rows| (rows + 1).saturating_sub(delivered))
    }
}

/// A running session. Dropping it cancels.
#[derive(Debug)]
pub struct Session {
    tokens: mpsc::Receiver<TimedToken>,
    end: Option<oneshot::Receiver<SessionEnd>>,
    wishes: Arc<Wishes>,
    /// The session's task hears of so many tokens at once.
    told_every: u32,
}

impl Session {
    /// The next token; `None` after the last one. Reading extends the credit of the pipeline.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<TimedToken> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Session::next`], for those who wait for several things in one task.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<TimedToken>> {
        let Some(token) = ready!(self.tokens.poll_recv(context)) else { return Poll::Ready(None) };
        let consumed = self.wishes.consumed.fetch_add(1, Ordering::AcqRel) + 1;
        // The task would wake up for nothing: credit is granted in larger portions.
        if consumed.is_multiple_of(self.told_every) {
            self.wishes.changed.notify_one();
        }
        Poll::Ready(Some(token))
    }

    /// How it ended; there once [`Session::next`] has given `None`. The accounts come later, with [`Session::end`].
    pub fn outcome(&self) -> Option<&Outcome> {
        self.wishes.outcome.get()
    }

    /// The answer is complete for the client: a stop string matched.
    pub fn satisfied(&self) {
        self.wishes.wish(SATISFIED);
    }

    /// It goes on in another generation: what the stages have of it is kept.
    pub fn superseded(&self) {
        self.wishes.wish(SUPERSEDED);
    }

    /// Positions of the prompt whose rows no stage computed, as all of them held them already: the prompt went out from
    /// there on. There once a token came.
    pub fn reused(&self) -> u32 {
        self.wishes.reused.load(Ordering::Acquire)
    }

    /// The end with the stages' accounts, as far as they come in time. Not before [`Session::next`] has given `None`, and
    /// not again once it has come.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<SessionEnd> {
        let Some(end) = &mut self.end else { return Poll::Ready(SessionEnd::lost()) };
        let told = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(told.unwrap_or_else(|_| SessionEnd::lost()))
    }

    /// Gives up.
    pub fn cancel(&self) {
        self.wishes.wish(CANCELLED);
    }

    /// A handle that can cancel from elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.wishes))
    }

    /// Waits for the end and the accounts. Tokens that were not read are lost.
    pub async fn end(mut self) -> SessionEnd {
        self.tokens.close();
        poll_fn(|context| self.poll_end(context)).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.wishes.wish(CANCELLED);
    }
}

/// Cancels a session from elsewhere.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<Wishes>);

impl Canceller {
    /// Gives up.
    pub fn cancel(&self) {
        self.0.wish(CANCELLED);
    }
}

/// What the reader has done and wants.
#[derive(Debug, Default)]
struct Wishes {
    consumed: AtomicU32,
    /// Told by the session: where the prompt began.
    reused: AtomicU32,
    /// Only the first wish counts.
    wish: AtomicU8,
    changed: Notify,
    /// The session's, told before its accounts are in.
    outcome: OnceLock<Outcome>,
}

const NONE: u8 = 0;
const SATISFIED: u8 = 1;
const CANCELLED: u8 = 2;
const SUPERSEDED: u8 = 3;

impl Wishes {
    fn wish(&self, wish: u8) {
        let _ = self.wish.compare_exchange(NONE, wish, Ordering::AcqRel, Ordering::Acquire);
        self.changed.notify_one();
    }
}

/// A wish of the reader that ends the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Satisfied,
    Cancelled,
    Superseded,
}

/// The session task's end.
#[derive(Debug)]
pub(super) struct Client {
    tokens: Option<mpsc::Sender<TimedToken>>,
    end: oneshot::Sender<SessionEnd>,
    wishes: Arc<Wishes>,
}

impl Client {
    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn changed(&self) {
        self.wishes.changed.notified().await;
    }

    pub(super) fn consumed(&self) -> u32 {
        self.wishes.consumed.load(Ordering::Acquire)
    }

    pub(super) fn wish(&self) -> Option<Wish> {
        match self.wishes.wish.load(Ordering::Acquire) {
            SATISFIED => Some(Wish::Satisfied),
            CANCELLED => Some(Wish::Cancelled),
            SUPERSEDED => Some(Wish::Superseded),
            _ => None,
        }
    }

    /// The prompt goes out from this position on.
    pub(super) fn prompted(&self, from: u32) {
        self.wishes.reused.store(from, Ordering::Release);
    }

    /// Hands a token over. Never waits: credit keeps the queue from filling up.
    pub(super) fn emit(&self, token: TimedToken) {
        if let Some(tokens) = &self.tokens {
            // A reader that has gone has wished to cancel.
            let _ = tokens.try_send(token);
        }
    }

    /// No token follows.
    pub(super) fn conclude(&mut self, outcome: &Outcome) {
        self.wishes.outcome.get_or_init(|| outcome.clone());
        self.tokens = None;
    }

    pub(super) fn finish(mut self, end: SessionEnd) {
        self.conclude(&end.outcome);
        // Nobody may be interested.
        let _ = self.end.send(end);
    }
}

pub(super) fn pair(terms: &SessionTerms) -> (Session, Client) {
    // A tail may be one token past the credit, and credit at most `terms.credit` past what was read.
    let (tokens_in, tokens) = mpsc::channel(terms.credit.clamp(1, MAX_CREDIT) as usize + 1);
    let (end_in, end) = oneshot::channel();
    let wishes = Arc::new(Wishes::default());
    let told_every = (terms.credit / TOLD_PER_CREDIT).max(1);
    let session = Session { tokens, end: Some(end), wishes: Arc::clone(&wishes), told_every };
    (session, Client { tokens: Some(tokens_in), end: end_in, wishes })
}

/// More often than credit is granted (four times within its length), so that no grant comes late.
const TOLD_PER_CREDIT: u32 = 8;

/// Largest credit, for the sake of the queue's size.
pub(super) const MAX_CREDIT: u32 = 4096;
