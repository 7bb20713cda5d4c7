//! What leaves the compute thread: rows, tokens, reports, and word of both to the thread that signs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::activation::Activations;
use proto::status::CloseCode;
use proto::{FrameKind, NodeId};

use super::{Step, Worker};
use crate::attest::{Job, StepRecord};
use crate::links::Frame;
use crate::session::table::{Effect, LinkId, Replayed};
use crate::session::{Report, SessionKey};

impl Worker {
    /// Sends the output on, decode rows first, as they come first in a step.
    pub(super) fn forward(&self, step: &Step, rows: &Bytes) {
        let sent_unix_ns = crate::clock::unix_nanos();
        let row_bytes = self.shape.row_bytes();
        for out in step.outgoing() {
            let Some(link) = self.links.get(&out.link) else { continue };
            let frame = Activations {
                dtype: self.shape.class.wire_dtype(),
                hidden: self.shape.hidden,
                sent_unix_ns,
                groups: out.groups,
                rows: rows.slice(out.rows.start * row_bytes..out.rows.end * row_bytes),
            };
            let frame = Frame { kind: FrameKind::Activations, body: [frame.head(), frame.rows] };
            if out.bulk {
                link.send_bulk(frame);
            } else {
                link.send(frame);
            }
        }
    }

    /// Sends rows once more to a stage that lacks them, or to one that stands by; `false` if there are none, or no room.
    pub(super) fn replay(&mut self) -> bool {
        let links = &self.links;
        let has_room = |link| links.get(&link).is_some_and(|link| link.has_room());
        let next = self.table.next_replay(has_room).or_else(|| self.table.next_copy(has_room));
        let Some(Replayed { link, key, attested, row, rows }) = next else { return false };
        if attested {
            let (generation, start, rows) = (row.generation, row.start, rows.clone());
            self.tell(|| Job::Again { key, generation, start, rows });
        }
        let Some(link) = self.links.get(&link) else { return false };
        let frame = Activations {
            dtype: self.shape.class.wire_dtype(),
            hidden: self.shape.hidden,
            sent_unix_ns: crate::clock::unix_nanos(),
            groups: vec![row],
            rows,
        };
        link.send_bulk(Frame { kind: FrameKind::Activations, body: [frame.head(), frame.rows] });
        true
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut kept_in = None;
        for effect in effects {
            match effect {
                // Told with the step.
                Effect::Chosen(..) => {}
                Effect::Return(link, sampled) => {
                    if let Some(link) = self.links.get(&link) {
                        link.send(Frame::of(&sampled));
                    }
                }
                Effect::Report(router, report) => self.report(router, &report),
                Effect::Free(slot) => {
                    self.give_up(slot);
                    self.stage.close(slot);
                }
                // An unknown slot, the only error, shows itself in the next step.
                Effect::Trim(slot, length) => {
                    self.give_up(slot);
                    drop(self.stage.trim(slot, length));
                }
                Effect::Retain(slot, length) => {
                    self.give_up(slot);
                    kept_in = Some(slot);
                    if let Err(error) = self.stage.retain(slot, length) {
                        tracing::warn!(%error, "rows not kept");
                        self.table.prefix_lost(slot);
                        self.stage.close(slot);
                    }
                }
                Effect::Ended(key, code) => {
                    let kept_in = kept_in.take();
                    if self.attested.remove(&key) {
                        self.tell(|| Job::Closed { key, kept_in });
                    }
                    self.ended(key, code);
                }
            }
        }
    }

    pub(super) fn report(&mut self, router: NodeId, report: &Report) {
        if matches!(report, Report::Sampled(_)) {
            self.metrics.sampled.inc();
        }
        // The last word goes behind the last receipts.
        let (last_of, frame) = match report {
            Report::Sampled(sampled) => (None, Frame::of(sampled)),
            Report::Progress(progress) => (None, Frame::of(progress)),
            Report::Failed(failed) => (Some(failed.session), Frame::of(failed)),
            Report::Ended(ended) => (Some(ended.session), Frame::of(ended)),
        };
        let attested =
            last_of.map(|session| SessionKey { router, session }).filter(|key| self.attested.contains(key));
        match (attested, self.routers.get(&router)) {
            (Some(key), _) => self.tell(|| Job::LastWord { key, frame }),
            (None, Some(reports)) => reports.send(frame),
            (None, None) => {}
        }
    }

    /// Steps are told of together: waking the other thread for each would take as long as what it does then.
    pub(super) fn gather(&mut self, record: StepRecord) {
        self.gathered.push(record);
        if self.gathered.len() >= GATHERED {
            self.tell_steps();
        }
    }

    pub(super) fn tell_steps(&mut self) {
        if let (Some(notary), false) = (&self.notary, self.gathered.is_empty()) {
            notary.tell(Job::Steps(std::mem::take(&mut self.gathered)));
        }
    }

    pub(super) fn tell(&mut self, job: impl FnOnce() -> Job) {
        self.tell_steps();
        if let Some(notary) = &self.notary {
            notary.tell(job());
        }
    }

    pub(super) fn ended(&mut self, key: SessionKey, code: CloseCode) {
        self.metrics.ended(code);
        let links = [self.link_users.remove(&key), self.standby_links.remove(&key)];
        for link in links.into_iter().flatten() {
            self.let_go(link);
        }
        if !matches!(code, CloseCode::Finished | CloseCode::Cancelled | CloseCode::Superseded) {
            tracing::info!(session = %key.session, router = %key.router.short(), %code, "session ended");
        }
    }

    /// Lets go of a link that no session uses any more.
    pub(super) fn let_go(&mut self, link: LinkId) {
        if !self.link_users.values().chain(self.standby_links.values()).any(|&other| other == link) {
            self.links.remove(&link);
        }
    }

    /// Shows the load to whoever asks.
    pub(super) fn publish(&self) {
        let reserved = self.table.reserved();
        self.metrics.recovered(&self.table.recovered());
        self.metrics.reuse(self.table.prefixes(), self.table.skipped_rows());
        self.load.sessions.store(self.table.len() as u32, Ordering::Relaxed);
        self.load.kv_reserved.store(reserved, Ordering::Relaxed);
        self.metrics.sessions.set(self.table.len() as i64);
        self.metrics.kv_reserved.set(reserved as i64);
        self.open_sessions
            .send_if_modified(|open| std::mem::replace(open, self.table.len()) != self.table.len());
    }
}

/// Steps whose rows are signed for together. A beat of ticks tells of fewer.
const GATHERED: usize = 8;
