//! What a router keeps of a generation while it runs: acknowledgements and receipts, each checked as it comes, so that
//! nothing wrong is paid, passed on or answered for.
//!
//! ```text
//! ack --> receipt, receipt, .. full windows in order --> ragged receipt (at most one) --> leaves
//! ```
//! A hop that sends anything else broke the protocol: its connection proves who it is, and the caller ends the session.
//! Bounded by the rows that the open asks for. What the collector holds is [`GenerationEvidence`].

use crate::check::{GenerationEvidence, OpenedSample};
use crate::cuts::HopRows;
use crate::layout::LayoutError;
use crate::open::{AckError, OpenAck, SignedAck, VerifiedOpen};
use crate::receipt::{ReceiptError, SignedReceipt, VerifiedReceipt, sampled_rows};
use crate::recorder::SentLeaves;
use crate::{Amount, Digest, tree};

/// Collects one generation's evidence.
#[derive(Clone, Debug)]
pub struct Collector {
    open: VerifiedOpen,
    hops: Vec<HopLog>,
    /// Of chosen tokens, from the end of the known ones on.
    delivered: Vec<u32>,
    signed: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct HopLog {
    ack: Option<SignedAck>,
    receipts: Vec<VerifiedReceipt>,
}

/// Why something that a hop sent is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    /// The bytes are none of what is collected.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An acknowledgement that does not hold.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// A receipt that does not hold.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// Of another hop than the one that sent it.
    #[error("hop {got} speaks for hop {named}")]
    OtherHop {
        /// Who sent it.
        got: u16,
        /// Whose it is.
        named: u16,
    },
    /// A receipt before the acknowledgement.
    #[error("a receipt of hop {0}, which did not acknowledge the open")]
    Unacknowledged(u16),
    /// Not the next window, or one after a ragged one.
    #[error("hop {hop} signed for rows up to {got} where those from {expected} on are due")]
    Order {
        /// Whose.
        hop: u16,
        /// First row due.
        expected: u32,
        /// Where the receipt ends.
        got: u32,
    },
    /// The tail signed for another token than it sent, or for none, or sent one twice or out of order.
    #[error("what the tail signed for is not the token that it sent at position {0}")]
    Token(u32),
    /// It does not name the receipt before it.
    #[error("a receipt of hop {0} does not follow the one before it")]
    Chain(u16),
    /// Leaves of no receipt that is here, or other ones.
    #[error("leaves of hop {0} that are of none of its receipts")]
    Leaves(u16),
}

impl Collector {
    /// Collects for an open that was just signed.
    pub fn new(open: VerifiedOpen) -> Self {
        let hops = vec![HopLog::default(); open.open().route.len()];
        Self { open, hops, delivered: Vec::new(), signed: Vec::new() }
    }

    /// The open.
    pub const fn open(&self) -> &VerifiedOpen {
        &self.open
    }

    /// Hop number `hop` acknowledged the open.
    pub fn ack(&mut self, hop: u16, ack: SignedAck) -> Result<(), CollectError> {
        let OpenAck { hop: named, .. } = ack.ack;
        ack.verify(&self.open)?;
        if named != hop {
            return Err(CollectError::OtherHop { got: hop, named });
        }
        self.log(hop)?.ack = Some(ack);
        Ok(())
    }

    /// The tail sent the next token, which has this position. Receipts for it may come before or after.
    pub fn token(&mut self, position: u32, token: u32) -> Result<(), CollectError> {
        let next = self.open.open().known().saturating_add(self.delivered.len() as u32);
        let signed = self.signed.get(self.delivered.len());
        if position != next || signed.is_some_and(|signed| *signed != token) {
            return Err(CollectError::Token(position));
        }
        self.delivered.push(token);
        Ok(())
    }

    /// Whether all hops acknowledged it: from then on tokens may be sent.
    pub fn is_acknowledged(&self) -> bool {
        self.hops.iter().all(|hop| hop.ack.is_some())
    }

