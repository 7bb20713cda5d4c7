//! Which operator and which receipt key belong to a node: said by the node's ed25519 key, agreed to by the operator's.
//!
//! ```text
//! 0      32         52        72         80       88        96
//! | node | operator | receipt | sequence | issued | expires | node signature 64 | operator signature 65 |
//! ```
//! A node rotates its receipt key by a binding with a higher sequence. Who keeps the newest one is the caller's affair.

use proto::key::{self, SIGNATURE_BYTES as NODE_SIGNATURE_BYTES};
use proto::record::MAX_CLOCK_SKEW_S;
use proto::{NodeId, NodeKey};

use crate::eip712::{self, Typed, Words};
use crate::keys::SIGNATURE_BYTES;
use crate::layout::{LayoutError, Reader, Writer};
use crate::{Address, Digest, OperatorKey, RecoverableSignature, SignatureError};

/// What node and operator agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyBinding {
    /// The node.
    pub node: NodeId,
    /// Who answers for it and is paid.
    pub operator: Address,
    /// What signs its receipts.
    pub receipt: Address,
    /// The highest one holds.
    pub sequence: u64,
    /// Seconds since the Unix epoch.
    pub issued_unix_s: u64,
    /// From then on it does not hold, seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// A binding as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedBinding {
    binding: KeyBinding,
    node_signature: [u8; NODE_SIGNATURE_BYTES],
    operator_signature: RecoverableSignature,
}

/// A binding whose signatures and times were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifiedBinding(SignedBinding);

/// Why a binding is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// The bytes are not a binding.
    #[error("binding does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The operator's signature has not the right form.
    #[error("the operator's signature: {0}")]
    Form(#[from] SignatureError),
    /// It would hold for longer than [`SignedBinding::MAX_LIFE_S`], or not at all.
    #[error("a binding holds between 1 and {} s, not from {issued} to {expires}", SignedBinding::MAX_LIFE_S)]
    Life {
        /// When it was issued.
        issued: u64,
        /// Until when it would hold.
        expires: u64,
    },
    /// Issued further in the future than clocks may differ.
    #[error("binding was issued {0} s in the future: check the clock")]
    FromTheFuture(u64),
    /// It does not hold any more.
    #[error("binding ran out {0} s ago")]
    Expired(u64),
    /// Not signed by the node.
    #[error("the node's signature does not fit")]
    NodeSignature,
    /// Not signed by the operator that it names.
    #[error("the operator's signature does not fit")]
    OperatorSignature,
    /// A newer one is known.
    #[error("binding {offered} comes after binding {known}")]
    Superseded {
        /// The sequence of the known one.
        known: u64,
        /// The sequence of this one.
        offered: u64,
    },
    /// It is of another node than the known one.
    #[error("binding of another node")]
    OtherNode,
    /// The node bound other keys under the same number before: two truths at once.
    #[error("two bindings of one node have the sequence {0}")]
    Forked(u64),
}

impl Typed for KeyBinding {
    const TYPE: &'static str = "KeyBinding(bytes32 node,address operator,address receipt,uint64 sequence,\
                                uint64 issued,uint64 expires)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.node.as_bytes());
        words.address(self.operator);
        words.address(self.receipt);
        words.uint(self.sequence);
        words.uint(self.issued_unix_s);
        words.uint(self.expires_unix_s);
    }
}

impl KeyBinding {
    /// What the operator signs: EIP-712, so that a hardware signer shows it field by field.
    pub fn digest(&self) -> Digest {
        eip712::digest(eip712::RECEIPTS, self)
    }

    /// Signs as the node, with the operator's signature from wherever it was made.
    pub fn sign(&self, node: &NodeKey, operator_signature: RecoverableSignature) -> SignedBinding {
        let node_signature = node.sign(NODE_DOMAIN, &self.body());
        SignedBinding { binding: *self, node_signature, operator_signature }
    }

    /// Signs as both, where the operator's key is at hand.
    pub fn sign_with_both(&self, node: &NodeKey, operator: &OperatorKey) -> SignedBinding {
        self.sign(node, operator.sign(&self.digest()))
    }

    fn body(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes(self.node.as_bytes());
        writer.bytes(self.operator.as_bytes());
        writer.bytes(self.receipt.as_bytes());
        writer.u64(self.sequence);
        writer.u64(self.issued_unix_s);
        writer.u64(self.expires_unix_s);
        writer.finish()
    }
}

impl SignedBinding {
    /// Bytes of an encoded binding.
    pub const BYTES: usize = 96 + NODE_SIGNATURE_BYTES + SIGNATURE_BYTES;

    /// A year and a month: who forgets to renew for longer has lost interest.
    pub const MAX_LIFE_S: u64 = 396 * 24 * 3600;

    /// What it says; not checked.
    pub const fn facts(&self) -> &KeyBinding {
        &self.binding
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.binding.body();
        bytes.extend_from_slice(&self.node_signature);
        bytes.extend_from_slice(self.operator_signature.as_bytes());
        bytes
    }

