//! A node as others see it: real QUIC on loopback, toy stages, no tensor library.

mod junk;
mod latency;
mod loss;
mod pipeline;
mod ports;
mod support;
