//! The XOR metric over [`DhtKey`]s. Owns no state.

use proto::record::DhtKey;

/// XOR distance of two keys, most significant word first, so that the derived order is the metric's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u64; 4]);

impl Distance {
    /// Distance of `a` and `b`; symmetric, zero only for equal keys.
    #[inline]
    pub fn between(a: &DhtKey, b: &DhtKey) -> Self {
        let (a, b) = (words(a.as_bytes()), words(b.as_bytes()));
        Self([a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]])
    }

    /// Number of leading bits that the two keys share (0..=255), or `None` if they are equal.
    pub fn shared_prefix(&self) -> Option<usize> {
        self.0.iter().enumerate().find(|(_, w)| **w != 0).map(|(i, w)| i * 64 + w.leading_zeros() as usize)
    }
}

#[inline]
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut out = [0; 4];
    for (word, chunk) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*chunk);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_prefix_counts_leading_equal_bits() {
        let zero = DhtKey::from_bytes([0; 32]);
        assert_eq!(Distance::between(&zero, &zero).shared_prefix(), None);
        for bit in 0..256 {
            let mut bytes = [0; 32];
            bytes[bit / 8] = 0x80 >> (bit % 8);
            let other = DhtKey::from_bytes(bytes);
            assert_eq!(Distance::between(&zero, &other).shared_prefix(), Some(bit));
            assert_eq!(Distance::between(&zero, &other), Distance::between(&other, &zero));
        }
    }
}
