//! Numbered frame kinds and the fixed header in front of every body.
//!
//! ```text
//! 0      2      4            8
//! | kind | flags| body bytes | body ...
//! ```
//! All integers are little-endian; flags are zero in this version. A header is checked (kind known, flags zero, length
//! within the kind's limit) before a byte of the body is read or allocated.

use std::fmt;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, limit $limit:expr;)*) => {
        /// What a frame carries. Numbers are never reused; a removed kind keeps its number as a tombstone.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl FrameKind {
            /// Every kind of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Largest body in bytes.
            pub const fn max_body(self) -> usize {
                match self {
                    $(Self::$name => $limit,)*
                }
            }
        }
    };
}

/// Bodies of fixed, small content.
const SMALL: usize = 1 << 10;
/// Lists of records or contacts: 16 records of 1 KiB and their contacts. An open of 128 hops, and a receipt with the
/// leaves of 256 rows at both ends, take 17 KiB.
const PAGE: usize = 32 << 10;
/// A prompt of 131,072 tokens takes 512 KiB.
const PROMPT: usize = 1 << 20;
/// A prefill chunk is cut to about 2 MB so that decode frames are not stuck behind it; the limit leaves room for one
/// row-group table and for wide f32 models.
const CHUNK: usize = 16 << 20;
/// A blob is sent in pieces, so that a slow reader holds little.
const BLOB: usize = 256 << 10;

kinds! {
    // Sessions, router to node.
    /// Request: [`crate::session::Open`].
    Open = 0x0001, limit PROMPT;
    /// Reply: [`crate::session::Opened`].
    Opened = 0x0002, limit SMALL;
    /// Reply: [`crate::session::Refused`].
    Refused = 0x0003, limit SMALL;
    /// Control: [`crate::session::Tokens`].
    Tokens = 0x0004, limit PROMPT;
    /// Control: [`crate::session::Credit`].
    Credit = 0x0005, limit SMALL;
    /// Control: [`crate::session::Close`].
    Close = 0x0006, limit SMALL;
    /// Control: [`crate::session::Follow`].
    Follow = 0x0007, limit SMALL;
    /// Control: [`crate::attest::Attest`].
    Attest = 0x0008, limit PAGE;
    // Sessions, node to router or node to node.
    /// Tail return and its copy to the router: [`crate::session::Sampled`].
    Sampled = 0x0010, limit SMALL;
    /// Report: [`crate::session::Progress`].
    Progress = 0x0011, limit SMALL;
    /// Report: [`crate::session::Failed`].
    Failed = 0x0012, limit SMALL;
    /// Report: [`crate::session::Ended`].
    Ended = 0x0013, limit SMALL;
    /// Report: [`crate::attest::Acknowledged`].
    Acknowledged = 0x0014, limit SMALL;
    /// Report: [`crate::attest::Receipt`].
    Receipt = 0x0015, limit PAGE;
    /// Report: [`crate::attest::SentRows`].
    SentRows = 0x0016, limit PAGE;
    /// Hop: [`crate::activation::Activations`].
    Activations = 0x0020, limit CHUNK;
    // Blobs by hash.
    /// Request: [`crate::status::Fetch`].
    Fetch = 0x0030, limit SMALL;
    /// Reply: [`crate::status::BlobStart`], followed by `BlobPart` frames.
    BlobStart = 0x0031, limit SMALL;
    /// Raw bytes of a blob.
    BlobPart = 0x0032, limit BLOB;
    /// Reply: [`crate::status::NotFound`].
    NotFound = 0x0033, limit SMALL;
    /// Request: [`crate::status::StatusRequest`].
    StatusRequest = 0x0034, limit SMALL;
    /// Reply: [`crate::status::NodeStatus`].
    NodeStatus = 0x0035, limit SMALL;
    /// Request: [`crate::attest::KeysRequest`].
    KeysRequest = 0x0036, limit SMALL;
    /// Reply: [`crate::attest::Keys`].
    Keys = 0x0037, limit SMALL;
    /// Request: [`crate::audit::AuditRequest`].
    AuditRequest = 0x0038, limit SMALL;
    /// Reply: [`crate::audit::AuditBatch`].
    AuditBatch = 0x0039, limit BLOB;
    /// Request: [`crate::audit::Challenge`].
    Challenge = 0x003a, limit SMALL;
    /// Reply: [`crate::audit::Challenged`].
    Challenged = 0x003b, limit SMALL;
    /// Request: [`crate::audit::OpenRows`], answered like a `Fetch`.
    OpenRows = 0x003c, limit SMALL;
    // Discovery.
    /// Request: [`crate::discovery::Ping`].
    Ping = 0x0040, limit SMALL;
    /// Reply: [`crate::discovery::Pong`].
    Pong = 0x0041, limit SMALL;
    /// Request: [`crate::discovery::FindNode`].
    FindNode = 0x0042, limit SMALL;
    /// Reply: [`crate::discovery::Contacts`].
    Contacts = 0x0043, limit PAGE;
    /// Request: [`crate::discovery::FindValue`].
    FindValue = 0x0044, limit SMALL;
    /// Reply: [`crate::discovery::Values`].
    Values = 0x0045, limit PAGE;
    /// Request: [`crate::discovery::Store`].
    Store = 0x0046, limit 4 * SMALL;
    /// Reply: [`crate::discovery::Stored`].
    Stored = 0x0047, limit SMALL;
}

