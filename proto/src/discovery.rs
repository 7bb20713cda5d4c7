//! Bodies of the DHT's requests and replies.

use std::net::SocketAddr;

use bincode::{Decode, Encode};

use crate::message::control_message;
use crate::record::{DhtKey, SignedRecord};
use crate::{DecodeError, NodeId};

/// Most contacts in a reply (Kademlia's k).
pub const MAX_CONTACTS: usize = 20;
/// Most records in one page of values.
pub const MAX_PAGE: usize = 16;

/// A peer and where it can be dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Contact {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub addr: SocketAddr,
}

/// Are you there? Carries the sender's own listening address if it wants to enter routing tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Ping {
    /// Port the sender listens on for discovery; `None` for a client.
    pub listen_port: Option<u16>,
}
control_message!(Ping, Ping);

/// Yes, and this is the address I see you at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Pong {
    /// The sender's address as the receiver sees it.
    pub observed: SocketAddr,
}
control_message!(Pong, Pong);

/// Whom do you know near this key?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct FindNode {
    /// The key.
    pub target: DhtKey,
    /// As in [`Ping`].
    pub listen_port: Option<u16>,
}
control_message!(FindNode, FindNode);

/// The nearest peers known.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Contacts {
    /// At most [`MAX_CONTACTS`].
    pub contacts: Vec<Contact>,
}
control_message!(Contacts, Contacts, |reply: &Contacts| check_contacts(&reply.contacts));

/// Which records do you hold under this key?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct FindValue {
    /// The key.
    pub key: DhtKey,
    /// Only records of signers above this id (pages are ordered by signer); `None` = from the start.
    pub after: Option<NodeId>,
    /// As in [`Ping`].
    pub listen_port: Option<u16>,
}
control_message!(FindValue, FindValue);

/// Records under a key, and the nearest peers known.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Values {
    /// At most [`MAX_PAGE`], ordered by signer.
    pub records: Vec<SignedRecord>,
    /// There are more after the last one.
    pub more: bool,
    /// At most [`MAX_CONTACTS`].
    pub contacts: Vec<Contact>,
}
control_message!(Values, Values, |reply: &Values| {
    if reply.records.len() > MAX_PAGE {
        return Err(DecodeError::field("records", format!("{} records", reply.records.len())));
    }
    check_contacts(&reply.contacts)
});

/// Keep this record under this key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Store {
    /// The key.
    pub key: DhtKey,
    /// The record.
    pub record: SignedRecord,
    /// As in [`Ping`].
    pub listen_port: Option<u16>,
}
control_message!(Store, Store);

/// Why a record was not kept, or that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum StoreOutcome {
    /// Kept.
    Kept,
    /// A newer record of the signer is held.
    Older,
    /// The record is not valid.
    Invalid,
    /// The record does not belong under the key.
    WrongKey,
    /// No room.
    Full,
    /// Too many requests.
    RateLimited,
}

/// Answer to [`Store`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Stored {
    /// What became of it.
    pub outcome: StoreOutcome,
}
control_message!(Stored, Stored);

fn check_contacts(contacts: &[Contact]) -> Result<(), DecodeError> {
    if contacts.len() > MAX_CONTACTS {
        return Err(DecodeError::field("contacts", format!("{} contacts", contacts.len())));
    }
    Ok(())
}
