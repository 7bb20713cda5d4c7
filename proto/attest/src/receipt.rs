//! What a hop signs of its work: roots over the rows that it received and sent in one window, linked to what it signed
//! before, and what it has earned by then.
//!
//! The signature is over all facts (EIP-712). What travels leaves out what the open says: session, generation, span.
//! A receipt of 32 decode rows is 232 bytes, the tail's with its tokens 462.
//!
//! **The last receipt of a generation is ragged**: it ends where the hop was when a loss or a close reached it, which is
//! not where its neighbour was. So it carries its leaves, and each hop the leaves of what it had sent shortly before;
//! the two ends are then compared row by row. Leaves need no signature: they hash to signed roots.

mod encoding;
mod sampler;

pub use sampler::{SamplerReceipt, SignedSampler};

pub(crate) use sampler::sampled_rows;

use crate::cuts::{Covered, Phase};
use crate::eip712::{self, Typed, Words};
use crate::open::{SessionOpen, VerifiedOpen};
use crate::{
    Address, Amount, Digest, LayoutError, Leaf, ReceiptKey, RecoverableSignature, SignatureError, tree,
};

/// A hop's statement about one window of one generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopReceipt {
    /// The open that it works under; names session and generation.
    pub open: Digest,
    /// As which hop.
    pub hop: u16,
    /// What the rows are.
    pub phase: Phase,
    /// Which rows.
    pub rows: Covered,
    /// Root over the rows `[start, end)` received.
    pub in_root: Digest,
    /// Root over the rows `[sent_start, end)` sent.
    pub out_root: Digest,
    /// What computed: a hash of the program and of what it links.
    pub exec_build: Digest,
    /// The hop's receipt before this one. For the first one in a generation: the open if it computes from row 0, else
    /// its newest receipt of the session that it has kept rows of.
    pub prev: Digest,
    /// What it has earned in this generation, these rows included.
    pub price_due: Amount,
    /// The node's epoch, by which it posts roots of its receipts.
    pub epoch: u64,
}

/// Leaves behind a receipt's roots: all of a side, or none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaves {
    /// Of the rows received.
    pub received: Vec<Leaf>,
    /// Of the rows sent.
    pub sent: Vec<Leaf>,
}

/// A receipt as it travels, with what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedReceipt {
    /// The facts.
    pub receipt: HopReceipt,
    /// The receipt key's signature.
    pub signature: RecoverableSignature,
    /// The tail's, about the tokens that it chose from these rows.
    pub sampler: Option<SignedSampler>,
    /// Where the receipt is ragged, or shortly before such an end.
    pub leaves: Leaves,
}

/// A receipt before it is signed: recorders make them in order, keys sign them elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// The facts.
    pub receipt: HopReceipt,
    /// What names the receipt, and what is signed.
    pub digest: Digest,
    /// The tail's tokens.
    pub sampler: Option<SamplerReceipt>,
    /// Leaves to send along.
    pub leaves: Leaves,
}

/// A receipt whose signatures and contents were checked against its open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedReceipt {
    signed: SignedReceipt,
    digest: Digest,
}

/// Why a receipt is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The bytes are not a receipt.
    #[error("receipt does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// A signature has not the right form.
    #[error("signature of the receipt: {0}")]
    Form(#[from] SignatureError),
    /// Of another open: of another session or generation.
    #[error("receipt under another open")]
    OtherOpen,
    /// The route has no such hop.
    #[error("receipt of hop {0}, which the route has not")]
    UnknownHop(u16),
    /// Signed by somebody else, or changed since.
    #[error("receipt of hop {0} is not signed by its key")]
    NotByHop(u16),
    /// Its leaves do not hash to its roots.
    #[error("leaves of hop {0} are not those of its receipt")]
    Leaves(u16),
    /// Its rows are not what the hop covers of a window, or nobody asked for them.
    #[error("hop {0} signed for rows that are none of its cuts")]
    Rows(u16),
    /// A root of no rows that is not the root of nothing.
    #[error("hop {0} signed a root of no rows")]
    EmptyRoot(u16),
    /// It asks for another price than the open gives.
    #[error("hop {hop} signed for a price of {signed} where {due} is due")]
    Price {
        /// Whose.
        hop: u16,
        /// By the open.
        due: Amount,
        /// By the receipt.
        signed: Amount,
    },
    /// Tokens where none were chosen, too few, or at other positions.
    #[error("hop {0} signed for tokens that do not fit its rows")]
    Tokens(u16),
}

impl ReceiptError {
    /// Whether the hop's own signature stands under what is wrong. Otherwise whoever shows the receipt answers for it.
    pub const fn is_signed(&self) -> bool {
        match self {
            Self::Rows(_) | Self::EmptyRoot(_) | Self::Price { .. } | Self::Tokens(_) => true,
            Self::Layout(_)
            | Self::Form(_)
            | Self::OtherOpen
            | Self::UnknownHop(_)
            | Self::NotByHop(_)
            | Self::Leaves(_) => false,
        }
    }
}

impl HopReceipt {
    /// What is signed, and what names the receipt.
    pub fn digest(&self, open: &SessionOpen) -> Digest {
        eip712::digest(eip712::RECEIPTS, &Full { receipt: self, open })
    }

    /// Whether it ends before its window does: the last one of a generation may.
    pub fn is_ragged(&self, open: &SessionOpen) -> bool {
        open.cuts().window(self.rows.end.saturating_sub(1)).end != self.rows.end
    }

