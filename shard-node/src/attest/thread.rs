//! The attest thread: one book for each attested session, receipts signed and sent as they fall due.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use proto::attest::{Acknowledged, Attest, Receipt, SentRows};
use proto::audit::{AuditBatch, AuditRequest, Challenge, Challenged, OpenRows};
use proto::status::cut;
use proto::{Generation, NodeId};
use proto_attest::Digest;
use proto_attest::audit::Side;
use proto_attest::keys::{BindingError, SignedBinding, VerifiedBinding};
use proto_attest::sample::Sample;
use proto_keys::KeyRing;
use shard_node_stage::{KvSlot, StepInput};
use tokio::sync::mpsc;

use super::book::{Before, Book, Cut, DisagreeError, Own};
use super::build::exec_build;
use super::epochs::Epochs;
use super::retained::Retained;
use super::{Chosen, Facts, Job, Recorded, StepRecord};
use crate::clock::{unix_nanos, unix_seconds};
use crate::compute::{Command, ComputeHandle};
use crate::links::{Frame, ReportLink};
use crate::metrics::NodeMetrics;
use crate::session::{Event, SessionKey};

/// The thread's state.
pub(crate) struct NotaryThread {
    keys: Arc<KeyRing>,
    compute: ComputeHandle,
    metrics: NodeMetrics,
    jobs: mpsc::Receiver<Job>,
    // Bounded by the sessions open.
    books: HashMap<SessionKey, Book>,
    // Bounded by the connections open.
    routers: HashMap<NodeId, Router>,
    /// Of sessions that may go on in another generation, and of those that are over. At most [`MOST_PAST`].
    past: HashMap<SessionKey, Before>,
    past_order: VecDeque<SessionKey>,
    /// Which receipt made the rows that are kept in a slot. At most [`MOST_PAST`].
    kept: HashMap<KvSlot, Digest>,
    kept_order: VecDeque<KvSlot>,
    epochs: Epochs,
    retained: Retained,
}

struct Router {
    reports: ReportLink,
    /// Its newest keys.
    binding: Option<VerifiedBinding>,
}

impl NotaryThread {
    pub(super) fn new(
        keys: Arc<KeyRing>,
        compute: ComputeHandle,
        metrics: NodeMetrics,
        jobs: mpsc::Receiver<Job>,
        retain_bytes: u64,
    ) -> Self {
        Self {
            epochs: Epochs::new(keys.binding().binding().node, unix_nanos() / 1_000_000),
            retained: Retained::new(retain_bytes),
            keys,
            compute,
            metrics,
            jobs,
            books: HashMap::new(),
            routers: HashMap::new(),
            past: HashMap::new(),
            past_order: VecDeque::new(),
            kept: HashMap::new(),
            kept_order: VecDeque::new(),
        }
    }

    pub(super) fn spawn(mut self) -> std::io::Result<()> {
        thread::Builder::new().name("attest".into()).spawn(move || {
            step_back();
            // Once, and not in the way of the first session.
            exec_build();
            while let Some(job) = self.jobs.blocking_recv() {
                if !self.does(job) {
                    break;
                }
            }
        })?;
        Ok(())
    }

    fn does(&mut self, job: Job) -> bool {
        match job {
            Job::RouterUp { router, reports } => {
                // What is known of its keys is of no use to another connection: they are sent with each open.
                self.routers.insert(router, Router { reports, binding: None });
            }
            Job::RouterDown { router, link } => {
                if self.routers.get(&router).is_some_and(|known| known.reports.id() == link) {
                    self.routers.remove(&router);
                }
            }
            Job::Opened { key, generation, facts } => self.open(key, generation, *facts),
            Job::Asked { router, attest } => self.asked(router, &attest),
            Job::Steps(records) => records.iter().for_each(|record| self.step(record)),
            Job::Again { key, generation, start, rows } => {
                self.note(key, generation, |book| book.sent(start, &rows));
            }
            // Whoever asked may be gone by now.
            Job::Audit { auditor, request, reply } => drop(reply.send(self.audited(auditor, request))),
            Job::Challenge { auditor, challenge, reply } => {
                drop(reply.send(self.challenged(auditor, &challenge)));
            }
            Job::OpenRows { auditor, rows, reply } => drop(reply.send(self.opened(auditor, rows))),
            Job::LastWord { key, frame } => {
                self.end(key);
                self.send(key.router, frame);
            }
            Job::Closed { key, kept_in } => self.closed(key, kept_in),
            Job::Stop => return false,
        }
        true
    }

    fn open(&mut self, key: SessionKey, generation: Generation, facts: Facts) {
        // A generation that was superseded has been closed before.
        self.books.insert(key, Book::new(key, generation, facts));
    }

