//! What a node counts. Connections, frames and bytes are the transport's metrics.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use proto::status::{CloseCode, RefusalCode};
use proto_telemetry::{RegisterMetricError, Registry, buckets};
use shard_node_stage::{PrefixCounts, PrefixStore};

use crate::session::Step;
use crate::session::table::Recovered;

/// All metrics of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    /// `shard_node_step_seconds{phase}`: compute time of a step, its pauses left out. `decode` holds decode rows only, `prefill` a prefill
    /// chunk only, `mixed` both. Moves once a step; sampling and sending are not in it.
    step_decode: Histogram,
    step_prefill: Histogram,
    step_mixed: Histogram,
    /// `shard_node_step_rows`: rows of a step, all sessions together.
    step_rows: Histogram,
    /// `shard_node_prefill_chunk_rows`: most rows of a prefill chunk while other sessions decode, as chosen from measured
    /// step times. Moves when the choice changes.
    pub(crate) chunk_rows: IntGauge,
    /// `shard_node_prefill_pauses_total`: times that a prefill chunk under way let decode rows have their turn, whether or
    /// not any were ready.
    pub(crate) pauses: IntCounter,
    /// `shard_node_decode_batches`: how many batches of decode rows stage 0 has under way at most, as chosen from
    /// measured rounds; without meaning on other stages. Moves when another number is tried or kept, and with the
    /// number of sessions.
    pub(crate) batches: IntGauge,
    /// `shard_node_hop_seconds`: from the end of the upstream stage's compute to the beginning of the step, for each
    /// decode row that came over the network. Clock offset removed; does not move on rows that waited for credit.
    hop: Histogram,
    /// `shard_node_queue_seconds`: the part of it that the row waited in this process.
    queue: Histogram,
    /// `shard_node_sessions`: sessions open now.
    pub(crate) sessions: IntGauge,
    /// `shard_node_sessions_opened_total`: sessions ever admitted.
    pub(crate) opened: IntCounter,
    /// `shard_node_sessions_ended_total{reason}`: sessions that are over, by close code.
    ended: IntCounterVec,
    /// `shard_node_refusals_total{code}`: opens refused, by refusal code.
    refusals: IntCounterVec,
    /// `shard_node_receipts_total`: receipts signed.
    pub(crate) receipts: IntCounter,
    /// `shard_node_retained_bytes`: rows behind receipts that are held for audits. Moves with each receipt.
    pub(crate) retained_bytes: IntGauge,
    /// `shard_node_audits_total`: challenges of auditors that held, so that rows are opened.
    pub(crate) audits: IntCounter,
    /// `shard_node_unsigned_sessions_total`: sessions that were to be signed for and could not be; the log says why.
    pub(crate) unsigned: IntCounter,
    /// `shard_node_kv_reserved_positions`: positions of KV promised to open sessions.
    pub(crate) kv_reserved: IntGauge,
    /// `shard_node_kv_used_positions`: positions that hold rows. Updated ten times a second while sessions are open.
    pub(crate) kv_used: IntGauge,
    /// `shard_node_kv_capacity_positions`: positions that can be promised. Constant.
    pub(crate) kv_capacity: IntGauge,
    /// `shard_node_kv_cached_positions`: positions that hold rows of sessions that are over, for reuse. Free for whoever
    /// opens a session.
    kv_cached: IntGauge,
    /// `shard_node_prefix_lookups_total`: sessions that offered blocks of their prompt for reuse.
    prefix_lookups: IntCounter,
    /// `shard_node_prefix_hits_total`: those of them for which rows were found here.
    prefix_hits: IntCounter,
    /// `shard_node_prefix_evictions_total`: kept beginnings given up to make room; not those that expired.
    prefix_evictions: IntCounter,
    /// `shard_node_prefix_skipped_rows_total`: prompt rows that were not computed because they were held already: what
    /// the whole route could reuse, which may be less than what was found here.
    prefix_skipped_rows: IntCounter,
    /// `shard_node_sessions_resumed_total`: sessions that went on from rows of their generation before, whose pipeline
    /// broke; not those that were computed anew here.
    resumed: IntCounter,
    /// `shard_node_replayed_rows_total`: rows sent on once more, to a node that took the place of the next stage.
    replayed_rows: IntCounter,
    /// `shard_node_kv_parked_positions`: positions kept for sessions whose pipeline broke. Free for whoever opens a
    /// session; at most 10 s.
    kv_parked: IntGauge,
    /// `shard_node_boundary_bytes`: bytes of rows held that were sent on. Updated like `kv_used`.
    boundary_bytes: IntGauge,
    /// `shard_node_standby_sessions`: sessions that stand by for another node's. Updated like `kv_used`.
    standbys: IntGauge,
    /// `shard_node_copied_rows_total`: rows sent to nodes that stand by for the next stage.
    copied_rows: IntCounter,
    /// `shard_node_boundary_evictions_total`: sessions whose rows sent on were given up for want of room.
    boundary_evictions: IntCounter,
    /// `shard_node_kv_bytes`: bytes of KV in use in the stage. Updated like `kv_used`.
    pub(crate) kv_bytes: IntGauge,
    /// `shard_node_waste_rows_total`: rows that came for a session already closed: upstream's work for nothing.
    pub(crate) waste_rows: IntCounter,
    /// `shard_node_sampled_tokens_total`: tokens sampled; moves on a tail only.
    pub(crate) sampled: IntCounter,
    /// `shard_node_step_failures_total`: steps that the stage could not compute.
    pub(crate) step_failures: IntCounter,
    /// `shard_node_protocol_errors_total`: streams or connections closed because the peer broke the protocol.
    pub(crate) protocol_errors: IntCounter,
    /// `shard_node_connections_refused_total`: connections beyond the limit.
    pub(crate) connections_refused: IntCounter,
}

