//! What can go wrong between two endpoints, one enum per operation, and why connections end. Owns the
//! translation from quinn's errors, which no other crate sees.

use std::{io, net::SocketAddr, time::Duration};

use proto::{
    DecodeError, FrameKind, NodeId, frame::FrameError, handshake::PROTOCOL_VERSION, status::CloseCode,
};

/// Why a dial failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Somebody else answers at that address.
    #[error("{addr} is node {found}, expected {expected}: correct the address or the id")]
    WrongNode {
        /// Where we dialled.
        addr: SocketAddr,
        /// Whom we wanted.
        expected: NodeId,
        /// Who claims to be there.
        found: NodeId,
    },
    /// The other side does not speak this protocol version (or class).
    #[error(
        "{addr} does not speak protocol version {PROTOCOL_VERSION}: bring both sides to the same version"
    )]
    VersionMismatch {
        /// Where we dialled.
        addr: SocketAddr,
    },
    /// Nobody answered in time: nothing there, or packets are lost or filtered.
    #[error("{addr} did not answer within {} ms: is a node running there, and does UDP reach it?", .waited.as_millis())]
    TimedOut {
        /// Where we dialled.
        addr: SocketAddr,
        /// For how long.
        waited: Duration,
    },
    /// The other side takes no connection now: overloaded, or shutting down, or a dial-only endpoint.
    #[error("{addr} takes no connections at the moment")]
    Refused {
        /// Where we dialled.
        addr: SocketAddr,
    },
    /// The TLS or QUIC handshake broke.
    #[error("the handshake with {addr} failed: {detail}")]
    Handshake {
        /// Where we dialled.
        addr: SocketAddr,
        /// The stack's words.
        detail: String,
    },
    /// An address that can't be dialled from this endpoint (port 0, or the other IP family).
    #[error("{addr} cannot be dialled from this endpoint")]
    BadAddress {
        /// What was given.
        addr: SocketAddr,
    },
    /// No address is known for the peer.
    #[error("no address is known for node {node}")]
    NoAddress {
        /// Whom we wanted.
        node: NodeId,
    },
    /// The table of connections is full of dials that have not ended yet.
    #[error("too many dials are under way")]
    TooManyDials,
    /// This endpoint is shut down.
    #[error("this endpoint is shut down")]
    Stopped,
}

impl ConnectError {
    /// Whether the same dial may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::Refused { .. } | Self::Handshake { .. } | Self::TooManyDials
        )
    }

    pub(crate) fn from_quinn(
        addr: SocketAddr,
        error: quinn::ConnectionError,
        expected: Option<NodeId>,
        found: Option<NodeId>,
        waited: Duration,
    ) -> Self {
        if let (Some(expected), Some(found)) = (expected, found)
            && expected != found
        {
            return Self::WrongNode { addr, expected, found };
        }
        match error {
            quinn::ConnectionError::VersionMismatch => Self::VersionMismatch { addr },
            quinn::ConnectionError::TimedOut => Self::TimedOut { addr, waited },
            quinn::ConnectionError::LocallyClosed => Self::Stopped,
            quinn::ConnectionError::ConnectionClosed(close) if close.error_code == no_alpn() => {
                Self::VersionMismatch { addr }
            }
            quinn::ConnectionError::TransportError(error) if error.code == no_alpn() => {
                Self::VersionMismatch { addr }
            }
            quinn::ConnectionError::ConnectionClosed(close)
                if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Refused { addr }
            }
            other => Self::Handshake { addr, detail: other.to_string() },
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The peer closed it.
    #[error("closed by the peer: {code}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    ByPeer {
        /// Why.
        code: CloseCode,
        /// In words, at most a packet long; from the peer, so not to be trusted.
        reason: String,
    },
    /// We closed it, or our last handle was dropped, or our endpoint shut down.
    #[error("closed by this side")]
    Locally,
    /// The peer fell silent: crashed, cut off, or frozen.
    #[error("the peer fell silent")]
    TimedOut,
    /// The peer has no memory of the connection: it restarted.
    #[error("the peer restarted")]
    Reset,
    /// One side broke QUIC itself.
    #[error("broken by the QUIC layer: {0}")]
    Broken(String),
}

