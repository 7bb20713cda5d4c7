//! What goes into the core and what comes out of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::discovery::Contact;
use proto::record::{DhtKey, SignedRecord, VerifiedRecord};

use super::message::{Request, Response};
use crate::directory::{LookupError, PublishError, Published};

/// Names a request sent by the core until its outcome is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RpcId(pub(crate) u64);

/// Names an operation; chosen by whoever starts it, unique among those under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// Who asks us: identity by handshake, address as seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Proven by the handshake.
    pub node: NodeId,
    /// Where its packets come from.
    pub addr: SocketAddr,
}

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A peer asks. Answered in the same call by [`Action::Reply`] or [`Action::Ignore`].
    Request {
        /// Who.
        peer: Peer,
        /// What.
        request: Request,
    },
    /// The peer answered [`Action::Send`].
    Answered {
        /// Which request.
        rpc: RpcId,
        /// What it said.
        response: Response,
    },
    /// [`Action::Send`] failed: not reachable, wrong identity, timed out, or nonsense came back.
    Failed {
        /// Which request.
        rpc: RpcId,
    },
    /// A bootstrap peer was dialled and proved its id: it enters the table, and the first one starts the join.
    Joined {
        /// Who and where.
        contact: Contact,
    },
    /// Contacts of an earlier run: pinged, and those that answer enter the table.
    Remembered {
        /// Who and where.
        contacts: Vec<Contact>,
    },
    /// Find all records under a key; ends in [`Outcome::Found`].
    Lookup {
        /// Its name.
        operation: OperationId,
        /// The key.
        key: DhtKey,
    },
    /// Publish our record under all its keys; ends in [`Outcome::Published`].
    Publish {
        /// Its name.
        operation: OperationId,
        /// Signed by this node.
        record: SignedRecord,
    },
    /// Time has passed: at the latest at [`super::Core::next_wake`].
    Tick,
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Send `request` over a connection that *we* dialled to exactly this address and whose handshake proved this
    /// id (never over one that the peer dialled: the answer is taken as proof that it can be dialled there).
    /// Must be followed, within the request timeout, by exactly one [`Event::Answered`] or [`Event::Failed`].
    Send {
        /// Names it.
        rpc: RpcId,
        /// Whom.
        to: Contact,
        /// What.
        request: Request,
    },
    /// Answer the request of this call.
    Reply(Response),
    /// Refuse the request of this call without an answer: the peer asks too fast.
    Ignore,
    /// An operation is over.
    Deliver {
        /// Which.
        operation: OperationId,
        /// How it ended.
        outcome: Outcome,
    },
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Of [`Event::Lookup`].
    Found(Result<Found, LookupError>),
    /// Of [`Event::Publish`].
    Published(Result<Published, PublishError>),
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Live records, one per signer, ordered by signer; tombstones are left out.
    pub records: Vec<Arc<VerifiedRecord>>,
    /// Peers asked.
    pub asked: usize,
    /// Peers that answered.
    pub answered: usize,
    /// How long it took.
    pub took: Duration,
}
