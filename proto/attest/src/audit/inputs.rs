//! Which receipts hold the rows that a span must be recomputed from: all that its node had in its KV at that row.
//!
//! In each generation a node keeps the rows before the one where it goes on, and computes those from there. So the rows
//! `[0, goes_on)` of a generation are those that it had at the end of the one before in which it took part.

use std::ops::Range;

use crate::Digest;
use crate::open::SessionOpen;
use crate::receipt::VerifiedReceipt;

/// What one node did in one generation.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The open.
    pub open: &'a SessionOpen,
    /// As which hop.
    pub hop: u16,
    /// Its receipts that hold, in any order.
    pub receipts: &'a [VerifiedReceipt],
}

/// Rows to open on the received side of one receipt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputRows {
    /// Number of the part.
    pub part: usize,
    /// The receipt.
    pub receipt: Digest,
    /// Which of its rows: a beginning may belong to a later generation.
    pub rows: Range<u32>,
}

/// Rows that no receipt shown covers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no receipt covers the input rows {}..{}", .0.start, .0.end)]
pub struct MissingInput(pub Range<u32>);

/// The receipts whose received rows make up `[from, end)` as the node had them in the last of `parts`, in order of rows.
/// `parts` are the generations in which it took part, oldest first; `from` is 0, or the end of a reused prefix.
pub fn input_rows(parts: &[Part<'_>], from: u32, end: u32) -> Result<Vec<InputRows>, MissingInput> {
    let mut found = Vec::new();
    let mut end = end;
    for (part, Part { open, hop, receipts }) in parts.iter().enumerate().rev() {
        let goes_on = open.hop(*hop).map_or(end, |hop| hop.goes_on).max(from);
        // From the last row down: each receipt ends where the one after it begins.
        while end > goes_on {
            let covering = receipts.iter().find(|receipt| {
                let rows = receipt.receipt().rows;
                receipt.receipt().hop == *hop && rows.start < end && end <= rows.end
            });
            let Some(receipt) = covering else { return Err(MissingInput(goes_on..end)) };
            let start = receipt.receipt().rows.start.max(goes_on);
            found.push(InputRows { part, receipt: receipt.digest(), rows: start..end });
            end = start;
        }
        end = end.min(goes_on);
    }
    if end > from {
        return Err(MissingInput(from..end));
    }
    found.reverse();
    Ok(found)
}