    /// A router asks for signatures under its open.
    fn asked(&mut self, router: NodeId, attest: &Attest) {
        let key = SessionKey { router, session: attest.session };
        // Signatures are checked for sessions that are here only.
        if self.books.get(&key).is_none_or(|book| book.generation() != attest.generation) {
            return;
        }
        let now_unix_s = unix_seconds();
        let binding = self.keys_of(router, &attest.binding, now_unix_s);
        let reused = self.books.get(&key).and_then(|book| book.facts().reuses);
        let mut before = self.past.get(&key).cloned().unwrap_or_default();
        before.receipt = before.receipt.or_else(|| self.kept.get(&reused?).copied());
        let Some(book) = self.books.get_mut(&key).filter(|book| book.generation() == attest.generation)
        else {
            return;
        };
        let own = Own {
            receipt_key: self.keys.receipt().address(),
            exec_build: exec_build(),
            epoch: self.epochs.present(),
        };
        let agreed = binding
            .map_err(DisagreeError::from)
            .and_then(|binding| book.agree(attest, &binding, own, &before, now_unix_s));
        match agreed {
            Ok((ack, open, drafts)) => {
                self.remember(key, Before { open: Some(open), receipt: before.receipt });
                let ack = ack.sign(self.keys.receipt()).encode();
                let (session, generation) = (attest.session, attest.generation);
                self.send(router, Frame::of(&Acknowledged { session, generation, ack }));
                self.sign(key, generation, drafts);
            }
            Err(error) => self.disagree(key, attest.generation, &error),
        }
    }

    /// The keys that a router shows, checked unless they are the ones that it showed last.
    fn keys_of(
        &mut self,
        router: NodeId,
        shown: &[u8],
        now_unix_s: u64,
    ) -> Result<VerifiedBinding, BindingError> {
        let shown = SignedBinding::decode(shown)?;
        let known = self.routers.get_mut(&router).map(|known| &mut known.binding);
        if let Some(Some(known)) = &known
            && *known.signed() == shown
            && known.binding().expires_unix_s > now_unix_s
        {
            return Ok(*known);
        }
        let binding = shown.verify(now_unix_s)?;
        if let Some(known) = known {
            if let Some(known) = known
                && known.binding().node == binding.binding().node
            {
                binding.follows(known)?;
            }
            *known = Some(binding);
        }
        Ok(binding)
    }

    fn step(&mut self, StepRecord { members, input, output }: &StepRecord) {
        for Recorded { key, generation, start, rows, at, sent, chosen } in members {
            let (start, at, rows) = (*start, *at, *rows as usize);
            self.note(*key, *generation, |book| match input {
                StepInput::Tokens(tokens) => {
                    book.tokens(start, tokens.get(at..at + rows).unwrap_or_default())
                }
                StepInput::Activations(bytes) => book.received(start, part(bytes, at, rows, book)),
            });
            if *sent {
                self.note(*key, *generation, |book| book.sent(start, part(output, at, rows, book)));
            }
            if let Some(Chosen { token, logsumexp, top }) = chosen {
                match Sample::from_top(start.plus(rows as u32), top.clone(), *logsumexp) {
                    Ok(sample) => self.note(*key, *generation, |book| book.sampled(*token, &sample)),
                    // The sampler chose from them, so they are such that one can.
                    Err(error) => tracing::error!(%error, "a choice that can't be signed for"),
                }
            }
        }
    }

    fn note(
        &mut self,
        key: SessionKey,
        generation: Generation,
        note: impl FnOnce(&mut Book) -> Result<Vec<Cut>, DisagreeError>,
    ) {
        let Some(book) = self.books.get_mut(&key).filter(|book| book.generation() == generation) else {
            return;
        };
        if book.is_broken() {
            // It may not have heard of it: its queue was full.
            let event = Event::NotSigned("its rows are not recorded any more".into());
            return self.compute.poke(Command::Control { key, generation, event });
        }
        match note(book) {
            Ok(drafts) => self.sign(key, generation, drafts),
            Err(error) => self.disagree(key, generation, &error),
        }
    }

    fn sign(&mut self, key: SessionKey, generation: Generation, cuts: Vec<Cut>) {
        let (session, mut full) = (key.session, false);
        for Cut { draft, received, sent } in cuts {
            self.metrics.receipts.inc();
            let (digest, open) = (draft.digest, draft.receipt.open);
            let receipt = draft.sign(self.keys.receipt()).encode();
            self.send(key.router, Frame::of(&Receipt { session, generation, receipt }));
            self.retained.keep(digest, (key, open), received, sent);
            full |= self.epochs.sign(digest);
        }
        // Not between two of them: a receipt names the epoch in which it was drafted.
        if full {
            self.next_epoch();
        }
        self.metrics.retained_bytes.set(self.retained.bytes() as i64);
    }