impl FrameKind {
    /// The kind's number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// The fixed header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    kind: FrameKind,
    body_bytes: u32,
}

/// Why a header is refused. The stream it came on can't be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No kind of this version has that number.
    #[error("unknown frame kind {0:#06x}")]
    UnknownKind(u16),
    /// Flags are reserved.
    #[error("frame flags {0:#06x} are not zero")]
    Flags(u16),
    /// Longer than the kind allows.
    #[error("a {kind:?} frame of {bytes} bytes is over its limit of {limit} bytes")]
    TooLong {
        /// The kind.
        kind: FrameKind,
        /// Bytes announced.
        bytes: u64,
        /// Bytes allowed.
        limit: usize,
    },
}

impl FrameHeader {
    /// Header of a body of `body_bytes` bytes.
    pub fn new(kind: FrameKind, body_bytes: usize) -> Result<Self, FrameError> {
        if body_bytes > kind.max_body() {
            return Err(FrameError::TooLong { kind, bytes: body_bytes as u64, limit: kind.max_body() });
        }
        Ok(Self { kind, body_bytes: body_bytes as u32 })
    }

    /// Checks 8 bytes from the network.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [k0, k1, f0, f1, l0, l1, l2, l3] = bytes;
        let number = u16::from_le_bytes([k0, k1]);
        let flags = u16::from_le_bytes([f0, f1]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = FrameKind::from_number(number).ok_or(FrameError::UnknownKind(number))?;
        if flags != 0 {
            return Err(FrameError::Flags(flags));
        }
        Self::new(kind, length as usize)
    }

    /// The 8 bytes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [k0, k1] = self.kind.number().to_le_bytes();
        let [l0, l1, l2, l3] = self.body_bytes.to_le_bytes();
        [k0, k1, 0, 0, l0, l1, l2, l3]
    }

    /// What the frame carries.
    pub const fn kind(self) -> FrameKind {
        self.kind
    }

    /// Bytes of the body.
    pub const fn body_bytes(self) -> usize {
        self.body_bytes as usize
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_numbers_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for &kind in FrameKind::ALL {
            assert!(seen.insert(kind.number()));
            let header = FrameHeader::new(kind, kind.max_body()).unwrap();
            assert_eq!(FrameHeader::parse(header.to_bytes()).unwrap(), header);
            assert!(FrameHeader::new(kind, kind.max_body() + 1).is_err());
        }
    }

    #[test]
    fn bad_headers_are_refused_by_name() {
        assert_eq!(FrameHeader::parse([0xff; 8]), Err(FrameError::UnknownKind(0xffff)));
        assert_eq!(FrameHeader::parse([1, 0, 1, 0, 0, 0, 0, 0]), Err(FrameError::Flags(1)));
        assert!(matches!(
            FrameHeader::parse([1, 0, 0, 0, 255, 255, 255, 255]),
            Err(FrameError::TooLong { kind: FrameKind::Open, .. })
        ));
    }
}
