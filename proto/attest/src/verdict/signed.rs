//! A verdict as it is signed, committed to and shown.

use proto::{ContentHash, NodeId};

use crate::eip712::{self, Typed, Words};
use crate::layout::{LayoutError, Reader, Writer};
use crate::verdict::{Judgement, Method, Outcome};
use crate::{Address, Digest, ReceiptKey, RecoverableSignature, SignatureError};

/// Longest name of a device.
pub const MAX_DEVICE_BYTES: usize = 64;

/// What an auditor found.
#[derive(Clone, PartialEq, Debug)]
pub struct AuditVerdict {
    /// Digest of the challenge that it answers.
    pub challenge: Digest,
    /// The receipt that was judged.
    pub receipt: Digest,
    /// Whose.
    pub node: NodeId,
    /// What signed it.
    pub receipt_key: Address,
    /// Method, outcome and numbers.
    pub judgement: Judgement,
    /// The calibration that it was judged by; zero if there was none.
    pub calibration: ContentHash,
    /// The auditor's program.
    pub exec_build: Digest,
    /// What it recomputed on, in words.
    pub device: String,
    /// The auditor's key.
    pub auditor: Address,
    /// When, seconds since the Unix epoch.
    pub judged_unix_s: u64,
}

/// A verdict as it travels.
#[derive(Clone, PartialEq, Debug)]
pub struct SignedVerdict {
    /// The facts.
    pub verdict: AuditVerdict,
    /// The auditor's signature.
    pub signature: RecoverableSignature,
}

/// A verdict that is made but not shown yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictCommit(Digest);

/// Why a verdict is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerdictError {
    /// The bytes are not a verdict.
    #[error("verdict does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The signature has not the right form.
    #[error("signature of the verdict: {0}")]
    Form(#[from] SignatureError),
    /// Not signed by the auditor that it names.
    #[error("the verdict is not signed by its auditor")]
    NotByAuditor,
    /// A field makes no sense.
    #[error("invalid {0}")]
    Field(&'static str),
    /// Not the verdict that was committed to.
    #[error("another verdict than the one committed to")]
    Commit,
}

impl Typed for AuditVerdict {
    const TYPE: &'static str = "AuditVerdict(bytes32 challenge,bytes32 receipt,bytes32 node,address receiptKey,uint16 method,\
         uint16 outcome,uint64 statistic,uint64 threshold,uint32 count,bytes32 calibration,bytes32 execBuild,\
         string device,address auditor,uint64 judged)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.challenge.as_bytes());
        words.bytes32(self.receipt.as_bytes());
        words.bytes32(self.node.as_bytes());
        words.address(self.receipt_key);
        words.uint(self.judgement.method as u16);
        words.uint(self.judgement.outcome as u16);
        // Floating point as its bits (IEEE 754, binary64).
        words.uint(self.judgement.statistic.to_bits());
        words.uint(self.judgement.threshold.to_bits());
        words.uint(self.judgement.count);
        words.bytes32(self.calibration.as_bytes());
        words.bytes32(self.exec_build.as_bytes());
        words.text(self.device.as_bytes());
        words.address(self.auditor);
        words.uint(self.judged_unix_s);
    }
}

impl AuditVerdict {
    /// What is signed, and what names the verdict.
    pub fn digest(&self) -> Digest {
        eip712::digest(eip712::RECEIPTS, self)
    }

    /// Signs as the auditor. Fails if a field makes no sense or the key is another's.
    pub fn sign(self, key: &ReceiptKey) -> Result<SignedVerdict, VerdictError> {
        self.check()?;
        if key.address() != self.auditor {
            return Err(VerdictError::NotByAuditor);
        }
        Ok(SignedVerdict { signature: key.sign(&self.digest()), verdict: self })
    }

    fn check(&self) -> Result<(), VerdictError> {
        if self.device.is_empty()
            || self.device.len() > MAX_DEVICE_BYTES
            || self.device.chars().any(char::is_control)
        {
            return Err(VerdictError::Field("device"));
        }
        let Judgement { method, outcome, statistic, threshold, .. } = self.judgement;
        if statistic.is_nan() || threshold.is_nan() || statistic < 0.0 || threshold < 0.0 {
            return Err(VerdictError::Field("statistic"));
        }
        // A statistic means something only against a calibration that others can look up.
        let calibrated = self.calibration != ContentHash::from_bytes([0; 32]);
        let judged = matches!(outcome, Outcome::Pass | Outcome::Fail | Outcome::Borderline);
        if judged && matches!(method, Method::ChunkDelta | Method::Sequential) && !calibrated {
            return Err(VerdictError::Field("calibration"));
        }
        Ok(())
    }
}

impl SignedVerdict {
    /// Checks fields and signature.
    pub fn verify(&self) -> Result<(), VerdictError> {
        self.verdict.check()?;
        if self.signature.is_of(&self.verdict.digest(), self.verdict.auditor) {
            Ok(())
        } else {
            Err(VerdictError::NotByAuditor)
        }
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let (verdict, mut writer) = (&self.verdict, Writer::new());
        writer.digest(&verdict.challenge);
        writer.digest(&verdict.receipt);
        writer.bytes(verdict.node.as_bytes());
        writer.bytes(verdict.receipt_key.as_bytes());
        writer.u16(verdict.judgement.method as u16);
        writer.u16(verdict.judgement.outcome as u16);
        writer.u64(verdict.judgement.statistic.to_bits());
        writer.u64(verdict.judgement.threshold.to_bits());
        writer.u32(verdict.judgement.count);
        writer.bytes(verdict.calibration.as_bytes());
        writer.digest(&verdict.exec_build);
        writer.u8(verdict.device.len() as u8);
        writer.bytes(verdict.device.as_bytes());
        writer.bytes(verdict.auditor.as_bytes());
        writer.u64(verdict.judged_unix_s);
        writer.bytes(self.signature.as_bytes());
        writer.finish()
    }

