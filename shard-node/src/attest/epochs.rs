//! What this node signed, epoch by epoch, and who may have which of it opened.
//!
//! ```text
//! present epoch --audited, or full--> batch: its root is signed, a new epoch begins
//! batch --commitment of an auditor--> waiting --its seed, signed--> what it chooses is to be opened
//! ```
//! The node does not choose: its root is signed before it knows the seed. Of an epoch that was closed before it was asked
//! for the auditor may know the root when it commits; it chooses no more by that than what it looks at.

use std::collections::{HashMap, HashSet, VecDeque};

use proto::NodeId;
use proto::audit::{AuditBatch, AuditRequest, Challenge, MAX_BATCH};
use proto_attest::audit::{ChallengeError, EpochBatch, SeedCommit, SignedBatch, SignedChallenge};
use proto_attest::{Amount, Digest, ReceiptKey};

use crate::session::SessionKey;

/// The receipts of a node.
#[derive(Debug)]
pub(super) struct Epochs {
    node: NodeId,
    present: u64,
    /// Of the present epoch, at most [`MAX_BATCH`].
    signed: Vec<Digest>,
    /// The newest last, at most [`MOST_PAST`].
    past: VecDeque<Past>,
    /// Receipts of these, at most [`MOST_RECEIPTS`].
    kept: usize,
    /// At most [`MOST_AUDITS`].
    audits: HashMap<(NodeId, u64), Audit>,
    audit_order: VecDeque<(NodeId, u64)>,
}

#[derive(Debug)]
struct Past {
    batch: SignedBatch,
    receipts: Vec<Digest>,
}

#[derive(Debug)]
enum Audit {
    Waiting(SeedCommit),
    Opening(HashSet<SessionKey>),
}

/// Why nothing is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RevealError {
    #[error("no audit of that epoch was begun by this peer")]
    NotBegun,
    #[error("that epoch is not kept any more")]
    Gone,
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
}

impl Epochs {
    /// Of a node that starts now: epochs are numbered by the clock, so that those of an earlier process are others.
    pub(super) fn new(node: NodeId, now_unix_ms: u64) -> Self {
        Self {
            node,
            present: now_unix_ms,
            signed: Vec::new(),
            past: VecDeque::new(),
            kept: 0,
            audits: HashMap::new(),
            audit_order: VecDeque::new(),
        }
    }

    /// The present one.
    pub(super) const fn present(&self) -> u64 {
        self.present
    }

    /// Whether nothing was signed in the present one.
    pub(super) const fn is_empty(&self) -> bool {
        self.signed.is_empty()
    }

    /// A receipt was signed. Says whether the epoch has to end, behind those that were drafted with it.
    pub(super) fn sign(&mut self, receipt: Digest) -> bool {
        self.signed.push(receipt);
        self.signed.len() >= FULL
    }

    /// The present epoch ends.
    pub(super) fn close(&mut self, key: &ReceiptKey) {
        let receipts = std::mem::take(&mut self.signed);
        let batch = EpochBatch {
            node: self.node,
            epoch: self.present,
            receipts_root: EpochBatch::root(&receipts),
            count: receipts.len() as u32,
            // Nothing is paid yet.
            earned: Amount::ZERO,
        };
        self.kept += receipts.len();
        self.past.push_back(Past { batch: batch.sign(key), receipts });
        while self.past.len() > MOST_PAST || self.kept > MOST_RECEIPTS {
            let Some(oldest) = self.past.pop_front() else { break };
            self.kept -= oldest.receipts.len();
        }
        self.present += 1;
    }

    /// An auditor commits to its seed and wants the batch of an epoch. The present one has been closed before.
    pub(super) fn begin(&mut self, auditor: NodeId, request: AuditRequest) -> AuditBatch {
        let Some(past) = self.past(request.epoch) else { return AuditBatch::default() };
        let batch = AuditBatch {
            batch: past.batch.encode(),
            receipts: past.receipts.iter().map(|receipt| *receipt.as_bytes()).collect(),
        };
        let commit = SeedCommit::from_digest(Digest::from_bytes(request.commit));
        let place = (auditor, request.epoch);
        if self.audits.insert(place, Audit::Waiting(commit)).is_none() {
            self.audit_order.push_back(place);
        }
        // Its own oldest goes first, so that it takes many identities to push out others'.
        let own = self.audit_order.iter().filter(|(of, _)| *of == auditor).count();
        let gone = if own > MOST_OF_ONE {
            self.audit_order.iter().position(|(of, _)| *of == auditor)
        } else {
            (self.audit_order.len() > MOST_AUDITS).then_some(0)
        };
        if let Some(oldest) = gone.and_then(|at| self.audit_order.remove(at)) {
            self.audits.remove(&oldest);
        }
        batch
    }

    /// It shows its seed: sessions of the receipts that this chooses may be opened to it. `session_of` knows whose a
    /// receipt is.
    pub(super) fn reveal(
        &mut self,
        auditor: NodeId,
        challenge: &Challenge,
        now_unix_s: u64,
        session_of: impl Fn(&Digest) -> Option<SessionKey>,
    ) -> Result<(), RevealError> {
        let place = (auditor, challenge.epoch);
        let Some(Audit::Waiting(commit)) = self.audits.get(&place) else { return Err(RevealError::NotBegun) };
        let past = self.past(challenge.epoch).ok_or(RevealError::Gone)?;
        let signed = SignedChallenge::decode(&challenge.challenge)?;
        signed.verify(&past.batch.batch, *commit, now_unix_s)?;
        let chosen = signed.challenge.indexes(&past.batch.batch);
        let receipts = chosen.iter().filter_map(|&index| past.receipts.get(index as usize));
        let sessions = receipts.filter_map(session_of).collect();
        self.audits.insert(place, Audit::Opening(sessions));
        Ok(())
    }

