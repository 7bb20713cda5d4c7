//! A seed that is committed to, and the receipts that it chooses.

use crate::Digest;

/// An auditor's seed. `Debug` does not show it: until it is revealed it is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditSeed([u8; 32]);

/// A commitment to a seed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SeedCommit(Digest);

/// Which part of all receipts is audited, in units of 2^-32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AuditRate(u32);

impl AuditSeed {
    /// Takes 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, to reveal.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What is shown before the node signs its root.
    pub fn commit(&self) -> SeedCommit {
        SeedCommit(Digest::from_bytes(blake3::derive_key("layerlane attest audit seed 1", &self.0)))
    }

    /// Whether receipt number `index` under `root` is audited: `PRF(seed, root, index) < rate`, by keyed BLAKE3.
    pub fn selects(&self, root: &Digest, index: u32, rate: AuditRate) -> bool {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"layerlane audit 1");
        hasher.update(root.as_bytes());
        hasher.update(&index.to_le_bytes());
        let hash = *hasher.finalize().as_bytes();
        u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) < rate.0
    }

    /// The receipts of an epoch that are audited, in order.
    pub fn selected(&self, root: &Digest, count: u32, rate: AuditRate) -> Vec<u32> {
        (0..count).filter(|&index| self.selects(root, index, rate)).collect()
    }
}

impl SeedCommit {
    /// Takes a commitment as it was shown.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The 32 bytes to show.
    pub const fn digest(self) -> Digest {
        self.0
    }

    /// Whether this seed was committed to.
    pub fn is_of(self, seed: &AuditSeed) -> bool {
        seed.commit() == self
    }
}

impl AuditRate {
    /// A share between 0 and 1; what lies outside becomes the nearer end, NaN 0.
    pub fn of_share(share: f64) -> Self {
        Self((share.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32)
    }

    /// Units of 2^-32.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// From units of 2^-32.
    pub const fn new(units: u32) -> Self {
        Self(units)
    }
}

impl std::fmt::Debug for AuditSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AuditSeed").field(&self.commit().0.short()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_chooses_the_part_that_was_asked_for() {
        let (seed, root) = (AuditSeed::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        let rate = AuditRate::of_share(0.05);
        let chosen = seed.selected(&root, 100_000, rate);
        assert!((4_700..5_300).contains(&chosen.len()), "{}", chosen.len());
        let other = AuditSeed::from_bytes([3; 32]).selected(&root, 100_000, rate);
        let both = chosen.iter().filter(|index| other.contains(index)).count();
        assert!((150..350).contains(&both), "{both} in common");
        assert!(seed.selected(&root, 1_000, AuditRate::of_share(0.0)).is_empty());
        assert_eq!(AuditRate::of_share(f64::NAN), AuditRate::new(0));
    }

    #[test]
    fn a_commitment_is_of_its_seed_and_hides_it() {
        let seed = AuditSeed::from_bytes([0xab; 32]);
        assert!(seed.commit().is_of(&seed));
        assert!(!seed.commit().is_of(&AuditSeed::from_bytes([1; 32])));
        assert!(!format!("{seed:?}").contains("abab"));
    }
}
