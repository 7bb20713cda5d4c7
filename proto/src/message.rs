//! A message is the typed body of one frame kind.

use bytes::Bytes;

use crate::FrameKind;
use crate::codec;

/// Why the body of a frame could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame is of another kind than the one expected here.
    #[error("expected a {expected:?} frame, got {got:?}")]
    Kind {
        /// What the stream calls for.
        expected: FrameKind,
        /// What came.
        got: FrameKind,
    },
    /// The body does not parse.
    #[error("malformed body: {0}")]
    Body(String),
    /// Bytes are left over after the body.
    #[error("{left} bytes are left over after the body")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// A field breaks a rule of the protocol.
    #[error("invalid {field}: {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Which rule.
        why: String,
    },
}

impl DecodeError {
    pub(crate) fn field(field: &'static str, why: impl Into<String>) -> Self {
        Self::Field { field, why: why.into() }
    }
}

/// The typed body of one frame kind.
pub trait Message: Sized {
    /// The frame kind that carries it.
    const KIND: FrameKind;

    /// The body's bytes.
    fn encode(&self) -> Bytes;

    /// Parses and checks a body.
    fn decode(body: &Bytes) -> Result<Self, DecodeError>;

    /// Parses a body if the frame is of this kind.
    fn from_frame(kind: FrameKind, body: &Bytes) -> Result<Self, DecodeError> {
        if kind == Self::KIND {
            Self::decode(body)
        } else {
            Err(DecodeError::Kind { expected: Self::KIND, got: kind })
        }
    }
}

/// Implements [`Message`] by the control codec; the optional check runs after decoding.
macro_rules! control_message {
    ($type:ty, $kind:ident) => {
        control_message!($type, $kind, |_| Ok(()));
    };
    ($type:ty, $kind:ident, $check:expr) => {
        impl $crate::Message for $type {
            const KIND: $crate::FrameKind = $crate::FrameKind::$kind;

            fn encode(&self) -> ::bytes::Bytes {
                $crate::message::encode_control(self)
            }

            fn decode(body: &::bytes::Bytes) -> Result<Self, $crate::DecodeError> {
                let value: Self = $crate::message::decode_control(body)?;
                let check: fn(&Self) -> Result<(), $crate::DecodeError> = $check;
                check(&value)?;
                Ok(value)
            }
        }
    };
}
pub(crate) use control_message;

pub(crate) fn encode_control<T: bincode::Encode>(value: &T) -> Bytes {
    Bytes::from(codec::encode(value))
}

pub(crate) fn decode_control<T: bincode::Decode<()>>(body: &[u8]) -> Result<T, DecodeError> {
    codec::decode(body)
}
