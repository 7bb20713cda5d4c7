//! What is kept of one attested session on this node: leaves until the router says what to sign under, then a recorder.
//!
//! ```text
//! waiting --agree--> recording --end--> ended
//!    |                   |
//!    +--- too much, or out of order ---> broken: nothing is signed any more
//! ```
//! Rows may come before the router's open, by another connection.

use std::ops::Range;

use proto::attest::Attest;
use proto::prefix::BLOCK_TOKENS;
use proto::{Generation, Position};
use proto_attest::keys::{BindingError, VerifiedBinding};
use proto_attest::open::{Consent, ConsentError, LaneId, OpenAck, OpenError, SignedOpen, VerifiedOpen};
use proto_attest::receipt::Draft;
use proto_attest::recorder::{Closing, Recorder, RecorderError, RecorderTerms, SentLeaves};
use proto_attest::sample::{Sample, SamplingTerms};
use proto_attest::{Address, Amount, Digest, Leaf, LeafHasher};

use super::Facts;
use crate::session::SessionKey;

/// One session's generation.
#[derive(Debug)]
pub(super) struct Book {
    key: SessionKey,
    generation: Generation,
    facts: Facts,
    rows: LeafHasher,
    samples: LeafHasher,
    /// Rows that are in no receipt yet.
    received: Trail,
    sent: Trail,
    state: State,
}

/// A draft with the rows behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) draft: Draft,
    pub(super) received: Vec<u8>,
    pub(super) sent: Vec<u8>,
}

/// Bytes of consecutive rows.
#[derive(Debug, Default)]
struct Trail {
    /// Position of the first one.
    start: u32,
    row_bytes: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Waiting {
        /// In order; leaves in all at most [`MOST_WAITING`].
        notes: Vec<Note>,
        leaves: usize,
    },
    Recording(Box<Recorder>),
    Broken,
}

#[derive(Debug)]
enum Note {
    Received(u32, Vec<Leaf>),
    Sent(u32, Vec<Leaf>),
    Sampled(u32, u32, Leaf),
}

/// What the node says of itself in its signatures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) receipt_key: Address,
    pub(super) exec_build: Digest,
    pub(super) epoch: u64,
}

/// Of what came before on this node.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    /// The open of the latest generation that it took part in.
    pub(super) open: Option<VerifiedOpen>,
    /// Its newest receipt, which made the rows that it holds.
    pub(super) receipt: Option<Digest>,
}

