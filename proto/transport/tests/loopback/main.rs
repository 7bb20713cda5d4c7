//! The transport over real QUIC on loopback. One binary, so that quinn is linked once.

mod identity;
mod support;