    fn next_epoch(&mut self) {
        self.epochs.close(self.keys.receipt());
        let epoch = self.epochs.present();
        self.books.values_mut().for_each(|book| book.set_epoch(epoch));
    }

    fn audited(&mut self, auditor: NodeId, request: AuditRequest) -> AuditBatch {
        // An empty one stays: else whoever asks could push all others out.
        if request.epoch == self.epochs.present() && !self.epochs.is_empty() {
            self.next_epoch();
        }
        self.epochs.begin(auditor, request)
    }

    fn challenged(&mut self, auditor: NodeId, challenge: &Challenge) -> Challenged {
        let session_of = |receipt: &Digest| self.retained.session(receipt);
        let revealed = self.epochs.reveal(auditor, challenge, unix_seconds(), session_of);
        match revealed {
            Ok(()) => {
                self.metrics.audits.inc();
                Challenged { refusal: String::new() }
            }
            Err(error) => {
                tracing::info!(auditor = %auditor.short(), %error, "not opened");
                Challenged { refusal: error.to_string() }
            }
        }
    }

    fn opened(&self, auditor: NodeId, OpenRows { receipt, side, open }: OpenRows) -> Option<Bytes> {
        let (receipt, open) = (Digest::from_bytes(receipt), Digest::from_bytes(open));
        let session = self.retained.session(&receipt)?;
        let side = if side == 1 { Side::Received } else { Side::Sent };
        self.retained.open(&receipt, side, &open).filter(|_| self.epochs.opens(auditor, session))
    }

    /// Nothing is signed for the session any more, so it ends: its router would not count on it.
    fn disagree(&mut self, key: SessionKey, generation: Generation, error: &DisagreeError) {
        tracing::warn!(session = %key.session, router = %key.router.short(), %error, "not signed for");
        self.metrics.unsigned.inc();
        if let Some(book) = self.books.get_mut(&key) {
            book.give_up();
        }
        let event = Event::NotSigned(cut(error.to_string()));
        self.compute.poke(Command::Control { key, generation, event });
    }

    /// The last receipts of a session's present generation.
    fn end(&mut self, key: SessionKey) {
        let Some(book) = self.books.get_mut(&key) else { return };
        let ((ragged, sent), newest, generation) = (book.end(), book.newest(), book.generation());
        let session = key.session;
        self.sign(key, generation, ragged.into_iter().collect());
        for leaves in sent {
            let leaves = leaves.encode();
            self.send(key.router, Frame::of(&SentRows { session, generation, leaves }));
        }
        if let (Some(newest), Some(past)) = (newest, self.past.get_mut(&key)) {
            past.receipt = Some(newest);
        }
    }

    fn closed(&mut self, key: SessionKey, kept_in: Option<KvSlot>) {
        self.end(key);
        self.books.remove(&key);
        let newest = self.past.get(&key).and_then(|past| past.receipt);
        if let (Some(slot), Some(receipt)) = (kept_in, newest) {
            if self.kept.insert(slot, receipt).is_none() {
                self.kept_order.push_back(slot);
            }
            if self.kept_order.len() > MOST_PAST {
                self.kept_order.pop_front().map(|oldest| self.kept.remove(&oldest));
            }
        }
    }

    fn remember(&mut self, key: SessionKey, before: Before) {
        if self.past.insert(key, before).is_none() {
            self.past_order.push_back(key);
        }
        if self.past_order.len() > MOST_PAST {
            self.past_order.pop_front().map(|oldest| self.past.remove(&oldest));
        }
    }

    fn send(&self, router: NodeId, frame: Frame) {
        if let Some(router) = self.routers.get(&router) {
            router.reports.send(frame);
        }
    }
}

/// Behind the threads that compute, nice +5: nobody waits for a receipt, and everybody for a step.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!(%error, "the attest thread keeps its priority");
    }
}

/// The bytes of `rows` rows from row `at` of a step on.
fn part<'a>(bytes: &'a Bytes, at: usize, rows: usize, book: &Book) -> &'a [u8] {
    let row_bytes = book.facts().row_bytes;
    bytes.get(at * row_bytes..(at + rows) * row_bytes).unwrap_or_default()
}

/// Sessions whose newest receipt is remembered, over 64 KiB in all: as many as may be open, four times.
const MOST_PAST: usize = 4096;
