//! Audits: which receipts are opened, and whether what is opened is what was signed.
//!
//! ```text
//! auditor: commitment to a seed --> node: root of an epoch's receipts, signed --> auditor: seed, and what follows from it
//! node: rows of the chosen receipts and of all before them, until the deadline
//! auditor: hashes, chain, coverage, price; the span recomputed from the rows received; a verdict
//! ```
//! Neither side chooses: the node has signed its root before it knows the seed, the auditor its seed before it knows the
//! root. Who does not open what it signed is at fault, as is who opens something else.

mod challenge;
mod epoch;
mod inputs;
mod opening;
mod selection;

pub use challenge::{AuditChallenge, ChallengeError, SignedChallenge};
pub use epoch::{BatchError, EpochBatch, SignedBatch};
pub use inputs::{InputRows, MissingInput, Part, input_rows};
pub use opening::{MAX_ROW_BYTES, OpeningError, RowOpening, Side, check_side, settle};
pub use selection::{AuditRate, AuditSeed, SeedCommit};