    /// Reads the bytes; checks nothing but their form.
    pub fn decode(bytes: &[u8]) -> Result<Self, BindingError> {
        let mut reader = Reader::new(bytes);
        let binding = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(binding)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, BindingError> {
        let binding = KeyBinding {
            node: NodeId::from_bytes(reader.array("node")?),
            operator: Address::from_bytes(reader.array("operator")?),
            receipt: Address::from_bytes(reader.array("receipt key")?),
            sequence: reader.u64("sequence")?,
            issued_unix_s: reader.u64("issued")?,
            expires_unix_s: reader.u64("expires")?,
        };
        let node_signature = reader.array("node signature")?;
        let operator_signature = RecoverableSignature::from_bytes(&reader.array("operator signature")?)?;
        Ok(Self { binding, node_signature, operator_signature })
    }

    /// Checks both signatures, and the times at `now_unix_s`.
    pub fn verify(self, now_unix_s: u64) -> Result<VerifiedBinding, BindingError> {
        let KeyBinding { node, operator, issued_unix_s: issued, expires_unix_s: expires, .. } = self.binding;
        if expires <= issued || expires - issued > Self::MAX_LIFE_S {
            return Err(BindingError::Life { issued, expires });
        }
        if issued > now_unix_s.saturating_add(MAX_CLOCK_SKEW_S) {
            return Err(BindingError::FromTheFuture(issued - now_unix_s));
        }
        if expires <= now_unix_s {
            return Err(BindingError::Expired(now_unix_s - expires));
        }
        if !key::verify(node, NODE_DOMAIN, &self.binding.body(), &self.node_signature) {
            return Err(BindingError::NodeSignature);
        }
        if !self.operator_signature.is_of(&self.binding.digest(), operator) {
            return Err(BindingError::OperatorSignature);
        }
        Ok(VerifiedBinding(self))
    }
}

impl VerifiedBinding {
    /// The facts.
    pub const fn binding(&self) -> &KeyBinding {
        &self.0.binding
    }

    /// The bytes to pass on.
    pub const fn signed(&self) -> &SignedBinding {
        &self.0
    }

    /// Whether it may take the place of the newest one known of its node; the same one again may.
    pub fn follows(&self, known: &Self) -> Result<(), BindingError> {
        let (new, old) = (self.binding(), known.binding());
        if new.node != old.node {
            return Err(BindingError::OtherNode);
        }
        if new.sequence < old.sequence {
            return Err(BindingError::Superseded { known: old.sequence, offered: new.sequence });
        }
        if new.sequence == old.sequence && new != old {
            return Err(BindingError::Forked(new.sequence));
        }
        Ok(())
    }
}

const NODE_DOMAIN: &[u8] = b"layerlane key binding 1\0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReceiptKey;

    fn keys() -> (NodeKey, OperatorKey, ReceiptKey) {
        let receipt = ReceiptKey::from_bytes(&[3; 32]).unwrap();
        (NodeKey::from_seed(&[1; 32]), OperatorKey::from_bytes(&[2; 32]).unwrap(), receipt)
    }

    fn binding(sequence: u64) -> KeyBinding {
        let (node, operator, receipt) = keys();
        KeyBinding {
            node: node.node_id(),
            operator: operator.address(),
            receipt: receipt.address(),
            sequence,
            issued_unix_s: 1_000,
            expires_unix_s: 9_000,
        }
    }

    #[test]
    fn a_binding_holds_within_its_time_only() {
        let (node, operator, _) = keys();
        let signed = binding(1).sign_with_both(&node, &operator);
        assert_eq!(signed.verify(1_000).unwrap().binding(), &binding(1));
        assert!(signed.verify(880).is_ok() && signed.verify(8_999).is_ok());
        assert_eq!(signed.verify(879), Err(BindingError::FromTheFuture(121)));
        assert_eq!(signed.verify(9_000), Err(BindingError::Expired(0)));
        let endless = KeyBinding { expires_unix_s: u64::MAX, ..binding(1) };
        let error = endless.sign_with_both(&node, &operator).verify(1_000);
        assert!(matches!(error, Err(BindingError::Life { .. })));
    }

    #[test]
    fn both_must_have_signed() {
        let (node, operator, _) = keys();
        let stranger = OperatorKey::from_bytes(&[7; 32]).unwrap();
        let unasked = binding(1).sign(&node, stranger.sign(&binding(1).digest()));
        assert_eq!(unasked.verify(1_000), Err(BindingError::OperatorSignature));
        let other = binding(1).sign_with_both(&NodeKey::from_seed(&[8; 32]), &operator);
        assert_eq!(other.verify(1_000), Err(BindingError::NodeSignature));
    }

    #[test]
    fn any_changed_bit_is_refused() {
        let (node, operator, _) = keys();
        let bytes = binding(1).sign_with_both(&node, &operator).encode();
        assert_eq!(bytes.len(), SignedBinding::BYTES);
        assert!(SignedBinding::decode(&bytes).unwrap().verify(2_000).is_ok());
        for bit in 0..8 * bytes.len() {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                SignedBinding::decode(&changed).and_then(|signed| signed.verify(2_000)).is_err(),
                "{bit}"
            );
        }
        for len in 0..bytes.len() {
            assert!(SignedBinding::decode(&bytes[..len]).is_err());
        }
        assert!(SignedBinding::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_rotation_never_goes_back() {
        let (node, operator, _) = keys();
        let verified = |sequence| binding(sequence).sign_with_both(&node, &operator).verify(2_000).unwrap();
        assert_eq!(verified(2).follows(&verified(1)), Ok(()));
        assert_eq!(verified(2).follows(&verified(2)), Ok(()));
        assert_eq!(verified(1).follows(&verified(2)), Err(BindingError::Superseded { known: 2, offered: 1 }));
        let other = KeyBinding { receipt: Address::from_bytes([5; 20]), ..binding(2) };
        let other = other.sign_with_both(&node, &operator).verify(2_000).unwrap();
        assert_eq!(other.follows(&verified(2)), Err(BindingError::Forked(2)));
    }
}
