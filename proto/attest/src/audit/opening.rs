//! Rows behind receipts: whether what a node opens is what it signed for.
//!
//! A whole side of a receipt is opened by its rows alone, which hash to its root; one row of it with a path. Two
//! neighbours whose receipts contradict each other are settled by what they can open.

use proto::Position;

use crate::check::Blame;
use crate::layout::{LayoutError, Reader, Writer};
use crate::open::SessionOpen;
use crate::receipt::{HopReceipt, VerifiedReceipt};
use crate::{Address, Digest, Leaf, LeafHasher, tree};

/// Bytes of the longest row: 65,536 values of f32, four times the largest published model's.
pub const MAX_ROW_BYTES: usize = 256 << 10;

/// Which rows of a receipt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Side {
    /// Those that the hop received.
    Received = 1,
    /// Those that it sent.
    Sent = 2,
}

/// One row with the proof that its hop signed for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowOpening {
    /// The receipt.
    pub receipt: Digest,
    /// Which rows of it.
    pub side: Side,
    /// The row's position.
    pub position: u32,
    /// Its bytes as they were on the wire; for rows that stage 0 received, the token.
    pub row: Vec<u8>,
    /// From its leaf to the root.
    pub path: Vec<Digest>,
}

/// Why rows are not what was signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The bytes are not an opening.
    #[error("opening does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// Of another receipt than asked for.
    #[error("opening of another receipt")]
    OtherReceipt,
    /// A row that the receipt does not cover, or another number of rows than it covers.
    #[error("the receipt does not cover these rows")]
    NotCovered,
    /// Over [`MAX_ROW_BYTES`].
    #[error("row of {0} bytes is over {MAX_ROW_BYTES}")]
    TooLong(usize),
    /// They do not hash to the root.
    #[error("the rows are not those that were signed for")]
    Root,
}

impl RowOpening {
    /// Checks it against the receipt that it names.
    pub fn verify(&self, receipt: &VerifiedReceipt, open: &SessionOpen) -> Result<(), OpeningError> {
        if self.receipt != receipt.digest() {
            return Err(OpeningError::OtherReceipt);
        }
        if self.row.len() > MAX_ROW_BYTES {
            return Err(OpeningError::TooLong(self.row.len()));
        }
        let (start, count, root) = side_of(receipt.receipt(), self.side);
        let index = self.position.checked_sub(start).filter(|&index| index < count);
        let index = index.ok_or(OpeningError::NotCovered)?;
        let leaf = hasher(open).leaf(Position::new(self.position), &self.row);
        if tree::verify(&root, count, index, leaf, &self.path) { Ok(()) } else { Err(OpeningError::Root) }
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.digest(&self.receipt);
        writer.u8(self.side as u8);
        writer.u32(self.position);
        writer.u32(self.row.len() as u32);
        writer.bytes(&self.row);
        writer.u8(self.path.len() as u8);
        self.path.iter().for_each(|hash| writer.digest(hash));
        writer.finish()
    }

    /// Reads the bytes; checks their form only.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpeningError> {
        let mut reader = Reader::new(bytes);
        let receipt = reader.digest("receipt")?;
        let side = match reader.u8("side")? {
            1 => Side::Received,
            2 => Side::Sent,
            _ => return Err(LayoutError::Field("side").into()),
        };
        let position = reader.u32("position")?;
        let row =
            reader.list::<_, LayoutError>(MAX_ROW_BYTES, 1, "bytes of a row", |reader| reader.u8("row"))?;
        let count = usize::from(reader.u8("path")?);
        let count = reader.count(count, tree::MAX_PATH, 32, "hashes of a path")?;
        let path = (0..count).map(|_| reader.digest("path")).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { receipt, side, position, row, path })
    }
}

/// Checks all rows of one side, in order.
pub fn check_side<'a>(
    receipt: &VerifiedReceipt,
    open: &SessionOpen,
    side: Side,
    rows: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<(), OpeningError> {
    let (start, count, root) = side_of(receipt.receipt(), side);
    if rows.len() != count as usize {
        return Err(OpeningError::NotCovered);
    }
    let hasher = hasher(open);
    let leaves: Vec<Leaf> =
        (start..).zip(rows).map(|(position, row)| hasher.leaf(Position::new(position), row)).collect();
    if tree::root(&leaves) == root { Ok(()) } else { Err(OpeningError::Root) }
}

/// Who answers for a contradiction at a boundary, by what each side opened until the deadline: who could not open its
/// root, else still one of the two, and an audit of the upper one's delta decides.
pub fn settle(
    (upper, upper_opened): (Address, Result<(), OpeningError>),
    (lower, lower_opened): (Address, Result<(), OpeningError>),
) -> Vec<Blame> {
    match (upper_opened, lower_opened) {
        (Ok(()), Ok(())) => vec![Blame::OneOf(upper, lower)],
        (Err(_), Ok(())) => vec![Blame::Key(upper)],
        (Ok(()), Err(_)) => vec![Blame::Key(lower)],
        (Err(_), Err(_)) => vec![Blame::Key(upper), Blame::Key(lower)],
    }
}

/// First row, count and root of a side.
fn side_of(receipt: &HopReceipt, side: Side) -> (u32, u32, Digest) {
    let rows = receipt.rows;
    match side {
        Side::Received => (rows.start, rows.computed(), receipt.in_root),
        Side::Sent => (rows.sent_start, rows.sent(), receipt.out_root),
    }
}

fn hasher(open: &SessionOpen) -> LeafHasher {
    LeafHasher::of_rows(open.router, open.session, open.generation)
}
