//! ECDSA signatures from which the signer is recovered, in the one form that a contract accepts: r, s, v with v 27 or
//! 28 and s in the lower half, so that nobody can make a second signature out of one.

use std::fmt;

use secp256k1::ecdsa::{RecoverableSignature as Recoverable, RecoveryId};
use secp256k1::{Message, SecretKey};

use crate::{Address, Digest};

/// Bytes of a signature: r (32, big-endian), s (32, big-endian), v.
pub const SIGNATURE_BYTES: usize = 65;

/// A signature in its canonical form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecoverableSignature([u8; SIGNATURE_BYTES]);

/// Why bytes are not a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// v is neither 27 nor 28.
    #[error("v of the signature is {0}, not 27 or 28")]
    Recovery(u8),
    /// s lies in the upper half: another form of a signature that has a canonical one (EIP-2).
    #[error("s of the signature is not in the lower half")]
    HighS,
    /// r or s is zero or not below the group's order.
    #[error("r or s of the signature is out of range")]
    Range,
    /// No key has signed this digest with it.
    #[error("the signature fits no key")]
    NoKey,
}

impl RecoverableSignature {
    /// Checks 65 bytes for their form.
    pub fn from_bytes(bytes: &[u8; SIGNATURE_BYTES]) -> Result<Self, SignatureError> {
        let (r, s, v) = (&bytes[..32], &bytes[32..64], bytes[64]);
        if v != 27 && v != 28 {
            return Err(SignatureError::Recovery(v));
        }
        if s > &HALF_ORDER[..] {
            return Err(SignatureError::HighS);
        }
        let signature = Self(*bytes);
        if r == [0; 32] || s == [0; 32] || signature.parse().is_err() {
            return Err(SignatureError::Range);
        }
        Ok(signature)
    }

    /// The 65 bytes.
    pub const fn as_bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }

    /// Who signed `digest` with it. Any digest gives somebody, so the answer must be compared with who should have.
    pub fn recover(&self, digest: &Digest) -> Result<Address, SignatureError> {
        let key = self.parse()?.recover(Message::from_digest(*digest.as_bytes()));
        key.map(|key| Address::of(&key)).map_err(|_| SignatureError::NoKey)
    }

    /// Whether `signer` signed `digest` with it.
    pub fn is_of(&self, digest: &Digest, signer: Address) -> bool {
        self.recover(digest) == Ok(signer)
    }

    pub(super) fn sign(digest: &Digest, secret: &SecretKey) -> Self {
        let message = Message::from_digest(*digest.as_bytes());
        let (id, compact) = Recoverable::sign_ecdsa_recoverable(message, secret).serialize_compact();
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes[..64].copy_from_slice(&compact);
        // The library gives the lower s. Ids 2 and 3 stand for an r of 2^256 less 2^128 or more: nobody has seen one.
        bytes[64] = 27 + (id.to_u8() & 1);
        Self(bytes)
    }

    fn parse(&self) -> Result<Recoverable, SignatureError> {
        let id = RecoveryId::from_u8_masked(self.0[64] - 27);
        Recoverable::from_compact(&self.0[..64], id).map_err(|_| SignatureError::Range)
    }
}

impl fmt::Debug for RecoverableSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoverableSignature({}..)", hex::encode(&self.0[..4]))
    }
}

/// Half of the order of secp256k1 (SEC 2), big-endian: the largest s that is accepted.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5d,
    0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReceiptKey;

    #[test]
    fn a_signature_names_its_signer() {
        let key = ReceiptKey::from_bytes(&[1; 32]).unwrap();
        let digest = Digest::from_bytes([9; 32]);
        let signature = key.sign(&digest);
        assert_eq!(signature.recover(&digest), Ok(key.address()));
        assert!(!signature.is_of(&Digest::from_bytes([8; 32]), key.address()));
        assert_eq!(RecoverableSignature::from_bytes(signature.as_bytes()), Ok(signature));
    }

    #[test]
    fn the_other_form_of_a_signature_is_refused() {
        // n - s with the other v signs as well; only one of the two may count.
        const ORDER: [u8; 32] = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
            0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
        ];
        let key = ReceiptKey::from_bytes(&[1; 32]).unwrap();
        let mut bytes = *key.sign(&Digest::from_bytes([9; 32])).as_bytes();
        let mut borrow = 0i16;
        for index in (0..32).rev() {
            let difference = i16::from(ORDER[index]) - i16::from(bytes[32 + index]) - borrow;
            borrow = i16::from(difference < 0);
            bytes[32 + index] = difference.rem_euclid(256) as u8;
        }
        bytes[64] = 55 - bytes[64];
        assert_eq!(RecoverableSignature::from_bytes(&bytes), Err(SignatureError::HighS));
    }

    #[test]
    fn bytes_of_another_form_are_refused() {
        let good = *ReceiptKey::from_bytes(&[1; 32]).unwrap().sign(&Digest::ZERO).as_bytes();
        for v in [0, 1, 26, 29, 255] {
            let bytes = std::array::from_fn(|index| if index == 64 { v } else { good[index] });
            assert_eq!(RecoverableSignature::from_bytes(&bytes), Err(SignatureError::Recovery(v)));
        }
        for zeroed in [0..32, 32..64] {
            let bytes = std::array::from_fn(|index| if zeroed.contains(&index) { 0 } else { good[index] });
            assert_eq!(RecoverableSignature::from_bytes(&bytes), Err(SignatureError::Range));
        }
        let bytes = std::array::from_fn(|index| if index < 32 { 255 } else { good[index] });
        assert_eq!(RecoverableSignature::from_bytes(&bytes), Err(SignatureError::Range));
    }
}
