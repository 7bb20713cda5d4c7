//! What this node signs of its work. The compute thread says what it computed; a thread of its own hashes, signs and
//! reports, so that neither a step nor a token waits for it.
//!
//! ```text
//! compute thread --Opened, Steps, Again, Closed--> queue --> attest thread --receipts, last words--> report streams
//! control streams ----------- Asked ------------>
//! ```
//! The last word about a session (`Failed`, `Ended`) goes behind its last receipts, by the same way. [`book`] is what is
//! kept of one session, without queues and clocks.

mod book;
mod build;
mod epochs;
mod retained;
mod thread;

use std::sync::Arc;

use bytes::Bytes;
use proto::attest::Attest;
use proto::audit::{AuditBatch, AuditRequest, Challenge, Challenged, OpenRows};
use proto::session::{Open, Plan, SamplingParams};
use proto::{Generation, Position};
use proto_keys::KeyRing;
use shard_node_stage::{KvSlot, StepInput};
use tokio::sync::{mpsc, oneshot};

use crate::compute::ComputeHandle;
use crate::links::{Frame, ReportLink};
use crate::metrics::NodeMetrics;
use crate::session::table::LinkId;
use crate::session::{SessionKey, Terms};

pub(crate) use build::exec_build;
pub(crate) use thread::NotaryThread;

/// The way to the attest thread. Clones lead to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Notary {
    jobs: mpsc::Sender<Job>,
    binding: Bytes,
}

/// What the attest thread is told.
#[derive(Debug)]
pub(crate) enum Job {
    /// A router is there to be reported to.
    RouterUp { reports: ReportLink, router: proto::NodeId },
    /// It is gone by this connection.
    RouterDown { link: LinkId, router: proto::NodeId },
    /// An attested session was admitted.
    Opened { key: SessionKey, generation: Generation, facts: Box<Facts> },
    /// Its router asks for signatures.
    Asked { router: proto::NodeId, attest: Box<Attest> },
    /// Rows were computed, in some steps.
    Steps(Vec<StepRecord>),
    /// Rows of an earlier generation are sent once more.
    Again { key: SessionKey, generation: Generation, start: Position, rows: Bytes },
    /// An auditor wants an epoch's batch.
    Audit { auditor: proto::NodeId, request: AuditRequest, reply: oneshot::Sender<AuditBatch> },
    /// It shows its seed.
    Challenge { auditor: proto::NodeId, challenge: Box<Challenge>, reply: oneshot::Sender<Challenged> },
    /// It wants rows.
    OpenRows { auditor: proto::NodeId, rows: OpenRows, reply: oneshot::Sender<Option<Bytes>> },
    /// The last word about a session, to be said behind its last receipts.
    LastWord { key: SessionKey, frame: Frame },
    /// The session is over. Its KV may be kept in this slot for others.
    Closed { key: SessionKey, kept_in: Option<KvSlot> },
    /// Nothing more comes.
    Stop,
}

/// What a session was opened with, as far as its signatures are concerned.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    plan: Plan,
    stage: u16,
    /// Rows held, as the stage answered.
    held: u32,
    /// They are of an earlier generation, and it goes on behind all of them.
    resumes: bool,
    /// For the tail: how it samples, and whether a grammar has a say in it.
    sampling: Option<(SamplingParams, bool)>,
    /// The rows held are of the session whose KV was kept in this slot.
    reuses: Option<KvSlot>,
    /// Bytes of a row.
    row_bytes: usize,
}

/// Rows of a step of sessions that are attested.
#[derive(Debug)]
pub(crate) struct StepRecord {
    /// Whose.
    pub(crate) members: Vec<Recorded>,
    /// What went in, all rows of the step.
    pub(crate) input: StepInput,
    /// What came out, all rows of the step.
    pub(crate) output: Bytes,
}

/// Rows of one session in a step.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) key: SessionKey,
    pub(crate) generation: Generation,
    pub(crate) start: Position,
    pub(crate) rows: u32,
    /// Which rows of the step they are: the first one.
    pub(crate) at: usize,
    /// They were sent on, or are the tail's.
    pub(crate) sent: bool,
    /// What was chosen from the last of them, and from which logits.
    pub(crate) chosen: Option<Chosen>,
}

/// A choice of the tail.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) token: u32,
    /// Logarithm of the sum of the exponentials of all logits.
    pub(crate) logsumexp: f32,
    /// The likeliest, as they were before sampling: copying all would take longer than finding these.
    pub(crate) top: Vec<(u32, f32)>,
}

impl Notary {
    /// Starts the thread. It ends at [`Job::Stop`].
    pub(crate) fn start(
        keys: Arc<KeyRing>,
        compute: ComputeHandle,
        metrics: NodeMetrics,
        retain_bytes: u64,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(JOBS);
        let binding = Bytes::from(keys.binding().signed().encode());
        NotaryThread::new(keys, compute, metrics, queue, retain_bytes).spawn()?;
        Ok(Self { jobs, binding })
    }

    /// The encoded binding of the receipt key.
    pub(crate) const fn binding(&self) -> &Bytes {
        &self.binding
    }

    /// From the compute thread: waits while the attest thread is behind, so that its queue is bounded.
    pub(crate) fn tell(&self, job: Job) {
        // An error means that the thread has ended: what it does not sign is missing in the evidence.
        let _ = self.jobs.blocking_send(job);
    }

    /// From a stream. Waits while the thread is behind.
    pub(crate) async fn ask(&self, job: Job) {
        let _ = self.jobs.send(job).await;
    }

    /// From a stream, for an answer; `None` after the thread's end.
    pub(crate) async fn answer<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.ask(job(reply)).await;
        answer.await.ok()
    }
}

impl Facts {
    /// Of a session that was admitted.
    pub(crate) fn new(open: &Open, terms: &Terms, reuses: Option<KvSlot>, row_bytes: usize) -> Self {
        let further = &open.service.further;
        let constrained = further.answer.grammar.is_some();
        Self {
            plan: open.plan.clone(),
            stage: open.stage,
            held: terms.reusable,
            resumes: further.resume.rows > 0,
            sampling: open.tail.as_ref().map(|tail| (tail.sampling.clone(), constrained)),
            reuses,
            row_bytes,
        }
    }
}

/// Jobs that may wait. A router takes a lag of 96 rows: what waits here, with the steps that the compute thread gathers,
/// is some of these for a session that is in each step. Each holds the rows of its steps' frames, 2 MB at most.
const JOBS: usize = 4;
