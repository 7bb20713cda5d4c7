//! What a serving router is told before its first socket, and the bounds of its HTTP side with their reasons.

use std::net::SocketAddr;
use std::time::Duration;

use router_plan::ModelRef;
use router_plan::admission::AdmissionLimits;

use super::Origin;
use crate::generate::DEFAULT_CREDIT;
use crate::keys::KeyFile;

/// A serving router's settings.
#[derive(Clone, PartialEq, Debug)]
pub struct ServeConfig {
    /// Where clients connect.
    pub listen: Listen,
    /// The admin endpoint.
    pub admin: Listen,
    /// Models to serve; empty for all that are found, up to [`MAX_MODELS`].
    pub models: Vec<ModelRef>,
    /// How far nodes may run ahead of a client.
    pub credit: u32,
    /// The bounds of each model's queue.
    pub admission: AdmissionLimits,
    /// How long a request waits for a place at most.
    pub queue_for: Duration,
    /// How long open answers may go on after [`Server::shutdown`](super::Server::shutdown) was called.
    pub drain: Duration,
    /// How often nodes are asked for their load.
    pub measure_every: Duration,
    /// The bounds of the HTTP side.
    pub http: HttpLimits,
    /// Web pages that may use the API.
    pub origins: Vec<Origin>,
    /// The keys that requests need, as soon as there are any; `None` for a router without.
    pub keys: Option<KeyFile>,
    /// Requests need one in any case: others than this machine may connect because there were some.
    pub keys_required: bool,
}

/// An address, and what to do when its port is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// This one or none: the user asked for it.
    Exactly(SocketAddr),
    /// This one, or the next free port: it was only a default.
    OrNextFree(SocketAddr),
}

impl Listen {
    /// The address asked for.
    pub const fn addr(self) -> SocketAddr {
        match self {
            Self::Exactly(addr) | Self::OrNextFree(addr) => addr,
        }
    }
}

/// The bounds of the HTTP side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpLimits {
    /// Connections at once. One more is answered with 503 and closed.
    pub connections: usize,
    /// Bytes of one request's body: the ids of a prompt that fills the longest context take 0.9 MB, its text less.
    pub body_bytes: usize,
    /// Bytes of all bodies that have come and whose prompts are not ids yet, beyond 16 KiB of each, so that many large
    /// ones can't fill the memory.
    pub bodies_bytes: usize,
    /// Bytes of a request's head, and of what is buffered of an answer.
    pub buffer_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// From a connection's beginning, or the end of the answer before, to the end of a request's head.
    pub head_within: Duration,
    /// From the head's end to the first byte of the body.
    pub body_begins_within: Duration,
    /// From the head's end to the body's end, however it comes.
    pub body_within: Duration,
    /// A client that takes nothing for this long is cut off: it holds KV on every stage.
    pub write_stall: Duration,
    /// Bytes that the system may buffer of an answer: beyond it a slow client is noticed.
    pub send_buffer: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            // As many sessions as a router drives, and as many again that wait or scrape.
            connections: 2 * crate::driver::MAX_SESSIONS,
            body_bytes: 4 << 20,
            bodies_bytes: 64 << 20,
            buffer_bytes: 16 << 10,
            headers: 64,
            head_within: Duration::from_secs(15),
            body_begins_within: Duration::from_secs(10),
            body_within: Duration::from_secs(30),
            write_stall: Duration::from_mins(1),
            send_buffer: 64 << 10,
        }
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: Listen::OrNextFree(([127, 0, 0, 1], API_PORT).into()),
            admin: Listen::OrNextFree(([127, 0, 0, 1], ADMIN_PORT).into()),
            models: Vec::new(),
            credit: DEFAULT_CREDIT,
            admission: AdmissionLimits::default(),
            queue_for: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            measure_every: Duration::from_secs(1),
            http: HttpLimits::default(),
            origins: Vec::new(),
            keys: None,
            keys_required: false,
        }
    }
}

/// The API's port.
pub const API_PORT: u16 = 7400;
/// The admin endpoint's port; 7402 is a node's.
pub const ADMIN_PORT: u16 = 7403;
/// Models served at once: a tokenizer with 256k entries takes some 100 MB.
pub const MAX_MODELS: usize = 16;
