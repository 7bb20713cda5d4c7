//! What a node announces, signed; until when it holds; and the keys it is found under.
//!
//! A record on the wire is `NodeRecord` bytes plus a signature. Only [`SignedRecord::verify`] makes a
//! [`VerifiedRecord`], and only that type is accepted further in.

use std::net::{IpAddr, SocketAddr};

use bincode::{Decode, Encode};

use crate::key::{self, NodeKey, SIGNATURE_BYTES};
use crate::message::{decode_control, encode_control};
use crate::tensor::NumericsClass;
use crate::{LayerSpan, ModelId, NodeId};

/// Largest encoded record body in bytes.
pub const MAX_RECORD_BYTES: usize = 1024;
/// Longest lease in seconds.
pub const MAX_LEASE_S: u32 = 900;
/// How far a signer's clock may run ahead, seconds.
pub const MAX_CLOCK_SKEW_S: u64 = 120;
/// Most addresses in a record.
pub const MAX_ADDRESSES: usize = 8;
/// Longest model name in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest software version in bytes.
pub const MAX_VERSION_BYTES: usize = 32;

const SIGNATURE_DOMAIN: &[u8] = b"layerlane record 1\0";

/// The shard a node offers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ShardOffer {
    /// The weights.
    pub model: ModelId,
    /// The name its owner gave them.
    pub model_name: String,
    /// Layers of the whole model.
    pub n_layers: u32,
    /// Layers held.
    pub span: LayerSpan,
    /// How it computes.
    pub class: NumericsClass,
    /// Positions of KV it can reserve in all.
    pub kv_capacity: u64,
}

/// Slow facts about a node.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeRecord {
    /// Whose record; must be the signer.
    pub node: NodeId,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// What it offers; a bootstrap node offers nothing.
    pub offer: Option<ShardOffer>,
    /// Software version.
    pub version: String,
    /// Newest wins. Milliseconds since the Unix epoch, so that a restarted node goes on above.
    pub sequence: u64,
    /// Seconds since the Unix epoch.
    pub issued_unix_s: u64,
    /// How long it holds; at most [`MAX_LEASE_S`].
    pub lease_s: u32,
    /// A tombstone: deletes older records of the node.
    pub withdrawn: bool,
}

/// A record as it travels.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct SignedRecord {
    body: Vec<u8>,
    signer: NodeId,
    signature: [u8; SIGNATURE_BYTES],
}

/// A record whose signature, limits and lease were checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedRecord {
    record: NodeRecord,
    signed: SignedRecord,
}

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Over [`MAX_RECORD_BYTES`].
    #[error("record of {0} bytes is over {MAX_RECORD_BYTES}")]
    TooLong(usize),
    /// The body does not parse.
    #[error("record does not parse: {0}")]
    Malformed(String),
    /// The signature does not fit signer and body.
    #[error("signature does not fit")]
    BadSignature,
    /// Signed by another key than the node's.
    #[error("record of node {node} is signed by {signer}")]
    WrongSigner {
        /// The node the record speaks of.
        node: NodeId,
        /// Who signed it.
        signer: NodeId,
    },
    /// Issued further in the future than clocks may differ.
    #[error("record was issued {0} s in the future: check the clock")]
    FromTheFuture(u64),
    /// Its lease has run out.
    #[error("lease ran out {0} s ago")]
    Expired(u64),
    /// A field breaks a limit.
    #[error("invalid {0}")]
    Field(&'static str),
}

impl NodeRecord {
    /// Signs the record. Fails if it breaks a limit or belongs to another node.
    pub fn sign(&self, key: &NodeKey) -> Result<SignedRecord, RecordError> {
        self.check()?;
        if self.node != key.node_id() {
            return Err(RecordError::WrongSigner { node: self.node, signer: key.node_id() });
        }
        let body = encode_control(self).to_vec();
        if body.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(body.len()));
        }
        let signature = key.sign(SIGNATURE_DOMAIN, &body);
        Ok(SignedRecord { body, signer: self.node, signature })
    }

    /// When the lease ends, seconds since the Unix epoch.
    pub fn expires_unix_s(&self) -> u64 {
        self.issued_unix_s.saturating_add(u64::from(self.lease_s))
    }

    fn check(&self) -> Result<(), RecordError> {
        let field = |name| Err(RecordError::Field(name));
        if self.addresses.len() > MAX_ADDRESSES || (self.addresses.is_empty() && !self.withdrawn) {
            return field("addresses");
        }
        if self.addresses.iter().any(|addr| addr.port() == 0 || !is_of_one_machine(addr.ip())) {
            return field("addresses");
        }
        if self.lease_s == 0 || self.lease_s > MAX_LEASE_S {
            return field("lease_s");
        }
        if self.version.len() > MAX_VERSION_BYTES || self.version.chars().any(char::is_control) {
            return field("version");
        }
        if let Some(offer) = &self.offer {
            let name = &offer.model_name;
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
                return field("model_name");
            }
            if offer.span.within(offer.n_layers).is_err() {
                return field("span");
            }
        }
        Ok(())
    }
}

