//! In-process swarms: real nodes with toy stages and a real router, over real QUIC on loopback.
//!
//! A toy layer adds a known function of everything it was fed, so a lost, doubled, reordered or crossed token, row or
//! layer changes the answer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "each test prints its seed and its figures")]

mod answers;
mod attest;
mod bad_input;
mod company;
mod failures;
mod garbage;
mod leaving;
mod parts;
mod pieces;
mod pipelining;
mod recovery;
mod reuse;
mod schedules;
mod serve;
mod serve_clients;
mod serve_crowd;
mod serve_heads;
mod serve_keys;
mod serve_keys_cli;
mod serve_keys_openai;
mod serve_lag;
mod serve_names;
mod serve_openai;
mod serve_openai_clients;
mod serve_schema;
mod serve_soak;
mod serve_tools;
mod serve_unicode;
mod serve_usage;
mod serve_webui;
mod standby;
mod swarm;
