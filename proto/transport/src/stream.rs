//! Frames on QUIC streams: an 8-byte header, then the body. Owns the order of header checks and the
//! reassembly; what a body means is `proto`'s.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::{
    DecodeError, FrameHeader, FrameKind, Message,
    frame::{FrameError, HEADER_BYTES},
    status::CloseCode,
};
use tokio::io::AsyncReadExt;

use crate::{
    budget::Share,
    connection::Shared,
    error::{Closed, RecvError, SendError, quic_code},
};

/// One frame as received: the header was checked, the body was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// What the body is.
    pub kind: FrameKind,
    /// At most the kind's limit, in an allocation of its own (so its start is aligned for any number type).
    pub body: Bytes,
}

impl RawFrame {
    /// The typed message, if the frame is of its kind and the body parses.
    pub fn decode<M: Message>(&self) -> Result<M, DecodeError> {
        M::from_frame(self.kind, &self.body)
    }
}

/// Which stream of one connection goes first when both have something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamPriority {
    /// After everything else: blobs.
    Low,
    /// What streams have if nobody says otherwise.
    Normal,
    /// Before everything else: decode activations, sampled tokens, credit.
    High,
}

/// The sending half of a stream. Dropping it ends the stream cleanly after the last whole frame; after a `send`
/// that was cancelled inside a frame it resets the stream.
#[derive(Debug)]
pub struct FrameSender {
    stream: quinn::SendStream,
    shared: Arc<Shared>,
    /// A `send` is under way, or was dropped half-way.
    inside_frame: bool,
}

impl FrameSender {
    pub(crate) fn new(stream: quinn::SendStream, shared: Arc<Shared>) -> Self {
        Self { stream, shared, inside_frame: false }
    }

    /// Sends one frame. Returns when QUIC has taken all bytes into its send window, not when the peer has them:
    /// waiting here is flow control.
    ///
    /// # Cancel safety
    /// Not cancel-safe: dropped inside a frame, the stream is of no use; the next `send` says so
    /// ([`SendError::Cancelled`]) and resets it, as does dropping the sender.
    pub async fn send(&mut self, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        self.send_chunks(kind, &mut [body]).await
    }

    /// Like [`send`](Self::send), with the body in several pieces that need not be copied together. The pieces
    /// are taken (left empty).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_chunks(&mut self, kind: FrameKind, body: &mut [Bytes]) -> Result<(), SendError> {
        if self.inside_frame {
            self.reset(CloseCode::Cancelled);
            return Err(SendError::Cancelled);
        }
        let length = body.iter().map(Bytes::len).sum();
        let header = Bytes::copy_from_slice(&FrameHeader::new(kind, length)?.to_bytes());
        let mut chunks = Vec::with_capacity(1 + body.len());
        chunks.push(header);
        chunks.extend(body.iter_mut().map(std::mem::take).filter(|piece| !piece.is_empty()));
        self.inside_frame = true;
        // Header and body in one call: one lock, one wake-up, usually one packet.
        self.stream.write_all_chunks(&mut chunks).await?;
        self.inside_frame = false;
        self.shared.counters().sent(HEADER_BYTES + length);
        Ok(())
    }

    /// Sends a typed message.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_message<M: Message>(&mut self, message: &M) -> Result<(), SendError> {
        self.send(M::KIND, message.encode()).await
    }

    /// Sends bytes without a header, to see how a receiver takes what no sender of ours sends.
    ///
    /// # Cancel safety
    /// Not cancel-safe.
    #[cfg(feature = "testing")]
    pub async fn send_unframed(&mut self, bytes: Bytes) -> Result<(), SendError> {
        Ok(self.stream.write_all_chunks(&mut [bytes]).await?)
    }

    /// Whose frames go first on this connection.
    pub fn set_priority(&self, priority: StreamPriority) {
        // Fails only on a stream that is closed already, where it means nothing.
        let _ = self.stream.set_priority(match priority {
            StreamPriority::Low => -1,
            StreamPriority::Normal => 0,
            StreamPriority::High => 1,
        });
    }

    /// Says that no frame will follow. What was sent still arrives.
    pub fn finish(&mut self) {
        if self.inside_frame {
            return self.reset(CloseCode::Cancelled);
        }
        // Fails only if finished or reset before.
        let _ = self.stream.finish();
    }

    /// Gives the stream up: what the peer has not received yet may never arrive.
    pub fn reset(&mut self, code: CloseCode) {
        // Fails only if finished or reset before.
        let _ = self.stream.reset(quic_code(code));
    }

    /// Waits until the peer stops the stream (`Some`), or has acknowledged all of a finished stream (`None`).
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn stopped(&self) -> Result<Option<CloseCode>, Closed> {
        match self.stream.stopped().await {
            Ok(code) => Ok(code.map(crate::error::close_code)),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
            Err(quinn::StoppedError::ZeroRttRejected) => Ok(None),
        }
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        if self.inside_frame {
            self.reset(CloseCode::Cancelled);
        }
    }
}

