//! Load, latency and throughput measurements; see docs/BENCHMARKS.md.
