//! Requests and replies as one type each, to and from frames. The bodies are `proto::discovery`'s.

use bytes::Bytes;
use proto::discovery::{Contacts, FindNode, FindValue, Ping, Pong, Store, Stored, Values};
use proto::{DecodeError, FrameKind, Message};

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident),* $(,)? } else $expected:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$case_doc])* $case($case),)*
        }

        impl $name {
            /// The frame that carries it.
            pub fn encode(&self) -> (FrameKind, Bytes) {
                match self {
                    $(Self::$case(body) => (FrameKind::$case, body.encode()),)*
                }
            }

            /// Reads a frame; every length is checked by `proto`.
            pub fn decode(kind: FrameKind, body: &Bytes) -> Result<Self, DecodeError> {
                match kind {
                    $(FrameKind::$case => $case::decode(body).map(Self::$case),)*
                    got => Err(DecodeError::Kind { expected: FrameKind::$expected, got }),
                }
            }
        }
    };
}

messages!(
    /// What a peer is asked.
    Request {
        /// Are you there?
        Ping,
        /// Whom do you know near this key?
        FindNode,
        /// Which records do you hold under this key?
        FindValue,
        /// Keep this record.
        Store,
    } else Ping
);

messages!(
    /// What it answers.
    Response {
        /// To a ping.
        Pong,
        /// To `FindNode`.
        Contacts,
        /// To `FindValue`.
        Values,
        /// To `Store`.
        Stored,
    } else Pong
);

impl Request {
    /// The port on which the sender says it can be dialled; `None` for a client.
    pub const fn listen_port(&self) -> Option<u16> {
        match self {
            Self::Ping(body) => body.listen_port,
            Self::FindNode(body) => body.listen_port,
            Self::FindValue(body) => body.listen_port,
            Self::Store(body) => body.listen_port,
        }
    }
}
