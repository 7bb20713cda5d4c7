//! The metric registry that `main` makes and hands down; there is no global one.
//!
//! A thin wrapper: short constructors that create and register in one step, and the text encoding. It does
//! not check names against `docs/OPERATIONS.md`; `cargo xtask tidy` does.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts,
};
use thiserror::Error;

/// All metrics of one process. Clones share the same metrics.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: prometheus::Registry,
}

/// A metric could not be registered: a bad name, or a name that is taken.
#[derive(Debug, Error)]
#[error("register metric {name}: {source}")]
pub struct RegisterMetricError {
    name: String,
    source: prometheus::Error,
}

impl RegisterMetricError {
    pub(crate) fn new(name: &str, source: prometheus::Error) -> Self {
        Self { name: name.to_owned(), source }
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The wrapped registry, for crates that take a `prometheus::Registry` and do not depend on this one.
    pub fn as_prometheus(&self) -> &prometheus::Registry {
        &self.inner
    }

    /// A counter; `name` ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, RegisterMetricError> {
        self.register(name, IntCounter::new(name, help))
    }

    /// A counter with labels; label values must come from closed enums.
    pub fn counter_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, RegisterMetricError> {
        self.register(name, IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge of whole numbers.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, RegisterMetricError> {
        self.register(name, IntGauge::new(name, help))
    }

    /// A gauge of whole numbers with labels.
    pub fn gauge_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, RegisterMetricError> {
        self.register(name, IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A gauge of fractions (seconds, ratios).
    pub fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, RegisterMetricError> {
        self.register(name, Gauge::new(name, help))
    }

    /// A gauge of fractions with labels.
    pub fn float_gauge_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec, RegisterMetricError> {
        self.register(name, GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram over one of the sets in [`crate::buckets`].
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, RegisterMetricError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(name, Histogram::with_opts(options))
    }

    /// A histogram with labels over one of the sets in [`crate::buckets`].
    pub fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, RegisterMetricError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(name, HistogramVec::new(options, labels))
    }

    /// Everything in the Prometheus text format 0.0.4.
    ///
    /// A vector without children yields no family, so the output may be empty.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.inner.gather())
    }

    pub(crate) fn register<M: Collector + Clone + 'static>(
        &self,
        name: &str,
        metric: Result<M, prometheus::Error>,
    ) -> Result<M, RegisterMetricError> {
        let wrap = |source| RegisterMetricError::new(name, source);
        let metric = metric.map_err(wrap)?;
        self.inner.register(Box::new(metric.clone())).map_err(wrap)?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_registered_twice_is_an_error_that_names_it() {
        let registry = Registry::new();
        registry.counter("demo_total", "Demo.").unwrap();
        let error = registry.gauge("demo_total", "Demo.").unwrap_err();
        assert!(error.to_string().contains("demo_total"), "{error}");
    }

    #[test]
    fn a_bad_name_is_an_error_not_a_panic() {
        assert!(Registry::new().counter("bad name", "Demo.").is_err());
    }

    #[test]
    fn clones_share_their_metrics() {
        let registry = Registry::new();
        registry.clone().counter("demo_total", "Demo.").unwrap().inc();
        assert!(registry.encode().unwrap().contains("demo_total 1"));
    }
}