impl From<quinn::ConnectionError> for Closed {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => Self::ByPeer {
                code: close_code(close.error_code),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            quinn::ConnectionError::LocallyClosed => Self::Locally,
            quinn::ConnectionError::TimedOut => Self::TimedOut,
            quinn::ConnectionError::Reset => Self::Reset,
            other => Self::Broken(other.to_string()),
        }
    }
}

/// Why a frame could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Connection(#[from] Closed),
    /// The peer does not want this stream any more.
    #[error("the peer stopped the stream: {0}")]
    Stopped(CloseCode),
    /// The stream was finished or reset by us.
    #[error("the stream is finished")]
    Finished,
    /// An earlier `send` was dropped inside a frame; the stream was reset.
    #[error("an earlier send was cancelled inside a frame")]
    Cancelled,
    /// Our own frame breaks the protocol's limits. Nothing was sent.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<quinn::WriteError> for SendError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped(close_code(code)),
            quinn::WriteError::ConnectionLost(error) => Self::Connection(error.into()),
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => Self::Finished,
        }
    }
}

/// Why no frame could be received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Connection(#[from] Closed),
    /// The peer gave the stream up.
    #[error("the peer reset the stream: {0}")]
    Reset(CloseCode),
    /// The peer broke the protocol. The connection was closed with [`CloseCode::Protocol`].
    #[error("the peer broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The stream ended inside a frame. The connection was closed with [`CloseCode::Protocol`].
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The peer has more large frames under way at once than we hold for one connection
    /// ([`crate::ClassTuning::frame_budget`]). The connection was closed with [`CloseCode::Overload`].
    #[error("the peer has too many large frames under way at once")]
    Overload,
    /// The stream was stopped by us.
    #[error("the stream is stopped")]
    Stopped,
}

impl From<quinn::ReadError> for RecvError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(close_code(code)),
            quinn::ReadError::ConnectionLost(error) => Self::Connection(error.into()),
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => Self::Stopped,
        }
    }
}

impl RecvError {
    /// quinn's `AsyncRead` wraps its own error.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<quinn::ReadError>())
            .map_or(Self::Stopped, |error| error.clone().into())
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// It could not be dialled.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It could not be sent.
    #[error("cannot send the request: {0}")]
    Send(#[from] SendError),
    /// The answer could not be received.
    #[error("cannot receive the answer: {0}")]
    Recv(#[from] RecvError),
    /// The peer ended the stream without an answer.
    #[error("the peer did not answer a {0} request")]
    NoAnswer(FrameKind),
    /// No answer in time. The stream was cancelled.
    #[error("no answer to a {kind} request within {} ms", .waited.as_millis())]
    TimedOut {
        /// What was asked.
        kind: FrameKind,
        /// For how long we waited.
        waited: Duration,
    },
    /// The answer does not parse, or is of another kind.
    #[error("bad answer: {0}")]
    Decode(#[from] DecodeError),
}

impl From<Closed> for RequestError {
    fn from(closed: Closed) -> Self {
        Self::Send(SendError::Connection(closed))
    }
}

/// The peer's number as a code; numbers beyond 16 bits are no code of ours.
pub(crate) fn close_code(number: quinn::VarInt) -> CloseCode {
    u16::try_from(number.into_inner()).map_or(CloseCode::Other, CloseCode::from_number)
}

/// A code as QUIC's number.
pub(crate) fn quic_code(code: CloseCode) -> quinn::VarInt {
    u32::from(code.number()).into()
}

/// TLS alert `no_application_protocol` as QUIC carries it (RFC 9001 4.8).
fn no_alpn() -> quinn::TransportErrorCode {
    quinn::TransportErrorCode::crypto(120)
}