    /// Reads the bytes; checks their form only.
    pub fn decode(bytes: &[u8]) -> Result<Self, VerdictError> {
        let mut reader = Reader::new(bytes);
        let (challenge, receipt) = (reader.digest("challenge")?, reader.digest("receipt")?);
        let node = NodeId::from_bytes(reader.array("node")?);
        let receipt_key = Address::from_bytes(reader.array("receipt key")?);
        let method = Method::from_number(reader.u16("method")?).ok_or(VerdictError::Field("method"))?;
        let outcome = Outcome::from_number(reader.u16("outcome")?).ok_or(VerdictError::Field("outcome"))?;
        let statistic = f64::from_bits(reader.u64("statistic")?);
        let threshold = f64::from_bits(reader.u64("threshold")?);
        let count = reader.u32("count")?;
        let calibration = ContentHash::from_bytes(reader.array("calibration")?);
        let exec_build = reader.digest("exec_build")?;
        let device_len = usize::from(reader.u8("device")?);
        let device_len = reader.count(device_len, MAX_DEVICE_BYTES, 1, "bytes of a device")?;
        let device = (0..device_len).map(|_| reader.u8("device")).collect::<Result<Vec<u8>, _>>()?;
        let verdict = AuditVerdict {
            challenge,
            receipt,
            node,
            receipt_key,
            judgement: Judgement { method, outcome, statistic, threshold, count },
            calibration,
            exec_build,
            device: String::from_utf8(device).map_err(|_| VerdictError::Field("device"))?,
            auditor: Address::from_bytes(reader.array("auditor")?),
            judged_unix_s: reader.u64("judged")?,
        };
        let signature = RecoverableSignature::from_bytes(&reader.array("signature")?)?;
        reader.finish()?;
        Ok(Self { verdict, signature })
    }
}

impl VerdictCommit {
    /// Commits to a verdict; `salt` is drawn at random and shown with it.
    pub fn to(verdict: &AuditVerdict, salt: &[u8; 32]) -> Self {
        let bytes = [&verdict.digest().as_bytes()[..], salt].concat();
        Self(Digest::from_bytes(blake3::derive_key("layerlane attest verdict 1", &bytes)))
    }

    /// The 32 bytes to show before the verdict.
    pub const fn digest(self) -> Digest {
        self.0
    }

    /// Whether a verdict is the one that was committed to.
    pub fn opens_to(self, verdict: &AuditVerdict, salt: &[u8; 32]) -> Result<(), VerdictError> {
        if Self::to(verdict, salt) == self { Ok(()) } else { Err(VerdictError::Commit) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> ReceiptKey {
        ReceiptKey::from_bytes(&[number; 32]).unwrap()
    }

    fn verdict() -> AuditVerdict {
        AuditVerdict {
            challenge: Digest::from_bytes([1; 32]),
            receipt: Digest::from_bytes([2; 32]),
            node: NodeId::from_bytes([3; 32]),
            receipt_key: key(4).address(),
            judgement: Judgement {
                method: Method::ChunkDelta,
                outcome: Outcome::Fail,
                statistic: 0.25,
                threshold: 0.01,
                count: 8,
            },
            calibration: ContentHash::of(b"calibration"),
            exec_build: Digest::from_bytes([5; 32]),
            device: "cpu avx512".into(),
            auditor: key(6).address(),
            judged_unix_s: 1_000,
        }
    }

    #[test]
    fn a_verdict_is_its_auditors() {
        let signed = verdict().sign(&key(6)).unwrap();
        assert_eq!(signed.verify(), Ok(()));
        assert_eq!(SignedVerdict::decode(&signed.encode()).unwrap(), signed);
        assert_eq!(verdict().sign(&key(7)).unwrap_err(), VerdictError::NotByAuditor);
    }

    #[test]
    fn nothing_passes_or_fails_without_a_calibration() {
        let mut bare = verdict();
        bare.calibration = ContentHash::from_bytes([0; 32]);
        assert_eq!(bare.clone().sign(&key(6)).unwrap_err(), VerdictError::Field("calibration"));
        bare.judgement.outcome = Outcome::Uncalibrated;
        assert!(bare.clone().sign(&key(6)).is_ok());
        bare.judgement.outcome = Outcome::Pass;
        bare.judgement.method = Method::Equality;
        assert!(bare.sign(&key(6)).is_ok());
        let hostile = AuditVerdict { device: "\u{1b}[2J".into(), ..verdict() };
        assert_eq!(hostile.sign(&key(6)).unwrap_err(), VerdictError::Field("device"));
    }

    #[test]
    fn a_commitment_opens_to_its_verdict_only() {
        let commit = VerdictCommit::to(&verdict(), &[9; 32]);
        assert_eq!(commit.opens_to(&verdict(), &[9; 32]), Ok(()));
        assert_eq!(commit.opens_to(&verdict(), &[8; 32]), Err(VerdictError::Commit));
        let other = AuditVerdict { judged_unix_s: 1_001, ..verdict() };
        assert_eq!(commit.opens_to(&other, &[9; 32]), Err(VerdictError::Commit));
    }

    proptest! {
        #[test]
        fn a_changed_verdict_is_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = verdict().sign(&key(6)).unwrap().encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(SignedVerdict::decode(&bytes).and_then(|signed| signed.verify()).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = SignedVerdict::decode(&bytes);
        }
    }
}