/// The receiving half of a stream. Dropping it tells the peer to stop sending.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: quinn::RecvStream,
    shared: Arc<Shared>,
    state: Receiving,
    ended: bool,
}

/// Where in a frame the receiver stands; survives a dropped `recv`.
#[derive(Debug)]
enum Receiving {
    /// So many bytes of the header are there.
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    /// The header was good, and a large body has its share of the budget; the body is being filled.
    Body { header: FrameHeader, body: BytesMut, share: Option<Share> },
}

impl FrameReceiver {
    pub(crate) fn new(stream: quinn::RecvStream, shared: Arc<Shared>) -> Self {
        Self { stream, shared, state: Receiving::START, ended: false }
    }

    /// The next frame; `None` after the peer finished the stream. A header is checked (kind, flags, length)
    /// before any memory is taken for its body; a bad one closes the **connection** with
    /// [`CloseCode::Protocol`], since a peer that sends one can't be trusted with the others either. Bodies over
    /// 256 KiB count towards the connection's [`crate::ClassTuning::frame_budget`] from their header until their
    /// last piece is dropped: drop them, or nothing large follows.
    ///
    /// # Cancel safety
    /// Cancel-safe: a frame received in part is kept for the next call.
    pub async fn recv(&mut self) -> Result<Option<RawFrame>, RecvError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            match &mut self.state {
                Receiving::Header { bytes, have } => {
                    if *have < HEADER_BYTES {
                        let read = self.stream.read(&mut bytes[*have..]).await.map_err(RecvError::from)?;
                        match read {
                            Some(count) => *have += count,
                            None if *have == 0 => {
                                self.ended = true;
                                return Ok(None);
                            }
                            None => return Err(self.truncated()),
                        }
                        continue;
                    }
                    let header = FrameHeader::parse(*bytes).map_err(|error| self.violation(error))?;
                    // Dropped while it waits, the next call finds the header whole and asks again.
                    let share = self.shared.share(header.body_bytes()).await?;
                    // At most the kind's limit. Pages are only touched as bytes arrive, so a peer that announces
                    // much and sends little costs address space, not memory.
                    let body = BytesMut::with_capacity(header.body_bytes());
                    self.state = Receiving::Body { header, body, share };
                }
                Receiving::Body { header, body, share } => {
                    let missing = header.body_bytes() - body.len();
                    if missing == 0 {
                        let whole = std::mem::take(body);
                        let body = match share.take() {
                            Some(share) => share.hand_over(whole),
                            None => whole.freeze(),
                        };
                        let frame = RawFrame { kind: header.kind(), body };
                        self.state = Receiving::START;
                        self.shared.counters().received(HEADER_BYTES + frame.body.len());
                        return Ok(Some(frame));
                    }
                    // One copy, straight from QUIC's reassembly into the body.
                    let mut rest = (&mut self.stream).take(missing as u64);
                    let read = rest.read_buf(body).await.map_err(|error| RecvError::from_io(&error))?;
                    if read == 0 {
                        return Err(self.truncated());
                    }
                }
            }
        }
    }

    /// The next frame as a typed message; `None` after the peer finished the stream. A body that does not parse
    /// is the caller's to judge: the stream stays readable.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn recv_message<M: Message>(&mut self) -> Result<Option<Result<M, DecodeError>>, RecvError> {
        Ok(self.recv().await?.map(|frame| frame.decode()))
    }

    /// Tells the peer that nothing more will be read.
    pub fn stop(&mut self, code: CloseCode) {
        // Fails only if the stream has ended already.
        let _ = self.stream.stop(quic_code(code));
    }

    fn violation(&self, error: FrameError) -> RecvError {
        self.shared.close(CloseCode::Protocol, &error.to_string());
        RecvError::Frame(error)
    }

    fn truncated(&self) -> RecvError {
        self.shared.close(CloseCode::Protocol, "a stream ended inside a frame");
        RecvError::Truncated
    }
}

impl Receiving {
    const START: Self = Self::Header { bytes: [0; HEADER_BYTES], have: 0 };
}
