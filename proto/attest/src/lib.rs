//! Pure rules of attestation: what the hops of a pipeline sign about a session, and what anybody can check afterwards.
//!
//! No I/O, no async, no clock and no randomness: times, seeds and secrets are arguments.

pub mod audit;
pub mod bundle;
pub mod calibration;
pub mod check;
pub mod collector;
pub mod cuts;
pub mod delta;
pub mod digest;
pub mod eip712;
pub mod keys;
mod layout;
pub mod leaf;
pub mod open;
pub mod receipt;
pub mod recorder;
pub mod sample;
pub mod sprt;
pub mod tree;
pub mod verdict;

pub use digest::{Amount, Digest};
pub use keys::{Address, OperatorKey, ReceiptKey, RecoverableSignature, SignatureError};
pub use layout::LayoutError;
pub use leaf::{Leaf, LeafHasher};
