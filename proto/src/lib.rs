//! What two processes of a swarm must agree on: ids, spans, frames, session messages, records, manifests.
//!
//! No I/O, no async, no clock and no randomness. `codec` is the only module that names bincode; bytes from
//! the network go through [`frame::FrameHeader::parse`] and [`message::Message::decode`], both of which check every
//! length before they allocate. `docs/PROTOCOL.md` is the prose of this crate.

pub mod activation;
mod added;
pub mod answer;
pub mod attest;
pub mod audit;
mod codec;
pub mod discovery;
pub mod frame;
pub mod handshake;
pub mod id;
pub mod key;
pub mod manifest;
pub mod message;
pub mod prefix;
pub mod record;
pub mod session;
pub mod span;
pub mod status;
pub mod tensor;

pub use added::Added;
pub use frame::{FrameHeader, FrameKind};
pub use id::{BlockHash, ContentHash, Generation, LayerIndex, ModelId, NodeId, Position, SessionId};
pub use key::NodeKey;
pub use message::{DecodeError, Message};
pub use span::LayerSpan;