/// Whether an address can be one node's; one that many machines hear would turn each dial into a flood.
fn is_of_one_machine(ip: IpAddr) -> bool {
    // An IPv4 address in IPv6's clothes is judged as what it is.
    let ip = ip.to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

impl SignedRecord {
    /// Checks size, signature, signer, limits and lease at `now_unix_s`.
    pub fn verify(self, now_unix_s: u64) -> Result<VerifiedRecord, RecordError> {
        if self.body.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(self.body.len()));
        }
        let record: NodeRecord =
            decode_control(&self.body).map_err(|error| RecordError::Malformed(error.to_string()))?;
        if record.node != self.signer {
            return Err(RecordError::WrongSigner { node: record.node, signer: self.signer });
        }
        record.check()?;
        if record.issued_unix_s > now_unix_s.saturating_add(MAX_CLOCK_SKEW_S) {
            return Err(RecordError::FromTheFuture(record.issued_unix_s - now_unix_s));
        }
        if record.expires_unix_s() < now_unix_s {
            return Err(RecordError::Expired(now_unix_s - record.expires_unix_s()));
        }
        if !key::verify(self.signer, SIGNATURE_DOMAIN, &self.body, &self.signature) {
            return Err(RecordError::BadSignature);
        }
        Ok(VerifiedRecord { record, signed: self })
    }

    /// The key that claims to have signed it; not checked.
    pub const fn claimed_signer(&self) -> NodeId {
        self.signer
    }

    /// Bytes of the record's body.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }
}

impl VerifiedRecord {
    /// The facts.
    pub const fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// The bytes to pass on.
    pub const fn signed(&self) -> &SignedRecord {
        &self.signed
    }

    /// Whose record it is.
    pub const fn node(&self) -> NodeId {
        self.record.node
    }
}

/// A point of the DHT's key space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct DhtKey([u8; 32]);

impl DhtKey {
    /// Takes 32 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Where a node stands: a hash of its id, so that a position costs a key pair and the handshake proves it.
    pub fn of_node(node: NodeId) -> Self {
        Self::derive("layerlane dht node 1", node.as_bytes())
    }

    /// Where the records of a model's shards stand.
    pub fn of_model(model: ModelId) -> Self {
        Self::derive("layerlane dht model 1", model.as_bytes())
    }

    /// Where the records of shards announced under a name stand.
    pub fn of_model_name(name: &str) -> Self {
        Self::derive("layerlane dht model name 1", name.as_bytes())
    }

    /// Where every node with a shard may announce itself, for listings.
    pub fn of_all_models() -> Self {
        Self::derive("layerlane dht models 1", b"")
    }

    /// The keys a record with this offer is published under.
    pub fn of_offer(node: NodeId, offer: Option<&ShardOffer>) -> Vec<Self> {
        let mut keys = vec![Self::of_node(node)];
        if let Some(offer) = offer {
            keys.extend([
                Self::of_model(offer.model),
                Self::of_model_name(&offer.model_name),
                Self::of_all_models(),
            ]);
        }
        keys
    }

    /// XOR distance (Maymounkov and Mazieres 2002).
    pub fn distance(&self, other: &Self) -> [u8; 32] {
        std::array::from_fn(|index| self.0[index] ^ other.0[index])
    }

    fn derive(context: &str, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(context, bytes))
    }
}

impl std::fmt::Debug for DhtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DhtKey({})", hex::encode(&self.0[..4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &NodeKey) -> NodeRecord {
        NodeRecord {
            node: key.node_id(),
            addresses: vec!["127.0.0.1:7401".parse().unwrap()],
            offer: Some(ShardOffer {
                model: ModelId::from_bytes([3; 32]),
                model_name: "toy".into(),
                n_layers: 30,
                span: LayerSpan::new(0, 10).unwrap(),
                class: NumericsClass::Bf16,
                kv_capacity: 4096,
            }),
            version: "0.1.0".into(),
            sequence: 1,
            issued_unix_s: 1_000,
            lease_s: 900,
            withdrawn: false,
        }
    }

    #[test]
    fn a_signed_record_verifies_within_its_lease_only() {
        let key = NodeKey::from_seed(&[1; 32]);
        let signed = record(&key).sign(&key).unwrap();
        assert_eq!(signed.clone().verify(1_000).unwrap().record(), &record(&key));
        assert!(signed.clone().verify(1_900).is_ok());
        assert_eq!(signed.clone().verify(1_901), Err(RecordError::Expired(1)));
        assert_eq!(signed.clone().verify(879), Err(RecordError::FromTheFuture(121)));
        assert!(signed.verify(880).is_ok());
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let key = NodeKey::from_seed(&[1; 32]);
        let signed = record(&key).sign(&key).unwrap();
        for index in 0..signed.body.len() {
            let mut changed = signed.clone();
            changed.body[index] ^= 1;
            assert!(changed.verify(1_000).is_err(), "{index}");
        }
        let mut changed = signed;
        changed.signature[5] ^= 1;
        assert_eq!(changed.verify(1_000), Err(RecordError::BadSignature));
    }

    #[test]
    fn addresses_of_many_machines_are_refused() {
        let key = NodeKey::from_seed(&[1; 32]);
        for bad in [
            "224.0.0.1:7401",
            "255.255.255.255:7401",
            "0.0.0.0:7401",
            "[ff02::1]:7401",
            "[::ffff:239.1.2.3]:7401",
            "127.0.0.1:0",
        ] {
            let mut record = record(&key);
            record.addresses.push(bad.parse().unwrap());
            assert_eq!(record.sign(&key), Err(RecordError::Field("addresses")), "{bad}");
        }
    }

    #[test]
    fn a_record_of_another_node_is_refused() {
        let (a, b) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        assert!(matches!(record(&a).sign(&b), Err(RecordError::WrongSigner { .. })));
    }
}
