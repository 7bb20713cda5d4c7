//! Remembers which signed records were verified, so that a record that comes from 20 holders costs one check.

use std::collections::HashMap;
use std::sync::Arc;

use proto::record::{RecordError, SignedRecord, VerifiedRecord};

use super::limits::VERIFIED_REMEMBERED;

/// Verified records in two generations: when the young one is full the old one is dropped.
#[derive(Debug, Default)]
pub(crate) struct VerifyCache {
    young: HashMap<SignedRecord, Arc<VerifiedRecord>>,
    old: HashMap<SignedRecord, Arc<VerifiedRecord>>,
    checked: u64,
}

impl VerifyCache {
    /// As [`SignedRecord::verify`]; the signature of a record seen before is not checked again, its lease is.
    pub(crate) fn verify(
        &mut self,
        signed: SignedRecord,
        unix_seconds: u64,
    ) -> Result<Arc<VerifiedRecord>, RecordError> {
        if let Some(known) = self.young.get(&signed).or_else(|| self.old.get(&signed)) {
            let expires = known.record().expires_unix_s();
            if expires < unix_seconds {
                return Err(RecordError::Expired(unix_seconds - expires));
            }
            return Ok(Arc::clone(known));
        }
        self.checked += 1;
        let verified = Arc::new(signed.verify(unix_seconds)?);
        if self.young.len() >= VERIFIED_REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(verified.signed().clone(), Arc::clone(&verified));
        Ok(verified)
    }

    /// Signatures checked so far.
    pub(crate) const fn checked(&self) -> u64 {
        self.checked
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{announcement, node_key};

    #[test]
    fn repeats_are_not_checked_again_but_still_expire() {
        let mut cache = VerifyCache::default();
        let signed = announcement(&node_key(1), "toy").sign_at(1_000_000).unwrap();
        for _ in 0..20 {
            assert!(cache.verify(signed.clone(), 1_000).is_ok());
        }
        assert_eq!(cache.checked(), 1);
        assert_eq!(cache.verify(signed, 1_901), Err(RecordError::Expired(1)));
    }

    #[test]
    fn it_does_not_grow_beyond_its_bound() {
        let mut cache = VerifyCache::default();
        let announcement = announcement(&node_key(1), "toy");
        for millis in 0..2 * VERIFIED_REMEMBERED as u64 {
            let _ = cache.verify(announcement.sign_at(1_000_000 + millis).unwrap(), 1_000);
        }
        assert!(cache.len() <= VERIFIED_REMEMBERED);
    }
}
