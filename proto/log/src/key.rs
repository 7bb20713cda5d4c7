//! Keys of notes: their names, the ids that stand in signature lines, and the text in which a key is handed on.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto::NodeId;
use proto::key::{self, NodeKey, SIGNATURE_BYTES};
use sha2::{Digest as _, Sha256};

/// The name of a key, and of a log: 1 to [`MAX_BYTES`](Self::MAX_BYTES) bytes without spaces, control characters and `+`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyName(String);

/// How a key signs (C2SP `signed-note`, signature types).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum SignatureKind {
    /// Ed25519 over the note's text: what a log signs with.
    Ed25519 = 1,
    /// Ed25519 over a time and the note's text: what a witness signs with (C2SP `tlog-cosignature`, v1).
    Cosignature = 4,
}

/// A public key with its name and the way in which it signs. As text: `<name>+<key id>+<base64(kind || key)>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VerifierKey {
    name: KeyName,
    kind: SignatureKind,
    key: NodeId,
}

/// Why a text is no name or no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No name.
    #[error("a name is 1 to {} bytes without spaces, control characters and +", KeyName::MAX_BYTES)]
    Name,
    /// Not three parts.
    #[error("a key is `<name>+<key id>+<base64>`")]
    Form,
    /// Not one of [`SignatureKind`].
    #[error("unknown kind of key")]
    Kind,
    /// The id is another than name, kind and key give.
    #[error("the key has another id")]
    Id,
}

impl KeyName {
    /// Longest name; that of a node's log has 78 bytes.
    pub const MAX_BYTES: usize = 255;

    /// The origin of a router's log, and the name of the key that signs it.
    pub fn of_log(router: NodeId) -> Self {
        Self(format!("layerlane.log/{}", router.to_hex()))
    }

    /// The name under which a node cosigns.
    pub fn of_witness(node: NodeId) -> Self {
        Self(format!("layerlane.witness/{}", node.to_hex()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VerifierKey {
    /// A key.
    pub const fn new(name: KeyName, kind: SignatureKind, key: NodeId) -> Self {
        Self { name, kind, key }
    }

    /// The key of a router's log: the router's own.
    pub fn of_log(router: NodeId) -> Self {
        Self::new(KeyName::of_log(router), SignatureKind::Ed25519, router)
    }

    /// The key with which a node cosigns: its own.
    pub fn of_witness(node: NodeId) -> Self {
        Self::new(KeyName::of_witness(node), SignatureKind::Cosignature, node)
    }

    /// Its name.
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// How it signs.
    pub const fn kind(&self) -> SignatureKind {
        self.kind
    }

    /// The ed25519 key.
    pub const fn key(&self) -> NodeId {
        self.key
    }

    /// The id in its signature lines: short, so no more than a hint at the key.
    pub fn id(&self) -> [u8; 4] {
        let mut hasher = Sha256::new_with_prefix(self.name.as_str());
        hasher.update([b'\n', self.kind as u8]);
        hasher.update(self.key.as_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether `signature`, without its key id, is this key's over a note's text. `Some` holds the time in it, seconds
    /// since the Unix epoch; 0 if this kind has none.
    pub fn check(&self, text: &str, signature: &[u8]) -> Option<u64> {
        match self.kind {
            SignatureKind::Ed25519 => {
                let signature: &[u8; SIGNATURE_BYTES] = signature.try_into().ok()?;
                key::verify(self.key, b"", text.as_bytes(), signature).then_some(0)
            }
            SignatureKind::Cosignature => {
                let (time, signature) = signature.split_first_chunk()?;
                let (time, signature) = (u64::from_be_bytes(*time), signature.try_into().ok()?);
                let known = time <= MAX_TIME;
                (known && key::verify(self.key, &cosigned(time), text.as_bytes(), signature)).then_some(time)
            }
        }
    }

    /// Signs a note's text with the secret of this key; what goes behind the key id. `now_unix_s` is for cosignatures.
    /// `None` if the secret is another key's or the time is over 2^63 - 1.
    pub(crate) fn sign(&self, secret: &NodeKey, text: &str, now_unix_s: u64) -> Option<Vec<u8>> {
        if secret.node_id() != self.key || now_unix_s > MAX_TIME {
            return None;
        }
        Some(match self.kind {
            SignatureKind::Ed25519 => secret.sign(b"", text.as_bytes()).to_vec(),
            SignatureKind::Cosignature => {
                let signature = secret.sign(&cosigned(now_unix_s), text.as_bytes());
                [&now_unix_s.to_be_bytes()[..], &signature].concat()
            }
        })
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = |sign: char| sign.is_whitespace() || sign.is_control() || sign == '+';
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(bad) {
            return Err(KeyError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64.encode([&[self.kind as u8][..], self.key.as_bytes()].concat());
        write!(f, "{}+{:08x}+{key}", self.name, u32::from_be_bytes(self.id()))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // Base64 has a + of its own: only the first two part the text.
        let mut parts = text.splitn(3, '+');
        let mut part = || parts.next().ok_or(KeyError::Form);
        let (name, id, key) = (part()?.parse()?, part()?, part()?);
        if key.len() > 64 {
            return Err(KeyError::Form);
        }
        let bytes = BASE64.decode(key).map_err(|_| KeyError::Form)?;
        let (kind, key) = bytes.split_first().ok_or(KeyError::Form)?;
        let kind = match kind {
            1 => SignatureKind::Ed25519,
            4 => SignatureKind::Cosignature,
            _ => return Err(KeyError::Kind),
        };
        let key = NodeId::from_bytes(key.try_into().map_err(|_| KeyError::Form)?);
        let key = Self::new(name, kind, key);
        if id == format!("{:08x}", u32::from_be_bytes(key.id())) { Ok(key) } else { Err(KeyError::Id) }
    }
}

/// What stands before the note's text where a witness signs. It keeps cosignatures apart from what logs sign.
fn cosigned(time: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n").into_bytes()
}

/// Latest time: C2SP `tlog-cosignature` wants at most 2^63 - 1.
const MAX_TIME: u64 = i64::MAX as u64;
