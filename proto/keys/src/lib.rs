//! Keys on disk: a node's or router's own, its operator's, and the one that signs its receipts, with the binding that
//! ties the three together.
//!
//! Owns files, their modes and what becomes of them when one is missing or has run out. What a binding says, and when it
//! holds, is `proto-attest`'s affair.

mod backup;
mod file;
mod ring;

pub use backup::{BackupError, back_up, restore};
pub use file::{KeyFileError, Secret, draw_key, key_in};
pub use ring::{KeyRing, KeyRingError, OPERATOR_KEY, RECEIPT_KEY, Request, bind, request, rotate};