impl NodeMetrics {
    /// Registers everything; fails if that was done before.
    pub fn new(registry: &Registry) -> Result<Self, RegisterMetricError> {
        let step = registry.histogram_vec(
            "shard_node_step_seconds",
            "Compute time of a step",
            buckets::STEP_SECONDS,
            &["phase"],
        )?;
        Ok(Self {
            step_decode: step.with_label_values(&["decode"]),
            step_prefill: step.with_label_values(&["prefill"]),
            step_mixed: step.with_label_values(&["mixed"]),
            step_rows: registry.histogram("shard_node_step_rows", "Rows of a step", buckets::ROWS)?,
            chunk_rows: registry
                .gauge("shard_node_prefill_chunk_rows", "Most rows of a chunk while others decode")?,
            pauses: registry.counter(
                "shard_node_prefill_pauses_total",
                "Times that a chunk under way let decode rows have their turn",
            )?,
            batches: registry
                .gauge("shard_node_decode_batches", "Batches that follow each other through the stages")?,
            hop: registry.histogram(
                "shard_node_hop_seconds",
                "From the end of upstream's compute to the beginning of this stage's",
                buckets::SECONDS,
            )?,
            queue: registry.histogram(
                "shard_node_queue_seconds",
                "From a row's arrival to the beginning of its step",
                buckets::SECONDS,
            )?,
            sessions: registry.gauge("shard_node_sessions", "Sessions open now")?,
            opened: registry.counter("shard_node_sessions_opened_total", "Sessions admitted")?,
            ended: registry.counter_vec(
                "shard_node_sessions_ended_total",
                "Sessions that are over",
                &["reason"],
            )?,
            refusals: registry.counter_vec("shard_node_refusals_total", "Opens refused", &["code"])?,
            kv_reserved: registry.gauge("shard_node_kv_reserved_positions", "KV positions promised")?,
            kv_used: registry.gauge("shard_node_kv_used_positions", "KV positions that hold rows")?,
            kv_capacity: registry.gauge("shard_node_kv_capacity_positions", "KV positions in all")?,
            kv_cached: registry.gauge("shard_node_kv_cached_positions", "KV positions kept for reuse")?,
            prefix_lookups: registry
                .counter("shard_node_prefix_lookups_total", "Sessions that offered blocks for reuse")?,
            prefix_hits: registry
                .counter("shard_node_prefix_hits_total", "Sessions for which rows were found")?,
            prefix_evictions: registry
                .counter("shard_node_prefix_evictions_total", "Kept beginnings given up for room")?,
            prefix_skipped_rows: registry
                .counter("shard_node_prefix_skipped_rows_total", "Prompt rows not computed again")?,
            resumed: registry
                .counter("shard_node_sessions_resumed_total", "Sessions that went on from rows held")?,
            replayed_rows: registry.counter("shard_node_replayed_rows_total", "Rows sent on once more")?,
            kv_parked: registry
                .gauge("shard_node_kv_parked_positions", "KV positions kept for broken sessions")?,
            boundary_bytes: registry.gauge("shard_node_boundary_bytes", "Bytes of rows held, sent on")?,
            standbys: registry.gauge("shard_node_standby_sessions", "Sessions that stand by for others")?,
            copied_rows: registry
                .counter("shard_node_copied_rows_total", "Rows sent to nodes that stand by")?,
            boundary_evictions: registry.counter(
                "shard_node_boundary_evictions_total",
                "Sessions whose rows sent on were given up",
            )?,
            kv_bytes: registry.gauge("shard_node_kv_bytes", "Bytes of KV in use")?,
            receipts: registry.counter("shard_node_receipts_total", "Receipts signed")?,
            retained_bytes: registry.gauge("shard_node_retained_bytes", "Bytes of rows held for audits")?,
            audits: registry.counter("shard_node_audits_total", "Challenges that were taken")?,
            unsigned: registry
                .counter("shard_node_unsigned_sessions_total", "Sessions that could not be signed for")?,
            waste_rows: registry
                .counter("shard_node_waste_rows_total", "Rows for sessions already closed")?,
            sampled: registry.counter("shard_node_sampled_tokens_total", "Tokens sampled")?,
            step_failures: registry.counter("shard_node_step_failures_total", "Steps that failed")?,
            protocol_errors: registry
                .counter("shard_node_protocol_errors_total", "Streams closed for breaking the protocol")?,
            connections_refused: registry
                .counter("shard_node_connections_refused_total", "Connections beyond the limit")?,
        })
    }

