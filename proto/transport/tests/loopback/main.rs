//! The transport over real QUIC on loopback. One binary, so that quinn is linked once.

mod faulty;
mod frames;
mod hostile;
mod identity;
mod peers;
mod silence;
mod support;
