//! Refusals, close codes, blobs by hash and a node's load.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::message::control_message;
use crate::{Added, ContentHash, DecodeError};

/// Longest explanation that travels.
pub const MAX_DETAIL: usize = 512;
/// Largest blob: tokenizers with 256k entries take about 35 MB of JSON.
pub const MAX_BLOB: u64 = 64 << 20;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum $name {
            $($(#[$case_doc])* $case = $number,)*
        }

        impl $name {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[$(Self::$case,)*];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number; unknown numbers, from newer peers, become `Other`.
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$case,)*
                    _ => Self::Other,
                }
            }

            /// What it says.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$case => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }

        impl Encode for $name {
            fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
                self.number().encode(encoder)
            }
        }

        impl<C> Decode<C> for $name {
            fn decode<D: bincode::de::Decoder<Context = C>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
                u16::decode(decoder).map(Self::from_number)
            }
        }

        bincode::impl_borrow_decode!($name);
    };
}

codes!(
    /// Why a session may not start.
    RefusalCode {
        /// A reason that this version does not know.
        Other = 0, "refused";
        /// Not the model this node serves.
        WrongModel = 1, "this node serves another model";
        /// The span of the plan is not the span loaded.
        WrongSpan = 2, "this node does not hold these layers";
        /// Another numerics class.
        WrongClass = 3, "this node computes in another numerics class";
        /// No room for the session's KV.
        NoCapacity = 4, "no room for another session";
        /// Longer than the model's context.
        TooLong = 5, "longer than the model's context";
        /// The plan does not hold together.
        BadPlan = 6, "the plan does not hold together";
        /// The next stage can't be reached.
        HopUnreachable = 7, "the next stage can't be reached";
        /// Leaving.
        Draining = 8, "this node is draining";
        /// A newer generation is open or the session was closed.
        Stale = 9, "a newer generation of this session is known";
        /// A sampling parameter is out of range.
        BadSampling = 10, "a sampling parameter is out of range";
        /// Still loading.
        NotReady = 11, "the shard is still loading";
        /// The answer's grammar can't be followed.
        BadGrammar = 12, "the answer's grammar can't be followed";
    }
);

codes!(
    /// Why a session, a stream or a connection ends.
    CloseCode {
        /// A reason that this version does not know.
        Other = 0, "closed";
        /// All is done.
        Finished = 1, "finished";
        /// The client or the router gave up.
        Cancelled = 2, "cancelled";
        /// The lease ran out.
        LeaseExpired = 3, "the lease ran out";
        /// The router's connection is gone.
        RouterLost = 4, "the router's connection is gone";
        /// A neighbour's connection is gone.
        HopLost = 5, "a neighbour's connection is gone";
        /// The peer broke the protocol.
        Protocol = 6, "the peer broke the protocol";
        /// The stage could not compute a step.
        Compute = 7, "the stage could not compute a step";
        /// The process is shutting down.
        ShuttingDown = 8, "shutting down";
        /// A newer generation took over.
        Superseded = 9, "a newer generation took over";
        /// Too many connections, streams or sessions.
        Overload = 10, "overloaded";
        /// The time that the router gave it is over.
        Deadline = 11, "the deadline passed";
        /// A step of the answer's grammar exceeded the tail's limits.
        Grammar = 12, "the answer's grammar takes too much work";
    }
);

/// A refusal with its explanation.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
#[error("{code}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// Machine-readable reason.
    pub code: RefusalCode,
    /// For people; at most [`MAX_DETAIL`] bytes.
    pub detail: String,
    /// When it may be worth asking again, milliseconds; 0 where the node does not know or it is of no use.
    pub retry_after_ms: Added<u32>,
}

impl Refusal {
    /// A refusal; the detail is cut to [`MAX_DETAIL`] bytes.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self { code, detail: cut(detail.into()), retry_after_ms: Added(0) }
    }

    /// With a hint when to ask again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after_ms = Added(u32::try_from(after.as_millis()).unwrap_or(u32::MAX));
        self
    }
}

/// Makes a text fit to travel and to be printed: control characters, which could rewrite a terminal, become spaces,
/// and it ends at [`MAX_DETAIL`] bytes, at a character boundary.
pub fn cut(text: String) -> String {
    let mut text = if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text };
    if text.len() > MAX_DETAIL {
        text.truncate(text.floor_char_boundary(MAX_DETAIL));
    }
    text
}

/// Refuses a detail from a peer that [`cut`] would not have let through.
pub(crate) fn check_detail(detail: &str) -> Result<(), DecodeError> {
    if detail.len() > MAX_DETAIL {
        return Err(DecodeError::field("detail", "too long"));
    }
    if detail.contains(char::is_control) {
        return Err(DecodeError::field("detail", "holds control characters"));
    }
    Ok(())
}

/// Asks for the bytes with this hash (a manifest by its `ModelId`, a tokenizer).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Fetch {
    /// BLAKE3 of the bytes.
    pub hash: ContentHash,
}
control_message!(Fetch, Fetch);

/// Announces a blob; `BlobPart` frames with exactly `bytes` raw bytes follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct BlobStart {
    /// Length, at most [`MAX_BLOB`].
    pub bytes: u64,
}
control_message!(BlobStart, BlobStart, |start: &BlobStart| if start.bytes <= MAX_BLOB {
    Ok(())
} else {
    Err(DecodeError::field("bytes", format!("{} is over {MAX_BLOB}", start.bytes)))
});

/// The peer does not hold what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NotFound;
control_message!(NotFound, NotFound);

/// Asks a node for its load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StatusRequest;
control_message!(StatusRequest, StatusRequest);

/// A node's load at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeStatus {
    /// Sessions open.
    pub sessions: u32,
    /// Positions reserved for them.
    pub kv_reserved: u64,
    /// Positions that may be reserved in all.
    pub kv_capacity: u64,
    /// Median time of recent decode steps, microseconds; 0 if none ran.
    pub step_us: u32,
    /// Refuses new sessions because it is leaving.
    pub draining: bool,
}
control_message!(NodeStatus, NodeStatus);