    /// A step was computed.
    pub(crate) fn step(&self, step: &Step, took: Duration) {
        let (rows, prefill) = (step.rows(), step.prefill_rows());
        let phase = match (prefill, rows - prefill) {
            (0, _) => &self.step_decode,
            (_, 0) => &self.step_prefill,
            _ => &self.step_mixed,
        };
        phase.observe(took.as_secs_f64());
        self.step_rows.observe(f64::from(rows));
        for member in &step.members {
            if let Some(hop) = member.hop {
                self.hop.observe(hop.as_secs_f64());
            }
            if let Some(waited) = member.waited {
                self.queue.observe(waited.as_secs_f64());
            }
        }
    }

    /// Takes over what is kept and what came of it so far.
    pub(crate) fn reuse(&self, prefixes: &PrefixStore, skipped_rows: u64) {
        let PrefixCounts { lookups, hits, evictions } = prefixes.counts();
        self.kv_cached.set(prefixes.positions() as i64);
        for (counter, total) in [
            (&self.prefix_lookups, lookups),
            (&self.prefix_hits, hits),
            (&self.prefix_evictions, evictions),
            (&self.prefix_skipped_rows, skipped_rows),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// Takes over what came of broken pipelines so far.
    pub(crate) fn recovered(&self, recovered: &Recovered) {
        self.kv_parked.set(recovered.parked_positions as i64);
        self.boundary_bytes.set(recovered.boundary_bytes as i64);
        self.standbys.set(recovered.standbys as i64);
        for (counter, total) in [
            (&self.resumed, recovered.resumed),
            (&self.replayed_rows, recovered.replayed_rows),
            (&self.copied_rows, recovered.copied_rows),
            (&self.boundary_evictions, recovered.boundary_evictions),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    pub(crate) fn refused(&self, code: RefusalCode) {
        self.refusals.with_label_values(&[refusal_label(code)]).inc();
    }

    pub(crate) fn ended(&self, code: CloseCode) {
        self.ended.with_label_values(&[close_label(code)]).inc();
    }
}

const fn refusal_label(code: RefusalCode) -> &'static str {
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

const fn close_label(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Other => "other",
        CloseCode::Finished => "finished",
        CloseCode::Cancelled => "cancelled",
        CloseCode::LeaseExpired => "lease_expired",
        CloseCode::RouterLost => "router_lost",
        CloseCode::HopLost => "hop_lost",
        CloseCode::Protocol => "protocol",
        CloseCode::Compute => "compute",
        CloseCode::ShuttingDown => "shutting_down",
        CloseCode::Superseded => "superseded",
        CloseCode::Overload => "overload",
        CloseCode::Deadline => "deadline",
        CloseCode::Grammar => "grammar",
    }
}
