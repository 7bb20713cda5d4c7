//! What the tail signs beside a receipt: the tokens that it chose from those rows, and a root over what it chose from.

use crate::cuts::Covered;
use crate::eip712::{self, Typed, Words};
use crate::open::SessionOpen;
use crate::receipt::{HopReceipt, ReceiptError};
use crate::{Address, Digest, ReceiptKey, RecoverableSignature};

/// Tokens chosen from the rows of one receipt. From the row at position `p` comes the token at `p + 1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SamplerReceipt {
    /// Position of the first token: with the seed it determines the noise of the first choice, and so on.
    pub seed_index: u32,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Root over the leaves of their [`Sample`](crate::sample::Sample)s.
    pub samples_root: Digest,
}

/// A sampler's receipt as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedSampler {
    /// The facts.
    pub sampler: SamplerReceipt,
    /// The tail's signature.
    pub signature: RecoverableSignature,
}

/// Rows of `rows` from which tokens are chosen: those of the last known token and of all chosen ones.
pub(crate) fn sampled_rows(open: &SessionOpen, rows: Covered) -> std::ops::Range<u32> {
    rows.start.max(open.known() - 1)..rows.end
}

impl SamplerReceipt {
    /// What is signed, beside the receipt with this digest.
    pub fn digest(&self, receipt: &Digest) -> Digest {
        eip712::digest(eip712::RECEIPTS, &Beside { sampler: self, receipt })
    }

    /// Signs as the tail.
    pub fn sign(self, receipt: &Digest, key: &ReceiptKey) -> SignedSampler {
        SignedSampler { signature: key.sign(&self.digest(receipt)), sampler: self }
    }
}

impl SignedSampler {
    pub(super) fn verify(
        &self,
        receipt: &HopReceipt,
        digest: &Digest,
        open: &SessionOpen,
        key: Address,
    ) -> Result<(), ReceiptError> {
        let hop = receipt.hop;
        if !self.signature.is_of(&self.sampler.digest(digest), key) {
            return Err(ReceiptError::NotByHop(hop));
        }
        let rows = sampled_rows(open, receipt.rows);
        let fits = hop == open.tail()
            && !rows.is_empty()
            && self.sampler.tokens.len() == rows.len()
            && self.sampler.seed_index == rows.start + 1;
        if fits { Ok(()) } else { Err(ReceiptError::Tokens(hop)) }
    }
}

struct Beside<'a> {
    sampler: &'a SamplerReceipt,
    receipt: &'a Digest,
}

impl Typed for Beside<'_> {
    const TYPE: &'static str =
        "SamplerReceipt(bytes32 receipt,uint32 seedIndex,uint32[] tokens,bytes32 samplesRoot)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.receipt.as_bytes());
        words.uint(self.sampler.seed_index);
        words.uints(self.sampler.tokens.iter().copied());
        words.bytes32(self.sampler.samples_root.as_bytes());
    }
}
