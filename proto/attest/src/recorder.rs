//! What a hop remembers of a generation while it computes, and the receipts that come of it: a pure machine.
//!
//! ```text
//! received(leaf) ---+
//! sent(leaf) -------+--> a window is full -> a draft of its receipt, in order
//! sampled(token) ---+
//! ended ------------+--> a ragged draft of what is done, and the leaves that it takes to compare the two ends
//! ```
//! A row is done when it was received (unless the hop has kept it), sent (unless the next hop has kept it) and, on the
//! tail, sampled from (unless its next token is known). Rows that are not done when the generation ends are in no
//! receipt: they are unattested, and nobody is accused of them.
//!
//! Leaves are 32 bytes; besides those of rows that are not done yet it holds at most 4,096. It signs nothing: drafts are
//! signed off the compute thread.

use std::collections::VecDeque;

use crate::cuts::{HopRows, Phase, Window};
use crate::layout::{LayoutError, Reader, Writer};
use crate::open::VerifiedOpen;
use crate::receipt::{Draft, HopReceipt, Leaves, SamplerReceipt};
use crate::{Digest, Leaf, tree};

/// Who records, and what its receipts follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecorderTerms {
    /// As which hop.
    pub hop: u16,
    /// A hash of the program that computes.
    pub exec_build: Digest,
    /// The newest receipt of the session that the kept rows are of, where the hop goes on from kept rows: that of its
    /// recorder of the generation before, after that one ended; or of the session whose prefix is reused.
    pub cites: Option<Digest>,
    /// The node's epoch.
    pub epoch: u64,
}

/// Records one hop of one generation.
#[derive(Clone, Debug)]
pub struct Recorder {
    open: VerifiedOpen,
    terms: RecorderTerms,
    rows: HopRows,
    /// Next expected.
    received_to: u32,
    sent_to: u32,
    /// Row of the next token; past all rows where the hop is not the tail.
    sampled_to: u32,
    /// Of rows that are in no receipt yet.
    received: VecDeque<Leaf>,
    sent: VecDeque<Leaf>,
    sampled: VecDeque<(u32, Leaf)>,
    /// First row of the next receipt.
    next: u32,
    prev: Digest,
    kept: VecDeque<SentLeaves>,
    ended: bool,
}

/// Leaves of the rows that a full receipt's hop sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentLeaves {
    /// The receipt.
    pub receipt: Digest,
    /// All of its rows sent.
    pub leaves: Vec<Leaf>,
}

/// What is left to say when a generation ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Closing {
    /// The last receipt, if rows are done that are in none.
    pub ragged: Option<Draft>,
    /// Of the last full windows, as the next hop may have stopped within one of them.
    pub sent: Vec<SentLeaves>,
}

/// Why something can't be recorded: the hop's own rules of order were broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecorderError {
    /// The route has no such hop.
    #[error("the route has no hop {0}")]
    UnknownHop(u16),
    /// A row left out, or again.
    #[error("row {got} comes where {expected} is due")]
    Order {
        /// Next in order.
        expected: u32,
        /// What came.
        got: u32,
    },
    /// A row beyond the longest answer: nobody asked for it.
    #[error("rows from {0} on go beyond the longest answer")]
    Beyond(u32),
    /// A token from a hop that is not the tail.
    #[error("only the tail chooses tokens")]
    NotTheTail,
    /// The generation has ended.
    #[error("the generation has ended")]
    Ended,
}

impl Recorder {
    /// Records a hop of a generation from its beginning.
    pub fn new(open: &VerifiedOpen, terms: RecorderTerms) -> Result<Self, RecorderError> {
        let rows = open.open().rows_of(terms.hop).ok_or(RecorderError::UnknownHop(terms.hop))?;
        let is_tail = terms.hop == open.open().tail();
        let cites = terms.cites.filter(|_| rows.computes_from > 0);
        Ok(Self {
            terms,
            rows,
            received_to: rows.computes_from,
            sent_to: rows.sends_from,
            sampled_to: if is_tail { open.open().known() - 1 } else { u32::MAX },
            received: VecDeque::new(),
            sent: VecDeque::new(),
            sampled: VecDeque::new(),
            next: rows.first(),
            prev: cites.unwrap_or_else(|| open.digest()),
            kept: VecDeque::new(),
            ended: false,
            open: open.clone(),
        })
    }

    /// Rows from `start` on were received and applied, one leaf each.
    pub fn received(&mut self, start: u32, leaves: &[Leaf]) -> Result<Vec<Draft>, RecorderError> {
        self.received_to = self.advance(self.received_to, start, leaves.len())?;
        self.received.extend(leaves);
        Ok(self.full_windows())
    }

    /// Rows from `start` on were computed or kept, and are about to be sent. The tail says so of each row's last hidden
    /// state.
    pub fn sent(&mut self, start: u32, leaves: &[Leaf]) -> Result<Vec<Draft>, RecorderError> {
        self.sent_to = self.advance(self.sent_to, start, leaves.len())?;
        self.sent.extend(leaves);
        Ok(self.full_windows())
    }