    /// Hop number `hop` sent a receipt. The first one of a hop that goes on may cite any: its newest one of the generation
    /// before may have been lost on the way.
    pub fn receipt(&mut self, hop: u16, bytes: &[u8]) -> Result<&VerifiedReceipt, CollectError> {
        let signed = SignedReceipt::decode(bytes, &self.open)?;
        let named = signed.receipt.hop;
        if named != hop {
            return Err(CollectError::OtherHop { got: hop, named });
        }
        let receipt = signed.verify(&self.open)?;
        let open = self.open.open();
        let rows = open.rows_of(hop).ok_or(ReceiptError::UnknownHop(hop))?;
        let log = self.hops.get(usize::from(hop)).ok_or(ReceiptError::UnknownHop(hop))?;
        if log.ack.is_none() {
            return Err(CollectError::Unacknowledged(hop));
        }
        let last = log.receipts.last();
        let expected = last.map_or_else(|| rows.first(), |last| last.receipt().rows.end);
        let window = open.cuts().window(expected);
        let got = receipt.receipt().rows.end;
        let closed = last.is_some_and(|last| last.receipt().is_ragged(open));
        if closed || got <= expected || got > window.end {
            return Err(CollectError::Order { hop, expected, got });
        }
        let begins = (rows.computes_from == 0).then_some(self.open.digest());
        let prev = last.map(VerifiedReceipt::digest).or(begins);
        if prev.is_some_and(|prev| prev != receipt.receipt().prev) {
            return Err(CollectError::Chain(hop));
        }
        let chosen = sampled_rows(self.open.open(), receipt.receipt().rows);
        if hop == self.open.open().tail() && !chosen.is_empty() && receipt.sampler().is_none() {
            return Err(CollectError::Token(chosen.start + 1));
        }
        if let Some(sampler) = receipt.sampler() {
            self.check_tokens(&sampler.tokens)?;
            self.signed.extend(&sampler.tokens);
        }
        let receipts = &mut self.log(hop)?.receipts;
        receipts.push(receipt);
        receipts.last().ok_or(CollectError::Chain(hop))
    }

    /// Hop number `hop` sent the leaves of a window shortly before its end.
    pub fn leaves(&mut self, hop: u16, bytes: &[u8]) -> Result<(), CollectError> {
        let SentLeaves { receipt, leaves } = SentLeaves::decode(bytes)?;
        let log = self.log(hop)?;
        let place = log.receipts.iter().rposition(|known| known.digest() == receipt);
        let place = place.ok_or(CollectError::Leaves(hop))?;
        let facts = log.receipts[place].receipt();
        if leaves.len() != facts.rows.sent() as usize || tree::root(&leaves) != facts.out_root {
            return Err(CollectError::Leaves(hop));
        }
        log.receipts[place].attach(leaves);
        Ok(())
    }

    /// The newest receipt of a hop that has come.
    pub fn newest(&self, hop: u16) -> Option<Digest> {
        self.hops.get(usize::from(hop))?.receipts.last().map(VerifiedReceipt::digest)
    }

    /// The first hop whose receipts do not reach up to `row`; `None` if all do.
    pub fn lagging(&self, row: u32) -> Option<u16> {
        let open = self.open.open();
        let lags = |hop: u16, log: &HopLog| {
            let first = open.rows_of(hop).map_or(0, HopRows::first);
            log.receipts.last().map_or(first, |last| last.receipt().rows.end) < row
        };
        let mut hops = (0u16..).zip(&self.hops);
        hops.find(|(hop, log)| lags(*hop, log)).map(|(hop, _)| hop)
    }

    /// All hops that have not acknowledged the open, or whose receipts do not reach up to `row`.
    pub fn short(&self, row: u32) -> Vec<u16> {
        let signed_to = |log: &HopLog| log.receipts.last().map(|last| last.receipt().rows.end);
        let first = |hop: u16| self.open.open().rows_of(hop).map_or(0, HopRows::first);
        let short =
            |hop: u16, log: &HopLog| log.ack.is_none() || signed_to(log).unwrap_or_else(|| first(hop)) < row;
        let hops = (0u16..).zip(&self.hops);
        hops.filter(|(hop, log)| short(*hop, log)).map(|(hop, _)| hop).collect()
    }

    /// What is due to a hop in this generation, by its receipts so far.
    pub fn due(&self, hop: u16) -> Amount {
        let last = self.hops.get(usize::from(hop)).and_then(|hop| hop.receipts.last());
        last.map_or(Amount::ZERO, |last| last.receipt().price_due)
    }

    /// What there is to show for the generation.
    pub fn into_evidence(self, samples: Vec<OpenedSample>) -> GenerationEvidence {
        let acks = self.hops.iter().filter_map(|hop| hop.ack).collect();
        let receipts = self.hops.into_iter().flat_map(|hop| hop.receipts);
        let receipts = receipts.map(VerifiedReceipt::into_signed).collect();
        GenerationEvidence { open: self.open.signed().clone(), acks, receipts, samples }
    }

    /// Receipts come in order, so these are the next tokens that the tail signed for.
    fn check_tokens(&self, signed: &[u32]) -> Result<(), CollectError> {
        let sent = self.delivered.get(self.signed.len()..).unwrap_or_default();
        let other = signed.iter().zip(sent).position(|(signed, sent)| signed != sent);
        let position = |index: usize| self.open.open().known() + (self.signed.len() + index) as u32;
        other.map_or(Ok(()), |index| Err(CollectError::Token(position(index))))
    }

    fn log(&mut self, hop: u16) -> Result<&mut HopLog, CollectError> {
        Ok(self.hops.get_mut(usize::from(hop)).ok_or(ReceiptError::UnknownHop(hop))?)
    }
}