/// Why the node does not sign under an open.
#[derive(Debug, thiserror::Error)]
pub(super) enum DisagreeError {
    #[error("the router's keys: {0}")]
    Binding(#[from] BindingError),
    #[error("the router's keys are another node's")]
    OtherRouter,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Consent(#[from] ConsentError),
    #[error("the open was signed {0} s from now: check the clocks of router and node")]
    Clock(u64),
    #[error("the tail was told no salt")]
    NoSalt,
    #[error("it was asked to sign twice")]
    Twice,
    #[error(transparent)]
    Record(#[from] RecorderError),
    #[error("{0} rows came before the open that they are to be signed under")]
    Late(usize),
}

impl Book {
    pub(super) fn new(key: SessionKey, generation: Generation, facts: Facts) -> Self {
        Self {
            rows: LeafHasher::of_rows(key.router, key.session, generation),
            samples: Sample::hasher(key.router, key.session, generation),
            state: State::Waiting { notes: Vec::new(), leaves: 0 },
            received: Trail::default(),
            sent: Trail::default(),
            key,
            generation,
            facts,
        }
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Tokens of rows from `start` on were applied, on stage 0.
    pub(super) fn tokens(&mut self, start: Position, tokens: &[u32]) -> Result<Vec<Cut>, DisagreeError> {
        let places = start.get()..;
        let leaves = places.zip(tokens).map(|(at, &token)| self.rows.token(Position::new(at), token));
        let leaves = leaves.collect();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        self.received.push(start, &bytes, 4);
        self.note(Note::Received(start.get(), leaves))
    }

    /// Rows from `start` on were applied.
    pub(super) fn received(&mut self, start: Position, rows: &[u8]) -> Result<Vec<Cut>, DisagreeError> {
        let leaves = self.leaves(start, rows);
        self.received.push(start, rows, self.facts.row_bytes);
        self.note(Note::Received(start.get(), leaves))
    }

    /// Rows from `start` on are sent on.
    pub(super) fn sent(&mut self, start: Position, rows: &[u8]) -> Result<Vec<Cut>, DisagreeError> {
        let leaves = self.leaves(start, rows);
        self.sent.push(start, rows, self.facts.row_bytes);
        self.note(Note::Sent(start.get(), leaves))
    }

    /// The token at a sample's position was chosen.
    pub(super) fn sampled(&mut self, token: u32, sample: &Sample) -> Result<Vec<Cut>, DisagreeError> {
        self.note(Note::Sampled(sample.position().get(), token, sample.leaf(&self.samples)))
    }

    /// The router's open: signs it if it says what was agreed. What came before is recorded now.
    pub(super) fn agree(
        &mut self,
        attest: &Attest,
        router: &VerifiedBinding,
        own: Own,
        before: &Before,
        now_unix_s: u64,
    ) -> Result<(OpenAck, VerifiedOpen, Vec<Cut>), DisagreeError> {
        let State::Waiting { notes, .. } = &mut self.state else { return Err(DisagreeError::Twice) };
        let notes = std::mem::take(notes);
        let binding = router.binding();
        if binding.node != self.key.router {
            return Err(DisagreeError::OtherRouter);
        }
        let open = SignedOpen::decode(&attest.open)?.verify()?;
        let away = open.open().opened_unix_s.abs_diff(now_unix_s);
        if away > proto::record::MAX_CLOCK_SKEW_S {
            return Err(DisagreeError::Clock(away));
        }
        let sampling = match &self.facts.sampling {
            Some((params, constrained)) => {
                let salt = attest.salt.ok_or(DisagreeError::NoSalt)?;
                let terms = SamplingTerms { params: params.clone(), constrained: *constrained, salt };
                Some((terms.hash(), terms.seed_commit()))
            }
            None => None,
        };
        let told = open.open().hop(self.facts.stage).map_or(0, |hop| hop.goes_on);
        let consent = Consent {
            router: self.key.router,
            router_key: binding.receipt,
            session: self.key.session,
            generation: self.generation,
            plan: &self.facts.plan,
            hop: self.facts.stage,
            receipt_key: own.receipt_key,
            goes_on: self.goes_on(told),
            lane: LaneId::UNPAID,
            price_prefill: Amount::ZERO,
            price_decode: Amount::ZERO,
            sampling,
        };
        let ack = consent.to(&open, before.open.as_ref())?;
        let terms = RecorderTerms {
            hop: self.facts.stage,
            exec_build: own.exec_build,
            cites: before.receipt,
            epoch: own.epoch,
        };
        self.state = State::Recording(Box::new(Recorder::new(&open, terms)?));
        let mut drafts = Vec::new();
        for note in notes {
            drafts.extend(self.note(note)?);
        }
        Ok((ack, open, drafts))
    }

    /// Receipts from now on are of this epoch.
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        if let State::Recording(recorder) = &mut self.state {
            recorder.set_epoch(epoch);
        }
    }

    /// Whether nothing is signed any more.
    pub(super) const fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// Nothing is signed any more.
    pub(super) fn give_up(&mut self) {
        self.state = State::Broken;
        (self.received, self.sent) = (Trail::default(), Trail::default());
    }

    /// The generation is over on this node: its last receipt, and leaves of those before.
    pub(super) fn end(&mut self) -> (Option<Cut>, Vec<SentLeaves>) {
        let Closing { ragged, sent } = match &mut self.state {
            State::Recording(recorder) => recorder.end(),
            State::Waiting { .. } | State::Broken => Closing::default(),
        };
        (ragged.map(|draft| self.cut(draft)), sent)
    }

    /// What names its newest receipt.
    pub(super) fn newest(&self) -> Option<Digest> {
        match &self.state {
            State::Recording(recorder) => recorder.newest(),
            State::Waiting { .. } | State::Broken => None,
        }
    }

    /// A prompt may begin at any whole block of the rows held; a later generation goes on behind all of them.
    const fn goes_on(&self, told: u32) -> u32 {
        let held = self.facts.held;
        if !self.facts.resumes && told <= held && told.is_multiple_of(BLOCK_TOKENS) { told } else { held }
    }

    /// The rows behind a draft; they are not needed here any more.
    fn cut(&mut self, draft: Draft) -> Cut {
        let rows = draft.receipt.rows;
        let received = self.received.take(rows.start..rows.end);
        let sent = self.sent.take(rows.sent_start..rows.end);
        Cut { draft, received, sent }
    }

    fn leaves(&self, start: Position, rows: &[u8]) -> Vec<Leaf> {
        let rows = rows.chunks_exact(self.facts.row_bytes.max(1));
        (start.get()..).zip(rows).map(|(at, row)| self.rows.leaf(Position::new(at), row)).collect()
    }

    fn note(&mut self, note: Note) -> Result<Vec<Cut>, DisagreeError> {
        match &mut self.state {
            State::Recording(recorder) => {
                let drafts = match note {
                    Note::Received(start, leaves) => recorder.received(start, &leaves),
                    Note::Sent(start, leaves) => recorder.sent(start, &leaves),
                    Note::Sampled(position, token, leaf) => recorder.sampled(position, token, leaf),
                }?;
                Ok(drafts.into_iter().map(|draft| self.cut(draft)).collect())
            }
            State::Waiting { notes, leaves } => {
                let bytes = self.received.bytes.len() + self.sent.bytes.len();
                if bytes > MOST_WAITING_BYTES {
                    return Err(DisagreeError::Late(*leaves));
                }
                *leaves += match &note {
                    Note::Received(_, more) | Note::Sent(_, more) => more.len(),
                    Note::Sampled(..) => 1,
                };
                if *leaves > MOST_WAITING {
                    return Err(DisagreeError::Late(*leaves));
                }
                notes.push(note);
                Ok(Vec::new())
            }
            State::Broken => Ok(Vec::new()),
        }
    }
}

impl Trail {
    fn push(&mut self, start: Position, rows: &[u8], row_bytes: usize) {
        if self.bytes.is_empty() {
            (self.start, self.row_bytes) = (start.get(), row_bytes);
        }
        self.bytes.extend_from_slice(rows);
    }

    /// Rows come in order, so what lies before those taken belongs to nothing.
    fn take(&mut self, rows: Range<u32>) -> Vec<u8> {
        let at = |row: u32| (row.saturating_sub(self.start) as usize * self.row_bytes).min(self.bytes.len());
        let (from, to) = (at(rows.start), at(rows.end));
        let taken = self.bytes[from..to].to_vec();
        self.bytes.drain(..to);
        self.start = rows.end.max(self.start);
        taken
    }
}

/// Leaves that wait for the open: it was on its way before the first row was. 512 KiB.
const MOST_WAITING: usize = 16 << 10;
/// Bytes of rows that wait for it, in and out: some chunks of the longest kind.
const MOST_WAITING_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests;
