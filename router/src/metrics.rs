//! What the router counts. Registered once on the registry that is handed in.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use proto::status::RefusalCode;
use proto_telemetry::{RegisterMetricError, Registry, buckets};
use router_plan::admission::AdmissionRefusal;

use crate::session::{FinishReason, Outcome, SessionError};

/// The router's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct RouterMetrics {
    /// Moves by one when a session ends, by how it ended. Not when a route is not found.
    sessions: IntCounterVec,
    /// Sessions from their start to their last account.
    open_sessions: IntGauge,
    /// Moves with each token handed to a client. Duplicates and overshoot do not count.
    tokens: IntCounter,
    /// `router_receipts_total`: receipts of stages that hold.
    receipts: IntCounter,
    /// `router_receipts_refused_total`: receipts that do not; the session goes on without the stage that sent it.
    receipts_refused: IntCounter,
    /// `router_unsigned_stages_total`: stages of whole answers that did not sign for all of their rows in time.
    short: IntCounter,
    /// From the request to the first token. Requests without one do not count.
    ttft: Histogram,
    /// Between two tokens of one answer.
    itl: Histogram,
    /// Nodes known with a record that holds, and reached when they were asked last. Of a serving router; moves once a
    /// second at most.
    nodes: IntGauge,
    /// Moves when an answer whose pipeline broke goes on over another route, or can't, by which.
    resumed: IntCounterVec,
    /// Moves with each resumed answer in whose new route a node stands that stood by before.
    takeovers: IntCounter,
    /// From the moment that the loss of a stage was noticed to the answer's next token.
    resume: Histogram,
    /// From the arrival of a token's frame to its event being handed to a client's connection, of streams. What a client
    /// that reads slowly lets it wait is part of it.
    handover: Histogram,
    /// Moves when a stage refuses to open, by its code.
    refusals: IntCounterVec,
    /// Moves when the directory is asked, by what came of it.
    lookups: IntCounterVec,
    /// Moves when an API request is over, by how: `ok`, a problem's code, or `client_gone`.
    requests: IntCounterVec,
    /// Requests that wait for a place, of all models.
    waiting: IntGauge,
    /// From asking for a place to having it. Refused requests do not count.
    queue: Histogram,
    /// Moves when a request asks for a place, by what came of it; again when nodes turned it away.
    admissions: IntCounterVec,
    /// Moves when a manifest or tokenizer is needed, by where it was found.
    blobs: IntCounterVec,
}

/// What came of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupOutcome {
    /// At least one record.
    Found,
    /// Nothing.
    Empty,
    /// No peer answered.
    Failed,
}

/// Where a blob was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobSource {
    /// In the cache.
    Cache,
    /// Fetched from a node.
    Node,
    /// Nowhere.
    Missing,
}

impl RouterMetrics {
    /// Registers all metrics.
    pub fn register(registry: &Registry) -> Result<Self, RegisterMetricError> {
        Ok(Self {
            sessions: registry.counter_vec(
                "router_sessions_total",
                "Sessions that ended, by outcome.",
                &["outcome"],
            )?,
            open_sessions: registry.gauge("router_open_sessions", "Sessions open at present.")?,
            tokens: registry.counter("router_tokens_total", "Tokens handed to clients.")?,
            receipts: registry.counter("router_receipts_total", "Receipts of stages that hold.")?,
            short: registry.counter(
                "router_unsigned_stages_total",
                "Stages of whole answers that did not sign for all of their rows.",
            )?,
            receipts_refused: registry
                .counter("router_receipts_refused_total", "Receipts of stages that do not hold.")?,
            ttft: registry.histogram(
                "router_ttft_seconds",
                "From the request to the first token.",
                buckets::SECONDS,
            )?,
            itl: registry.histogram("router_itl_seconds", "Between two tokens.", buckets::SECONDS)?,
            nodes: registry.gauge("router_nodes", "Nodes known and reached.")?,
            resumed: registry.counter_vec(
                "router_answers_resumed_total",
                "Answers whose pipeline broke, by what came of it.",
                &["outcome"],
            )?,
            takeovers: registry.counter(
                "router_takeovers_total",
                "Resumed answers that a node goes on with that stood by.",
            )?,
            resume: registry.histogram(
                "router_resume_seconds",
                "From a stage's loss to the answer's next token.",
                buckets::SECONDS,
            )?,
            handover: registry.histogram(
                "router_token_handover_seconds",
                "From a token's arrival to its being handed to a client's connection.",
                buckets::SECONDS,
            )?,
            refusals: registry.counter_vec(
                "router_open_refusals_total",
                "Opens that stages refused, by code.",
                &["code"],
            )?,
            lookups: registry.counter_vec(
                "router_lookups_total",
                "Directory lookups, by outcome.",
                &["outcome"],
            )?,
            requests: registry.counter_vec(
                "router_requests_total",
                "API requests that are over, by outcome.",
                &["outcome"],
            )?,
            waiting: registry.gauge("router_waiting_requests", "Requests that wait for a place.")?,
            queue: registry.histogram(
                "router_queue_seconds",
                "From asking for a place to having it.",
                buckets::SECONDS,
            )?,
            admissions: registry.counter_vec(
                "router_admissions_total",
                "Requests for a place, by outcome.",
                &["outcome"],
            )?,
            blobs: registry.counter_vec(
                "router_blobs_total",
                "Manifests and tokenizers needed, by where they were found.",
                &["source"],
            )?,
        })
    }

