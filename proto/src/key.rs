//! The ed25519 key of a node: its identity on the wire and the signer of its records.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::NodeId;

/// Bytes of an ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A node's secret key. `Debug` shows only the public id; the secret is wiped on drop.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// Takes a 32-byte secret seed (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The secret seed, for the key file and for TLS.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public key.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs `domain` followed by `message`; `domain` keeps signatures of different things apart.
    pub fn sign(&self, domain: &[u8], message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&[domain, message].concat()).to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.node_id()).finish()
    }
}

/// Whether `signature` over `domain` and `message` was made by `signer`. Strict: keys and nonces of small order,
/// whose signatures fit several messages, are refused (Chalkias, Garillot and Nikolaenko 2020).
pub fn verify(signer: NodeId, domain: &[u8], message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    VerifyingKey::from_bytes(signer.as_bytes()).is_ok_and(|key| {
        key.verify_strict(&[domain, message].concat(), &Signature::from_bytes(signature)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_signer_domain_and_message_only() {
        let (a, b) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let signature = a.sign(b"d", b"m");
        assert!(verify(a.node_id(), b"d", b"m", &signature));
        assert!(!verify(b.node_id(), b"d", b"m", &signature));
        assert!(!verify(a.node_id(), b"e", b"m", &signature));
        assert!(!verify(a.node_id(), b"d", b"n", &signature));
        assert!(!verify(NodeId::from_bytes([255; 32]), b"d", b"m", &signature));
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // The identity point as key and as nonce, with s = 0, fits every message under the lax rule.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; SIGNATURE_BYTES];
        signature[0] = 1;
        assert!(!verify(NodeId::from_bytes(identity), b"d", b"m", &signature));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let key = NodeKey::from_seed(&[7; 32]);
        assert!(!format!("{key:?}").contains("0707"));
    }
}
