//! The root that a node signs over all receipts of an epoch.

use proto::NodeId;

use crate::eip712::{self, Typed, Words};
use crate::layout::{LayoutError, Reader, Writer};
use crate::{Address, Amount, Digest, Leaf, ReceiptKey, RecoverableSignature, SignatureError, tree};

/// All that a node signed for in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochBatch {
    /// Whose.
    pub node: NodeId,
    /// Which epoch.
    pub epoch: u64,
    /// Root over the digests of its receipts, in the order in which it signed them.
    pub receipts_root: Digest,
    /// How many.
    pub count: u32,
    /// What it earned by them.
    pub earned: Amount,
}

/// A batch as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedBatch {
    /// The facts.
    pub batch: EpochBatch,
    /// The receipt key's signature.
    pub signature: RecoverableSignature,
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes are not a batch.
    #[error("batch does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The signature has not the right form.
    #[error("signature of the batch: {0}")]
    Form(#[from] SignatureError),
    /// Not signed by the node's receipt key.
    #[error("the batch is not signed by its node's key")]
    NotByNode,
    /// Two different batches of one node for one epoch.
    #[error("two batches of epoch {0}")]
    Equivocation(u64),
}

impl Typed for EpochBatch {
    const TYPE: &'static str =
        "EpochBatch(bytes32 node,uint64 epoch,bytes32 receiptsRoot,uint32 count,uint128 earned)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.node.as_bytes());
        words.uint(self.epoch);
        words.bytes32(self.receipts_root.as_bytes());
        words.uint(self.count);
        words.uint(self.earned.get());
    }
}

impl EpochBatch {
    /// Root over receipts by their digests.
    pub fn root(receipts: &[Digest]) -> Digest {
        tree::root(&leaves(receipts))
    }

    /// That receipt number `index` is among them.
    pub fn prove(receipts: &[Digest], index: usize) -> Option<Vec<Digest>> {
        tree::prove(&leaves(receipts), index)
    }

    /// Whether receipt number `index` is this one.
    pub fn holds(&self, index: u32, receipt: &Digest, path: &[Digest]) -> bool {
        let leaf = Leaf::from_bytes(*receipt.as_bytes());
        tree::verify(&self.receipts_root, self.count, index, leaf, path)
    }

    /// What is signed.
    pub fn digest(&self) -> Digest {
        eip712::digest(eip712::RECEIPTS, self)
    }

    /// Signs with the node's receipt key.
    pub fn sign(self, key: &ReceiptKey) -> SignedBatch {
        SignedBatch { batch: self, signature: key.sign(&self.digest()) }
    }
}

impl SignedBatch {
    /// Bytes of an encoded batch.
    pub const BYTES: usize = 32 + 8 + 32 + 4 + 16 + 65;

    /// Checks that the node's receipt key signed it.
    pub fn verify(&self, receipt_key: Address) -> Result<(), BatchError> {
        if self.signature.is_of(&self.batch.digest(), receipt_key) {
            Ok(())
        } else {
            Err(BatchError::NotByNode)
        }
    }

    /// Whether two batches that verify under one key contradict each other.
    pub fn contradicts(&self, other: &Self) -> Result<(), BatchError> {
        let (a, b) = (&self.batch, &other.batch);
        if (a.node, a.epoch) == (b.node, b.epoch) && a != b {
            return Err(BatchError::Equivocation(a.epoch));
        }
        Ok(())
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let (batch, mut writer) = (&self.batch, Writer::new());
        writer.bytes(batch.node.as_bytes());
        writer.u64(batch.epoch);
        writer.digest(&batch.receipts_root);
        writer.u32(batch.count);
        writer.u128(batch.earned.get());
        writer.bytes(self.signature.as_bytes());
        writer.finish()
    }

    /// Reads the bytes; checks their form only.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut reader = Reader::new(bytes);
        let batch = EpochBatch {
            node: NodeId::from_bytes(reader.array("node")?),
            epoch: reader.u64("epoch")?,
            receipts_root: reader.digest("root")?,
            count: reader.u32("count")?,
            earned: Amount::new(reader.u128("earned")?),
        };
        let signature = RecoverableSignature::from_bytes(&reader.array("signature")?)?;
        reader.finish()?;
        Ok(Self { batch, signature })
    }
}

fn leaves(receipts: &[Digest]) -> Vec<Leaf> {
    receipts.iter().map(|digest| Leaf::from_bytes(*digest.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts() -> Vec<Digest> {
        (0..9).map(|number| Digest::from_bytes([number; 32])).collect()
    }

    fn batch() -> EpochBatch {
        EpochBatch {
            node: NodeId::from_bytes([1; 32]),
            epoch: 7,
            receipts_root: EpochBatch::root(&receipts()),
            count: 9,
            earned: Amount::new(100),
        }
    }

    #[test]
    fn a_receipt_is_proven_at_its_number_only() {
        for (index, receipt) in receipts().iter().enumerate() {
            let path = EpochBatch::prove(&receipts(), index).unwrap();
            assert!(batch().holds(index as u32, receipt, &path));
            assert!(!batch().holds(index as u32 ^ 1, receipt, &path));
        }
    }

    #[test]
    fn a_batch_is_signed_and_said_once() {
        let key = ReceiptKey::from_bytes(&[2; 32]).unwrap();
        let signed = batch().sign(&key);
        assert_eq!(signed.verify(key.address()), Ok(()));
        assert_eq!(signed.verify(Address::ZERO), Err(BatchError::NotByNode));
        assert_eq!(SignedBatch::decode(&signed.encode()), Ok(signed));
        assert_eq!(signed.encode().len(), SignedBatch::BYTES);
        let bytes = signed.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = SignedBatch::decode(&changed).and_then(|batch| batch.verify(key.address()));
            assert!(read.is_err(), "{at}");
        }
        let twin = EpochBatch { count: 8, ..batch() }.sign(&key);
        assert_eq!(signed.contradicts(&twin), Err(BatchError::Equivocation(7)));
        assert_eq!(signed.contradicts(&EpochBatch { epoch: 8, ..batch() }.sign(&key)), Ok(()));
    }
}