    /// The tail chose the token at `position`, from a row with this [`Sample`](crate::sample::Sample)'s leaf.
    pub fn sampled(&mut self, position: u32, token: u32, sample: Leaf) -> Result<Vec<Draft>, RecorderError> {
        if self.terms.hop != self.open.open().tail() {
            return Err(RecorderError::NotTheTail);
        }
        let row = position.checked_sub(1).ok_or(RecorderError::Order { expected: 1, got: 0 })?;
        self.sampled_to = self.advance(self.sampled_to, row, 1)?;
        self.sampled.push_back((token, sample));
        Ok(self.full_windows())
    }

    /// Receipts from now on are of this epoch.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.terms.epoch = epoch;
    }

    /// The session's generation has ended on this hop, for whatever reason. Nothing is recorded afterwards.
    pub fn end(&mut self) -> Closing {
        if std::mem::replace(&mut self.ended, true) {
            return Closing::default();
        }
        let done = self.done();
        let ragged = if done > self.next {
            let window = self.open.open().cuts().window(self.next);
            self.draft(window, done.min(window.end))
        } else {
            None
        };
        Closing { ragged, sent: self.kept.drain(..).collect() }
    }

    /// What names the newest receipt, for the recorder of the next generation to cite; `None` before the first one.
    pub fn newest(&self) -> Option<Digest> {
        (self.prev != self.open.digest()).then_some(self.prev)
    }

    fn advance(&self, expected: u32, start: u32, count: usize) -> Result<u32, RecorderError> {
        if self.ended {
            return Err(RecorderError::Ended);
        }
        if start != expected {
            return Err(RecorderError::Order { expected, got: start });
        }
        let end = u64::from(start) + count as u64;
        if end > u64::from(self.open.open().rows_end()) {
            return Err(RecorderError::Beyond(start));
        }
        Ok(end as u32)
    }

    /// All rows before are done.
    fn done(&self) -> u32 {
        self.received_to.min(self.sent_to).min(self.sampled_to)
    }

    fn full_windows(&mut self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        loop {
            let window = self.open.open().cuts().window(self.next);
            if self.done() < window.end {
                return drafts;
            }
            let Some(draft) = self.draft(window, window.end) else { return drafts };
            drafts.push(draft);
        }
    }

    fn draft(&mut self, window: Window, end: u32) -> Option<Draft> {
        let rows = self.rows.covered(window, end)?;
        let received: Vec<Leaf> = self.received.drain(..rows.computed() as usize).collect();
        let sent: Vec<Leaf> = self.sent.drain(..rows.sent() as usize).collect();
        let open = self.open.open();
        let receipt = HopReceipt {
            open: self.open.digest(),
            hop: self.terms.hop,
            phase: window.phase,
            rows,
            in_root: tree::root(&received),
            out_root: tree::root(&sent),
            exec_build: self.terms.exec_build,
            prev: self.prev,
            price_due: open.price_due(self.terms.hop, end)?,
            epoch: self.terms.epoch,
        };
        let digest = receipt.digest(open);
        let sampler = self.sampler_receipt(rows);
        (self.prev, self.next) = (digest, end);
        let leaves = if end < window.end {
            Leaves { received, sent }
        } else {
            self.keep(window.phase, SentLeaves { receipt: digest, leaves: sent });
            Leaves::default()
        };
        Some(Draft { receipt, digest, sampler, leaves })
    }

    fn sampler_receipt(&mut self, rows: crate::cuts::Covered) -> Option<SamplerReceipt> {
        let open = self.open.open();
        let chosen = crate::receipt::sampled_rows(open, rows);
        if self.terms.hop != open.tail() || chosen.is_empty() {
            return None;
        }
        let (tokens, samples): (Vec<u32>, Vec<Leaf>) = self.sampled.drain(..chosen.len()).unzip();
        Some(SamplerReceipt { seed_index: chosen.start + 1, tokens, samples_root: tree::root(&samples) })
    }

    /// The tail sends to nobody, so nobody stops within what it sent.
    fn keep(&mut self, phase: Phase, leaves: SentLeaves) {
        if self.terms.hop == self.open.open().tail() || leaves.leaves.is_empty() {
            return;
        }
        self.kept.push_back(leaves);
        let most = match phase {
            Phase::Prefill => KEPT_PREFILL,
            Phase::Decode => KEPT_DECODE,
        };
        while self.kept.len() > most {
            self.kept.pop_front();
        }
    }
}

impl SentLeaves {
    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.digest(&self.receipt);
        writer.u32(self.leaves.len() as u32);
        self.leaves.iter().for_each(|leaf| writer.bytes(leaf.as_bytes()));
        writer.finish()
    }

    /// Reads the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut reader = Reader::new(bytes);
        let receipt = reader.digest("receipt")?;
        let leaf = |reader: &mut Reader<'_>| reader.array("leaf").map(Leaf::from_bytes);
        let leaves = reader.list(crate::cuts::PREFILL_ROWS as usize, 32, "leaves", leaf)?;
        reader.finish()?;
        Ok(Self { receipt, leaves })
    }
}

/// Windows whose leaves are kept during prefill: the next hop may lag by as much as its inbox holds of the prompt. 4,096
/// rows are 16 MiB of activations of 2,048 bf16 values; what lags further stays unchecked.
const KEPT_PREFILL: usize = 16;
/// During decode the next hop lags by one row at most, which may be the last one of a window.
const KEPT_DECODE: usize = 2;

#[cfg(test)]
mod tests;