    fn check(&self, open: &SessionOpen) -> Result<(), ReceiptError> {
        let hop = self.hop;
        let rows = open.rows_of(hop).ok_or(ReceiptError::UnknownHop(hop))?;
        let end = self.rows.end;
        let window = open.cuts().window(end.checked_sub(1).ok_or(ReceiptError::Rows(hop))?);
        let asked_for = end <= open.rows_end();
        if !asked_for || rows.covered(window, end) != Some(self.rows) || self.phase != window.phase {
            return Err(ReceiptError::Rows(hop));
        }
        let empty = tree::empty_root();
        let sides = [(self.rows.computed(), self.in_root), (self.rows.sent(), self.out_root)];
        if sides.iter().any(|&(count, root)| (count == 0) != (root == empty)) {
            return Err(ReceiptError::EmptyRoot(hop));
        }
        let due = open.price_due(hop, end).ok_or(ReceiptError::UnknownHop(hop))?;
        if self.price_due != due {
            return Err(ReceiptError::Price { hop, due, signed: self.price_due });
        }
        Ok(())
    }
}

impl Leaves {
    fn check(&self, receipt: &HopReceipt) -> Result<(), ReceiptError> {
        let sides = [
            (&self.received, receipt.rows.computed(), receipt.in_root),
            (&self.sent, receipt.rows.sent(), receipt.out_root),
        ];
        let fits = |leaves: &Vec<Leaf>, count: u32, root: Digest| {
            leaves.is_empty() || (leaves.len() == count as usize && tree::root(leaves) == root)
        };
        if sides.iter().all(|&(leaves, count, root)| fits(leaves, count, root)) {
            Ok(())
        } else {
            Err(ReceiptError::Leaves(receipt.hop))
        }
    }
}

impl Draft {
    /// Signs with the hop's receipt key.
    pub fn sign(self, key: &ReceiptKey) -> SignedReceipt {
        let sampler = self.sampler.map(|sampler| sampler.sign(&self.digest, key));
        SignedReceipt {
            signature: key.sign(&self.digest),
            receipt: self.receipt,
            sampler,
            leaves: self.leaves,
        }
    }
}

impl SignedReceipt {
    /// Checks signatures, rows, price, tokens and leaves against the open.
    pub fn verify(self, open: &VerifiedOpen) -> Result<VerifiedReceipt, ReceiptError> {
        let hop = self.receipt.hop;
        if self.receipt.open != open.digest() {
            return Err(ReceiptError::OtherOpen);
        }
        let key = open.open().hop(hop).ok_or(ReceiptError::UnknownHop(hop))?.receipt_key;
        let digest = self.receipt.digest(open.open());
        if !self.signature.is_of(&digest, key) {
            return Err(ReceiptError::NotByHop(hop));
        }
        self.receipt.check(open.open())?;
        if let Some(sampler) = &self.sampler {
            sampler.verify(&self.receipt, &digest, open.open(), key)?;
        }
        self.leaves.check(&self.receipt)?;
        Ok(VerifiedReceipt { signed: self, digest })
    }
}

impl VerifiedReceipt {
    /// The facts.
    pub const fn receipt(&self) -> &HopReceipt {
        &self.signed.receipt
    }

    /// The tail's tokens.
    pub fn sampler(&self) -> Option<&SamplerReceipt> {
        self.signed.sampler.as_ref().map(|signed| &signed.sampler)
    }

    /// Leaves that came along.
    pub const fn leaves(&self) -> &Leaves {
        &self.signed.leaves
    }

    /// What to pass on.
    pub const fn signed(&self) -> &SignedReceipt {
        &self.signed
    }

    /// What to pass on, without a copy.
    pub fn into_signed(self) -> SignedReceipt {
        self.signed
    }

    /// Adds leaves that were checked against the root.
    pub(crate) fn attach(&mut self, sent: Vec<Leaf>) {
        self.signed.leaves.sent = sent;
    }

    /// What names it.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed it, under this open.
    pub fn signer(&self, open: &SessionOpen) -> Option<Address> {
        open.hop(self.receipt().hop).map(|hop| hop.receipt_key)
    }
}

/// A receipt with what its open adds.
struct Full<'a> {
    receipt: &'a HopReceipt,
    open: &'a SessionOpen,
}

impl Typed for Full<'_> {
    const TYPE: &'static str = "HopReceipt(bytes32 open,bytes32 router,uint64 session,uint32 generation,uint16 hop,\
                                uint32 spanStart,uint32 spanEnd,uint8 phase,uint32 start,uint32 end,\
                                uint32 sentStart,bytes32 inRoot,bytes32 outRoot,bytes32 execBuild,bytes32 prev,\
                                uint128 priceDue,uint64 epoch)";

    fn write(&self, words: &mut Words) {
        let Self { receipt, open } = self;
        let span = open.hop(receipt.hop).map_or((0, 0), |hop| (hop.span.start(), hop.span.end()));
        words.bytes32(receipt.open.as_bytes());
        words.bytes32(open.router.as_bytes());
        words.uint(open.session.get());
        words.uint(open.generation.get());
        words.uint(receipt.hop);
        words.uint(span.0);
        words.uint(span.1);
        words.uint(receipt.phase as u8);
        words.uint(receipt.rows.start);
        words.uint(receipt.rows.end);
        words.uint(receipt.rows.sent_start);
        words.bytes32(receipt.in_root.as_bytes());
        words.bytes32(receipt.out_root.as_bytes());
        words.bytes32(receipt.exec_build.as_bytes());
        words.bytes32(receipt.prev.as_bytes());
        words.uint(receipt.price_due.get());
        words.uint(receipt.epoch);
    }
}

#[cfg(test)]
mod tests;
