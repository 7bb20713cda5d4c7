//! What an auditor asks a node to open: anybody can compute it again from the seed and the node's signed root.

use crate::audit::{AuditRate, AuditSeed, EpochBatch, SeedCommit};
use crate::eip712::{self, Typed, Words};
use crate::layout::{LayoutError, Reader, Writer};
use crate::verdict::Outcome;
use crate::{Address, Digest, ReceiptKey, RecoverableSignature, SignatureError};

/// Asks for the rows behind the receipts of a batch that the seed chooses, and behind all receipts that they follow: a
/// span is recomputed from its session's first row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditChallenge {
    /// Who asks.
    pub auditor: Address,
    /// Digest of the batch.
    pub batch: Digest,
    /// The seed, revealed.
    pub seed: AuditSeed,
    /// How many are chosen.
    pub rate: AuditRate,
    /// Until when the node must open them, seconds since the Unix epoch.
    pub deadline_unix_s: u64,
}

/// A challenge as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedChallenge {
    /// The facts.
    pub challenge: AuditChallenge,
    /// The auditor's signature.
    pub signature: RecoverableSignature,
}

/// Why a challenge is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// The bytes are not a challenge.
    #[error("challenge does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The signature has not the right form.
    #[error("signature of the challenge: {0}")]
    Form(#[from] SignatureError),
    /// Not signed by its auditor.
    #[error("the challenge is not signed by its auditor")]
    NotByAuditor,
    /// Of another batch than the node's.
    #[error("challenge of another batch")]
    OtherBatch,
    /// The seed is not the one that was committed to before the batch was signed: it may have been chosen.
    #[error("the seed is not the one committed to")]
    Seed,
    /// Less time than [`AuditChallenge::LEAST_S`].
    #[error("{0} s to open are too few")]
    TooSoon(u64),
}

impl AuditChallenge {
    /// The least time to open: some hundred MiB of rows at a home line's pace, and a clock that is off by a minute.
    pub const LEAST_S: u64 = 120;

    /// The receipts of the batch to open, by number.
    pub fn indexes(&self, batch: &EpochBatch) -> Vec<u32> {
        self.seed.selected(&batch.receipts_root, batch.count, self.rate)
    }

    /// What is signed, and what verdicts name.
    pub fn digest(&self) -> Digest {
        eip712::digest(eip712::RECEIPTS, self)
    }

    /// Signs as the auditor.
    pub fn sign(self, key: &ReceiptKey) -> Result<SignedChallenge, ChallengeError> {
        if key.address() != self.auditor {
            return Err(ChallengeError::NotByAuditor);
        }
        Ok(SignedChallenge { challenge: self, signature: key.sign(&self.digest()) })
    }

    /// What silence means at `now_unix_s`: nothing before the deadline, a refusal after it. `grace_s` is for clocks and
    /// transport.
    pub fn silence(&self, now_unix_s: u64, grace_s: u64) -> Option<Outcome> {
        (now_unix_s > self.deadline_unix_s.saturating_add(grace_s)).then_some(Outcome::RefusedToOpen)
    }
}

impl Typed for AuditChallenge {
    const TYPE: &'static str =
        "AuditChallenge(address auditor,bytes32 batch,bytes32 seed,uint32 rate,uint64 deadline)";

    fn write(&self, words: &mut Words) {
        words.address(self.auditor);
        words.bytes32(self.batch.as_bytes());
        words.bytes32(self.seed.as_bytes());
        words.uint(self.rate.get());
        words.uint(self.deadline_unix_s);
    }
}

impl SignedChallenge {
    /// Bytes of an encoded challenge.
    pub const BYTES: usize = 20 + 32 + 32 + 4 + 8 + 65;

    /// Checks it as the node that is asked, at `now_unix_s`: against its own batch and the auditor's commitment.
    pub fn verify(
        &self,
        batch: &EpochBatch,
        commit: SeedCommit,
        now_unix_s: u64,
    ) -> Result<(), ChallengeError> {
        let AuditChallenge { auditor, batch: named, seed, deadline_unix_s, .. } = &self.challenge;
        if !self.signature.is_of(&self.challenge.digest(), *auditor) {
            return Err(ChallengeError::NotByAuditor);
        }
        if *named != batch.digest() {
            return Err(ChallengeError::OtherBatch);
        }
        if !commit.is_of(seed) {
            return Err(ChallengeError::Seed);
        }
        let left = deadline_unix_s.saturating_sub(now_unix_s);
        if left < AuditChallenge::LEAST_S { Err(ChallengeError::TooSoon(left)) } else { Ok(()) }
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let (challenge, mut writer) = (&self.challenge, Writer::new());
        writer.bytes(challenge.auditor.as_bytes());
        writer.digest(&challenge.batch);
        writer.bytes(challenge.seed.as_bytes());
        writer.u32(challenge.rate.get());
        writer.u64(challenge.deadline_unix_s);
        writer.bytes(self.signature.as_bytes());
        writer.finish()
    }

    /// Reads the bytes; checks their form only.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChallengeError> {
        let mut reader = Reader::new(bytes);
        let challenge = AuditChallenge {
            auditor: Address::from_bytes(reader.array("auditor")?),
            batch: reader.digest("batch")?,
            seed: AuditSeed::from_bytes(reader.array("seed")?),
            rate: AuditRate::new(reader.u32("rate")?),
            deadline_unix_s: reader.u64("deadline")?,
        };
        let signature = RecoverableSignature::from_bytes(&reader.array("signature")?)?;
        reader.finish()?;
        Ok(Self { challenge, signature })
    }
}

#[cfg(test)]
mod tests {
    use proto::NodeId;

    use super::*;
    use crate::Amount;

    #[test]
    fn a_challenge_binds_seed_batch_and_deadline() {
        let key = ReceiptKey::from_bytes(&[2; 32]).unwrap();
        let receipts: Vec<Digest> = (0..200).map(|number| Digest::from_bytes([number; 32])).collect();
        let batch = EpochBatch {
            node: NodeId::from_bytes([1; 32]),
            epoch: 7,
            receipts_root: EpochBatch::root(&receipts),
            count: 200,
            earned: Amount::ZERO,
        };
        let seed = AuditSeed::from_bytes([5; 32]);
        let challenge = AuditChallenge {
            auditor: key.address(),
            batch: batch.digest(),
            seed,
            rate: AuditRate::of_share(0.1),
            deadline_unix_s: 1_300,
        };
        let signed = challenge.sign(&key).unwrap();
        assert_eq!(signed.verify(&batch, seed.commit(), 1_000), Ok(()));
        assert!((5..40).contains(&challenge.indexes(&batch).len()));
        assert_eq!(
            signed.verify(&batch, AuditSeed::from_bytes([6; 32]).commit(), 1_000),
            Err(ChallengeError::Seed)
        );
        let other = EpochBatch { epoch: 8, ..batch };
        assert_eq!(signed.verify(&other, seed.commit(), 1_000), Err(ChallengeError::OtherBatch));
        assert_eq!(signed.verify(&batch, seed.commit(), 1_200), Err(ChallengeError::TooSoon(100)));
        assert_eq!(challenge.silence(1_330, 30), None);
        assert_eq!(challenge.silence(1_331, 30), Some(Outcome::RefusedToOpen));
        let bytes = signed.encode();
        assert_eq!(bytes.len(), SignedChallenge::BYTES);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = SignedChallenge::decode(&changed)
                .and_then(|challenge| challenge.verify(&batch, seed.commit(), 1_000));
            assert!(read.is_err(), "{at}");
        }
    }
}