    pub(crate) fn session_started(&self) {
        self.open_sessions.inc();
    }

    pub(crate) fn session_ended(&self, outcome: &Outcome) {
        self.open_sessions.dec();
        self.sessions.with_label_values(&[outcome_label(outcome)]).inc();
    }

    /// A stage of a whole answer did not sign for all of its rows.
    pub(crate) fn short(&self) {
        self.short.inc();
    }

    /// A receipt came.
    pub(crate) fn receipt(&self, holds: bool) {
        if holds { self.receipts.inc() } else { self.receipts_refused.inc() }
    }

    pub(crate) fn token(&self) {
        self.tokens.inc();
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.ttft.observe(after.as_secs_f64());
    }

    pub(crate) fn next_token(&self, after: Duration) {
        self.itl.observe(after.as_secs_f64());
    }

    pub(crate) fn reached(&self, nodes: usize) {
        self.nodes.set(nodes as i64);
    }

    /// An answer goes on: its next token came so long after the loss was noticed.
    pub(crate) fn resumed(&self, after: Duration) {
        self.resumed.with_label_values(&["resumed"]).inc();
        self.resume.observe(after.as_secs_f64());
    }

    /// An answer left a node in time.
    pub(crate) fn left(&self) {
        self.resumed.with_label_values(&["handed_over"]).inc();
    }

    pub(crate) fn taken_over(&self) {
        self.takeovers.inc();
    }

    pub(crate) fn broken_off(&self) {
        self.resumed.with_label_values(&["broken_off"]).inc();
    }

    pub(crate) fn handed_over(&self, after: Duration) {
        self.handover.observe(after.as_secs_f64());
    }

    pub(crate) fn refused(&self, code: RefusalCode) {
        self.refusals.with_label_values(&[refusal_label(code)]).inc();
    }

    /// `outcome` comes from a closed set: a problem's code, `ok` or `client_gone`.
    pub(crate) fn request(&self, outcome: &'static str) {
        self.requests.with_label_values(&[outcome]).inc();
    }

    /// The number of waiting requests has changed by this much.
    pub(crate) fn waiting(&self, change: i64) {
        self.waiting.add(change);
    }

    pub(crate) fn placed(&self, after: Duration) {
        self.queue.observe(after.as_secs_f64());
        self.admissions.with_label_values(&["placed"]).inc();
    }

    pub(crate) fn not_placed(&self, refusal: &AdmissionRefusal) {
        let label = match refusal {
            AdmissionRefusal::QueueFull { .. } => "queue_full",
            AdmissionRefusal::Displaced { .. } => "displaced",
            AdmissionRefusal::Waited { .. } => "waited",
            AdmissionRefusal::NoRoute { .. } => "no_route",
            AdmissionRefusal::TooLarge { .. } => "too_large",
            AdmissionRefusal::TurnedAway { .. } => "turned_away",
            AdmissionRefusal::Closed => "closed",
        };
        self.admissions.with_label_values(&[label]).inc();
    }

    pub(crate) fn lookup(&self, outcome: LookupOutcome) {
        let label = match outcome {
            LookupOutcome::Found => "found",
            LookupOutcome::Empty => "empty",
            LookupOutcome::Failed => "failed",
        };
        self.lookups.with_label_values(&[label]).inc();
    }

    pub(crate) fn blob(&self, source: BlobSource) {
        let label = match source {
            BlobSource::Cache => "cache",
            BlobSource::Node => "node",
            BlobSource::Missing => "missing",
        };
        self.blobs.with_label_values(&[label]).inc();
    }
}

fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Finished(FinishReason::Stop) => "stop",
        Outcome::Finished(FinishReason::Length) => "length",
        Outcome::Cancelled => "cancelled",
        Outcome::Superseded => "superseded",
        Outcome::Failed(error) => match error {
            SessionError::Refused { .. } => "refused",
            SessionError::Unreachable { .. } => "unreachable",
            SessionError::WrongDigest { .. } | SessionError::Violation { .. } => "violation",
            SessionError::Lost { .. } => "lost",
            SessionError::Stalled { .. } => "stalled",
            SessionError::Leaving { .. } => "leaving",
            SessionError::Parted { .. } => "parted",
            SessionError::GaveUp { .. } => "gave_up",
            SessionError::TimedOut { .. } => "timed_out",
            SessionError::BrokenOff { .. } => "broken_off",
            SessionError::ShuttingDown => "shutting_down",
        },
    }
}

fn refusal_label(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Other => "other",
        RefusalCode::WrongModel => "wrong_model",
        RefusalCode::WrongSpan => "wrong_span",
        RefusalCode::WrongClass => "wrong_class",
        RefusalCode::NoCapacity => "no_capacity",
        RefusalCode::TooLong => "too_long",
        RefusalCode::BadPlan => "bad_plan",
        RefusalCode::HopUnreachable => "hop_unreachable",
        RefusalCode::Draining => "draining",
        RefusalCode::Stale => "stale",
        RefusalCode::BadSampling => "bad_sampling",
        RefusalCode::NotReady => "not_ready",
        RefusalCode::BadGrammar => "bad_grammar",
    }
}
