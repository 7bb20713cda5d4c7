//! Pure rules of a router's transparency log: what is logged, how anybody checks it, and how a fork is proven.
//!
//! Tiles, checkpoints and cosignatures are those of C2SP (`tlog-tiles`, `tlog-checkpoint`, `tlog-cosignature`,
//! `tlog-witness`, `signed-note`), trees those of RFC 6962, so that tools made for other logs read these too. What an
//! entry holds is ours ([`entry`]). No I/O, no async, no clock and no randomness: tiles are read through
//! [`TileSource`], writes are returned, times are arguments.

pub mod audit;
mod bundle;
pub mod checkpoint;
mod edge;
pub mod entry;
pub mod evidence;
pub mod hash;
mod key;
mod log;
mod note;
pub mod proof;
mod source;
mod tile;
pub mod witness;

pub use bundle::{BundleError, read_bundle};
pub use checkpoint::{Checkpoint, SignedCheckpoint, VerifiedCheckpoint};
pub use entry::Entry;
pub use evidence::{Fault, ForkEvidence};
pub use key::{KeyError, KeyName, SignatureKind, VerifierKey};
pub use log::{AppendError, Appended, Log, MAX_BATCH, ResumeError, Write};
pub use note::{MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError, SignatureLine};
pub use source::{TileError, TileSource, Tiles};
pub use tile::{ParseTilePathError, TileKind, TilePath};

/// Largest tree: 2^63 - 1 entries, as the Go implementation has it. A checkpoint that claims more is refused, so that
/// no arithmetic here can overflow.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Hashes in a full tile, entries in a full bundle: tiles are of height 8.
pub const TILE_WIDTH: usize = 256;

#[cfg(test)]
mod tests;
