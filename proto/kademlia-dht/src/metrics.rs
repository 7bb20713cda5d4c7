//! Metrics of discovery, registered once on a registry that the process passes in. Labels come from closed enums.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::core::{Core, Counters, Rejection};
use crate::directory::{LookupError, PublishError, Published};

/// All metrics of the DHT. Clones share the same counters. The default is registered nowhere.
#[derive(Debug, Clone)]
pub struct DiscoveryMetrics {
    /// `discovery_lookups_total{outcome}`: lookups asked for by this process that ended, by `found`, `empty`,
    /// `failed`. Lookups behind publications and refreshes are not counted.
    lookups: IntCounterVec,
    /// `discovery_lookup_seconds`: from question to complete answer, of those that had one.
    lookup_seconds: Histogram,
    /// `discovery_publications_total{outcome}`: announcements and tombstones that ended, by `kept`, `failed`.
    publications: IntCounterVec,
    /// `discovery_table_contacts`: peers in the routing table.
    table_contacts: IntGauge,
    /// `discovery_records`: records held, for others and ourselves, once per key.
    records: IntGauge,
    /// `discovery_record_bytes`: estimated memory of these.
    record_bytes: IntGauge,
    /// `discovery_requests_sent_total`: requests sent, of all kinds.
    sent: IntCounter,
    /// `discovery_requests_failed_total`: of these, without a usable answer.
    failed: IntCounter,
    /// `discovery_requests_served_total`: requests of others answered; those refused for their rate are not.
    served: IntCounter,
    /// `discovery_signatures_checked_total`: record signatures checked; repeats are remembered and not counted.
    verified: IntCounter,
    /// `discovery_rejected_total{reason}`: records, contacts, requests and replies turned away.
    rejected: IntCounterVec,
}

impl DiscoveryMetrics {
    /// Registers everything on `registry`; fails if that was done before.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::unregistered()?;
        registry.register(Box::new(metrics.lookups.clone()))?;
        registry.register(Box::new(metrics.lookup_seconds.clone()))?;
        registry.register(Box::new(metrics.publications.clone()))?;
        for gauge in [&metrics.table_contacts, &metrics.records, &metrics.record_bytes] {
            registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [&metrics.sent, &metrics.failed, &metrics.served, &metrics.verified] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(metrics.rejected.clone()))?;
        Ok(metrics)
    }

    fn unregistered() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            lookups: IntCounterVec::new(Opts::new("discovery_lookups_total", "Lookups ended"), &["outcome"])?,
            lookup_seconds: Histogram::with_opts(
                HistogramOpts::new("discovery_lookup_seconds", "Duration of answered lookups")
                    .buckets(LOOKUP_SECONDS.to_vec()),
            )?,
            publications: IntCounterVec::new(
                Opts::new("discovery_publications_total", "Announcements and tombstones ended"),
                &["outcome"],
            )?,
            table_contacts: IntGauge::new("discovery_table_contacts", "Peers in the routing table")?,
            records: IntGauge::new("discovery_records", "Records held, once per key")?,
            record_bytes: IntGauge::new("discovery_record_bytes", "Estimated memory of records held")?,
            sent: IntCounter::new("discovery_requests_sent_total", "Requests sent")?,
            failed: IntCounter::new("discovery_requests_failed_total", "Requests without a usable answer")?,
            served: IntCounter::new("discovery_requests_served_total", "Requests answered")?,
            verified: IntCounter::new("discovery_signatures_checked_total", "Record signatures checked")?,
            rejected: IntCounterVec::new(Opts::new("discovery_rejected_total", "Turned away"), &["reason"])?,
        };
        // Every series exists from the start, so that a rate over it is never missing.
        for reason in Rejection::ALL {
            metrics.rejected.with_label_values(&[reason.label()]);
        }
        for outcome in ["found", "empty", "failed"] {
            metrics.lookups.with_label_values(&[outcome]);
        }
        for outcome in ["kept", "failed"] {
            metrics.publications.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    pub(crate) fn lookup_ended(&self, found: Result<usize, &LookupError>, took: Duration) {
        let outcome = match found {
            Ok(0) => "empty",
            Ok(_) => "found",
            Err(_) => "failed",
        };
        self.lookups.with_label_values(&[outcome]).inc();
        if found.is_ok() {
            self.lookup_seconds.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn publication_ended(&self, result: &Result<Published, PublishError>) {
        let outcome = if result.is_ok() { "kept" } else { "failed" };
        self.publications.with_label_values(&[outcome]).inc();
    }

    /// Mirrors the core's counters; `before` is what was mirrored last.
    pub(crate) fn mirror(&self, core: &Core, before: &mut Counters) {
        let now = core.counters();
        self.table_contacts.set(core.table_len() as i64);
        self.records.set(core.records() as i64);
        self.record_bytes.set(core.record_bytes() as i64);
        self.sent.inc_by(now.sent - before.sent);
        self.failed.inc_by(now.failed - before.failed);
        self.served.inc_by(now.served - before.served);
        self.verified.inc_by(now.verified - before.verified);
        for reason in Rejection::ALL {
            let more = now.rejected(reason) - before.rejected(reason);
            if more > 0 {
                self.rejected.with_label_values(&[reason.label()]).inc_by(more);
            }
        }
        *before = now;
    }
}

impl Default for DiscoveryMetrics {
    fn default() -> Self {
        Self::unregistered().expect("the names and labels above are valid")
    }
}

/// From a lookup on loopback (1 ms) over the target of 600 ms to the deadline of 5 s.
const LOOKUP_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.5, 5.0];