    /// Whether receipts of this session are to be opened to an auditor.
    pub(super) fn opens(&self, auditor: NodeId, session: SessionKey) -> bool {
        self.audits.iter().any(|((to, _), audit)| {
            *to == auditor && matches!(audit, Audit::Opening(sessions) if sessions.contains(&session))
        })
    }

    fn past(&self, epoch: u64) -> Option<&Past> {
        self.past.iter().find(|past| past.batch.batch.epoch == epoch)
    }
}

/// Receipts of an epoch: with what one job can draft at once a batch stays under its limit.
const FULL: usize = MAX_BATCH - 1024;
/// Batches that can still be audited, as far as their receipts are.
const MOST_PAST: usize = 4096;
/// Receipts of batches that can still be audited: 8 MiB.
const MOST_RECEIPTS: usize = 256 << 10;
/// Audits under way. Who begins more pushes the oldest out, which may begin again.
const MOST_AUDITS: usize = 2048;
/// The same, of one auditor.
const MOST_OF_ONE: usize = 64;

#[cfg(test)]
mod tests {
    use proto::SessionId;
    use proto_attest::audit::{AuditChallenge, AuditRate, AuditSeed};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn receipt(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    fn session(number: u64) -> SessionKey {
        SessionKey { router: NodeId::from_bytes([9; 32]), session: SessionId::new(number) }
    }

    fn challenge(batch: &SignedBatch, seed: AuditSeed, rate: f64) -> Challenge {
        let key = ReceiptKey::from_bytes(&[5; 32]).unwrap();
        let challenge = AuditChallenge {
            auditor: key.address(),
            batch: batch.batch.digest(),
            seed,
            rate: AuditRate::of_share(rate),
            deadline_unix_s: NOW + 300,
        };
        Challenge { epoch: batch.batch.epoch, challenge: challenge.sign(&key).unwrap().encode() }
    }

    #[test]
    fn only_what_a_committed_seed_chooses_is_opened_and_only_to_its_auditor() {
        let key = ReceiptKey::from_bytes(&[4; 32]).unwrap();
        let (auditor, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let mut epochs = Epochs::new(NodeId::from_bytes([3; 32]), 7000);
        for number in 0..10 {
            assert!(!epochs.sign(receipt(number)));
        }
        epochs.close(&key);
        assert_eq!(epochs.present(), 7001);
        let (seed, wrong) = (AuditSeed::from_bytes([1; 32]), AuditSeed::from_bytes([2; 32]));
        let commit = *seed.commit().digest().as_bytes();
        assert_eq!(epochs.begin(auditor, AuditRequest { commit, epoch: 6999 }), AuditBatch::default());
        let told = epochs.begin(auditor, AuditRequest { commit, epoch: 7000 });
        let batch = SignedBatch::decode(&told.batch).unwrap();
        assert_eq!((batch.verify(key.address()), told.receipts.len()), (Ok(()), 10));
        let session_of = |receipt: &Digest| Some(session(u64::from(receipt.as_bytes()[0] / 5)));
        let mut reveal = |from, challenge: &Challenge| epochs.reveal(from, challenge, NOW, session_of);
        assert_eq!(reveal(other, &challenge(&batch, seed, 1.0)), Err(RevealError::NotBegun));
        let refused = reveal(auditor, &challenge(&batch, wrong, 1.0));
        assert_eq!(refused, Err(RevealError::Challenge(ChallengeError::Seed)));
        reveal(auditor, &challenge(&batch, seed, 1.0)).unwrap();
        assert_eq!(reveal(auditor, &challenge(&batch, seed, 1.0)), Err(RevealError::NotBegun), "once");
        assert!(epochs.opens(auditor, session(0)) && epochs.opens(auditor, session(1)));
        assert!(!epochs.opens(other, session(0)) && !epochs.opens(auditor, session(2)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let key = ReceiptKey::from_bytes(&[4; 32]).unwrap();
        let mut epochs = Epochs::new(NodeId::from_bytes([3; 32]), 0);
        for _ in 0..MOST_RECEIPTS / FULL + 5 {
            for number in 0..FULL {
                assert_eq!(epochs.sign(receipt(number as u8)), number + 1 == FULL);
            }
            epochs.close(&key);
        }
        assert!(epochs.kept <= MOST_RECEIPTS && epochs.past.len() == MOST_RECEIPTS / FULL);
        let present = epochs.present();
        for number in 0..=255u8 {
            for last in 1..80 {
                let request = AuditRequest { commit: [0; 32], epoch: present - last };
                epochs.begin(NodeId::from_bytes([number; 32]), request);
            }
            let own = epochs.audits.keys().filter(|(of, _)| of.as_bytes()[0] == number).count();
            assert_eq!(own, MOST_OF_ONE);
        }
        assert_eq!((epochs.audits.len(), epochs.audit_order.len()), (MOST_AUDITS, MOST_AUDITS));
    }
}
