//! What is logged: numbered kinds, one encoding for each entry.
//!
//! ```text
//! version 1 u16 | kind u16 | body                                   numbers are little-endian
//! 1 session root     session u64 | generation u32 | open 32 | evidence 32 | model 32 | ended u64          120 bytes
//! 2 verdict          the signed verdict, as it travels                                            up to 366 bytes
//! 3 model manifest   model 32 | manifest bytes u32 | listed u64 | name length u8 | name           up to 177 bytes
//! ```
//! A log is public. So an entry names things by their hashes and says no more of them: neither tokens nor how many there
//! were, nor who asked. Evidence, manifests and what a verdict is about are shown by whoever has them, and compared.

use proto::{ContentHash, Generation, ModelId, SessionId};
use proto_attest::Digest;
use proto_attest::verdict::{SignedVerdict, VerdictError};

/// Largest entry: over twice what the largest verdict takes. A full bundle has 257 KiB at most.
pub const MAX_ENTRY_BYTES: usize = 1024;

/// Longest name of a model.
pub const MAX_NAME_BYTES: usize = 128;

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum EntryKind {
    /// A session that ended, by its evidence.
    SessionRoot = 1,
    /// An auditor's verdict.
    Verdict = 2,
    /// A model that the router serves, under its name.
    ModelManifest = 3,
}

/// An entry.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry {
    /// Kind 1.
    SessionRoot(SessionRoot),
    /// Kind 2.
    Verdict(Box<SignedVerdict>),
    /// Kind 3.
    ModelManifest(ModelManifest),
}

/// A session that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRoot {
    /// The session.
    pub session: SessionId,
    /// Its last generation.
    pub generation: Generation,
    /// Digest of the open of that generation, which chains to those before.
    pub open: Digest,
    /// BLAKE3 of the sealed evidence (`proto_attest::bundle`), which holds every receipt.
    pub evidence: ContentHash,
    /// The weights.
    pub model: ModelId,
    /// When it ended, seconds since the Unix epoch.
    pub ended_unix_s: u64,
}

/// A model under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelManifest {
    /// Hash of the manifest.
    pub model: ModelId,
    /// Length of the manifest.
    pub manifest_bytes: u32,
    /// Since when it is served, seconds since the Unix epoch.
    pub listed_unix_s: u64,
    /// Under which name: 1 to [`MAX_NAME_BYTES`] bytes without control characters.
    pub name: String,
}

/// Why bytes are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Over [`MAX_ENTRY_BYTES`].
    #[error("entry of {0} bytes, at most {MAX_ENTRY_BYTES} are allowed")]
    TooLong(usize),
    /// They end too early.
    #[error("entry cut short in {0}")]
    CutShort(&'static str),
    /// They go on after the end.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// Of a later version, which may be fine.
    #[error("entry of version {0}, known is {VERSION}")]
    Version(u16),
    /// Of a later kind, which may be fine.
    #[error("entry of unknown kind {0}")]
    Kind(u16),
    /// A field holds what no writer writes.
    #[error("invalid {0}")]
    Field(&'static str),
    /// The verdict in it.
    #[error(transparent)]
    Verdict(#[from] VerdictError),
}

impl EntryKind {
    /// All, in order of number.
    pub const ALL: [Self; 3] = [Self::SessionRoot, Self::Verdict, Self::ModelManifest];

    /// The kind with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u16 == number)
    }
}

impl Entry {
    /// What it is about.
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::SessionRoot(_) => EntryKind::SessionRoot,
            Self::Verdict(_) => EntryKind::Verdict,
            Self::ModelManifest(_) => EntryKind::ModelManifest,
        }
    }

    /// The bytes that are logged. Fails if a field breaks a limit: what can't be read is not written.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.kind() as u16).to_le_bytes());
        match self {
            Self::SessionRoot(root) => {
                bytes.extend(root.session.get().to_le_bytes());
                bytes.extend(root.generation.get().to_le_bytes());
                bytes.extend(root.open.as_bytes());
                bytes.extend(root.evidence.as_bytes());
                bytes.extend(root.model.as_bytes());
                bytes.extend(root.ended_unix_s.to_le_bytes());
            }
            Self::Verdict(verdict) => bytes.extend(verdict.encode()),
            Self::ModelManifest(manifest) => {
                bytes.extend(manifest.model.as_bytes());
                bytes.extend(manifest.manifest_bytes.to_le_bytes());
                bytes.extend(manifest.listed_unix_s.to_le_bytes());
                let length = u8::try_from(manifest.name.len()).map_err(|_| EntryError::Field("name"))?;
                bytes.push(length);
                bytes.extend(manifest.name.as_bytes());
            }
        }
        Self::decode(&bytes)?;
        Ok(bytes)
    }

    /// Reads an entry. Signatures in it are not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(EntryError::TooLong(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let version = reader.u16("version")?;
        if version != VERSION {
            return Err(EntryError::Version(version));
        }
        let number = reader.u16("kind")?;
        let entry = match EntryKind::from_number(number).ok_or(EntryError::Kind(number))? {
            EntryKind::SessionRoot => Self::SessionRoot(SessionRoot {
                session: SessionId::new(reader.u64("session")?),
                generation: Generation::new(reader.u32("generation")?),
                open: Digest::from_bytes(reader.array("open")?),
                evidence: ContentHash::from_bytes(reader.array("evidence")?),
                model: ModelId::from_bytes(reader.array("model")?),
                ended_unix_s: reader.u64("ended")?,
            }),
            EntryKind::Verdict => Self::read_verdict(reader.rest())?,
            EntryKind::ModelManifest => Self::ModelManifest(ModelManifest {
                model: ModelId::from_bytes(reader.array("model")?),
                manifest_bytes: reader.u32("manifest bytes")?,
                listed_unix_s: reader.u64("listed")?,
                name: reader.name()?,
            }),
        };
        if reader.0.is_empty() { Ok(entry) } else { Err(EntryError::LeftOver(reader.0.len())) }
    }

    fn read_verdict(bytes: &[u8]) -> Result<Self, EntryError> {
        let verdict = SignedVerdict::decode(bytes)?;
        // One encoding only, whatever the verdict's own reader lets pass.
        if verdict.encode() != bytes {
            return Err(EntryError::Field("verdict"));
        }
        Ok(Self::Verdict(Box::new(verdict)))
    }
}

impl EntryError {
    /// Whether a later version of this program may well read it: it is counted, and no reason to call a log broken.
    pub const fn is_unknown(self) -> bool {
        matches!(self, Self::Version(_) | Self::Kind(_))
    }
}

/// Takes values from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], EntryError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(EntryError::CutShort(what))?;
        self.0 = rest;
        Ok(*array)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, EntryError> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, EntryError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, EntryError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn name(&mut self) -> Result<String, EntryError> {
        let [length] = self.array("name")?;
        let (name, rest) = self.0.split_at_checked(length.into()).ok_or(EntryError::CutShort("name"))?;
        let name = str::from_utf8(name).map_err(|_| EntryError::Field("name"))?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(EntryError::Field("name"));
        }
        self.0 = rest;
        Ok(name.to_owned())
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

const VERSION: u16 = 1;

#[cfg(test)]
mod tests;
