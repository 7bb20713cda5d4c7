//! Authenticated QUIC: the only crate that names quinn and rustls, and it keeps both to itself.
//!
//! An [`Endpoint`] is one UDP port with one identity. It dials ([`Endpoint::connect`], or [`Peers`] to share
//! connections) and accepts ([`Endpoint::accept`]); both give a [`Connection`] whose peer has proved its ed25519 key. On
//! a connection, [`FrameSender`] and [`FrameReceiver`] carry `proto`'s frames; [`blobs`] fetches by hash. All numbers
//! stand in [`Tuning`]. What frames mean, and whom to dial, is decided elsewhere.

mod acceptor;
mod admission;
pub mod blobs;
mod budget;
mod connection;
mod endpoint;
mod error;
mod identity;
mod metrics;
mod peers;
mod socket;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod tuning;
mod verifier;

pub use connection::{Connection, Stats};
pub use endpoint::{Endpoint, EndpointConfig, Target};
pub use error::{Closed, ConnectError, RecvError, RequestError, SendError};
pub use metrics::{Direction, TransportMetrics};
pub use peers::Peers;
pub use proto::handshake::ConnectionClass;
pub use socket::BindError;
pub use stream::{FrameReceiver, FrameSender, RawFrame, StreamPriority};
pub use tuning::{ClassTuning, Congestion, Tuning};
