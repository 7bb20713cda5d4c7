//! How much memory the large frames of one connection may take. Pure counting and a way to wait; when a share is
//! asked for is `stream`'s.
//!
//! ```text
//! header --(no room, the peer's doing)--> overload: the connection is closed
//!   |
//!   +-----(no room, our own doing)--> waits, unread, until the application has let go of a body
//!   |
//! arriving --(whole)--> held by the application --(last piece of the body dropped)--> given back
//! ```
//!
//! A peer that announces more large frames at once than fit has them half-sent on many streams, which the protocol
//! never asks for: nothing but the peer could end that wait, so there is none. What the application holds it gives
//! back by itself, so there waiting is right, and QUIC's flow control stops the sender.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Bodies up to this size need no share: there is at most one on each stream, so stream counts bound them
/// ([`crate::ClassTuning::most_received_bytes`]). The largest piece of a blob, and the decode rows of 32 sessions of
/// 8 KiB each.
pub(crate) const SMALL_BODY: usize = 256 << 10;

/// The large frames of one connection.
#[derive(Debug)]
pub(crate) struct Budget {
    counts: Mutex<Counts>,
    /// Something was given back.
    freed: Notify,
}

/// One large frame's part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
    whole: bool,
}

/// The peer has more large frames under way than fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overload;

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { counts: Mutex::new(Counts { limit, arriving: 0, held: 0 }), freed: Notify::new() }
    }

    /// A share for a body of so many bytes, all of them announced, none of them there yet. Waits while it is the
    /// application that holds too much.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn share(self: &Arc<Self>, bytes: usize) -> Result<Share, Overload> {
        loop {
            // Made before asking, so that nothing given back in between is missed.
            let freed = self.freed.notified();
            let verdict = self.lock().ask(bytes);
            match verdict {
                Verdict::Granted => return Ok(Share { budget: self.clone(), bytes, whole: false }),
                Verdict::Overload => return Err(Overload),
                Verdict::Wait => freed.await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing under the lock can panic half-way; a poisoned count is still a count.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The body is whole: from here the application holds it, until the last piece of it is dropped.
    pub(crate) fn hand_over(mut self, body: BytesMut) -> Bytes {
        {
            let mut counts = self.budget.lock();
            counts.arriving -= self.bytes;
            counts.held += self.bytes;
        }
        self.whole = true;
        Bytes::from_owner(Held { body, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut counts = self.budget.lock();
            if self.whole {
                counts.held -= self.bytes;
            } else {
                counts.arriving -= self.bytes;
            }
        }
        self.budget.freed.notify_waiters();
    }
}

/// A whole body with its share; fields are dropped in this order.
#[derive(Debug)]
struct Held {
    body: BytesMut,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[derive(Debug)]
struct Counts {
    limit: usize,
    /// Bytes of bodies whose header has come, as announced.
    arriving: usize,
    /// Bytes of whole bodies that the application has not dropped.
    held: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Granted,
    Wait,
    Overload,
}

impl Counts {
    fn ask(&mut self, bytes: usize) -> Verdict {
        if self.arriving + bytes > self.limit {
            Verdict::Overload
        } else if self.arriving + self.held + bytes > self.limit {
            Verdict::Wait
        } else {
            self.arriving += bytes;
            Verdict::Granted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn share(budget: &Arc<Budget>, bytes: usize) -> Result<Share, Overload> {
        budget.share(bytes).await
    }

    #[tokio::test]
    async fn unfinished_bodies_over_the_limit_are_an_overload_and_come_back_when_dropped() {
        let budget = Arc::new(Budget::new(10));
        assert_eq!(share(&budget, 11).await.map(drop), Err(Overload), "alone over the limit");
        let first = share(&budget, 6).await.expect("fits");
        let _second = share(&budget, 4).await.expect("fits exactly");
        assert_eq!(share(&budget, 1).await.map(drop), Err(Overload));
        drop(first);
        assert!(share(&budget, 6).await.is_ok());
    }

    #[tokio::test]
    async fn bodies_that_the_application_holds_make_others_wait_until_their_last_piece_is_dropped() {
        let budget = Arc::new(Budget::new(10));
        let body = share(&budget, 8).await.expect("fits").hand_over(BytesMut::from(&[7; 8][..]));
        let piece = body.slice(2..3);
        drop(body);
        let mut waiting = Box::pin(share(&budget, 3));
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
        assert!(early.await);
        drop(piece);
        let _third = waiting.await.expect("there is room now");
        assert_eq!(budget.lock().held, 0);
        assert_eq!(budget.lock().arriving, 3);
    }
}
