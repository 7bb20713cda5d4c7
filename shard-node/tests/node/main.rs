//! A node as others see it: real QUIC on loopback, toy stages, no tensor library.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod junk;
mod latency;
mod loss;
mod pipeline;
mod ports;
mod support;
