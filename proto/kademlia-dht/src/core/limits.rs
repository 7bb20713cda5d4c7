//! Every number of the core with its reason. Grouped in [`Limits`] so that tests can shrink them.

use std::time::Duration;

use super::rate::Rate;

/// Nodes per bucket, contacts per reply and holders per record (Maymounkov and Mazieres 2002 use 20: small
/// enough to ask all, large enough that they don't all leave within an hour).
pub const K: usize = proto::discovery::MAX_CONTACTS;
/// Contacts of one subnet in a bucket or among a key's holders while others are left.
pub(crate) const SUBNET_CAP: usize = 2;
/// Verified contacts that wait for a place in a full bucket.
pub(crate) const WAITING_PER_BUCKET: usize = 8;
/// A bucket's oldest contact is probed for a newcomer's sake only if it was silent for this long: cheaper than
/// a ping per newcomer, and far below the time in which a lookup would notice.
pub(crate) const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Failures in a row after which a contact leaves even if nobody waits for its place. One loses a packet; three
/// over several lookups are gone.
pub(crate) const MAX_FAILURES: u8 = 3;

/// Disjoint paths of a lookup (S/Kademlia, Baumgart and Mies 2007): with 20 % hostile nodes and three hops, one
/// path is clean with 0.8^3 = 51 %, one of four with 94 %; the common sweep at the end does the rest.
pub(crate) const PATHS: usize = 4;
/// A path is done when this many of its nearest contacts have answered: four paths cover more than `K`.
pub(crate) const PATH_WIDTH: usize = 3;
/// A request unanswered for this long no longer holds a place (loose parallelism). Nearly all round trips on
/// Earth are shorter; an answer that comes later still counts.
pub(crate) const SLOW: Duration = Duration::from_millis(220);
/// Contacts remembered per lookup; beyond it the furthest unasked ones go. Every asked peer may name 20.
pub(crate) const MAX_CANDIDATES: usize = 512;
/// Peers asked per lookup. An honest lookup asks 30 to 60; hostile replies can't make it ask more than this.
pub(crate) const MAX_ASKED: usize = 192;
/// Contacts with one public IP address per lookup: several nodes share an address, but hostile replies must
/// not make a lookup scan a host's ports.
pub(crate) const MAX_PER_ADDRESS: usize = 4;
/// Addresses tried of one node per lookup.
pub(crate) const MAX_ADDRESSES_PER_NODE: usize = 3;
/// Pages read from one peer per lookup: 256 records by 16.
pub(crate) const MAX_PAGES: usize = RECORDS_PER_KEY / proto::discovery::MAX_PAGE;
/// When a lookup returns what it has.
pub(crate) const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// Records under one key.
pub const RECORDS_PER_KEY: usize = 256;
/// Verified records remembered so that repeats cost no signature check (45 us each).
pub(crate) const VERIFIED_REMEMBERED: usize = 2048;
/// Buckets no lookup went through for this long are refreshed.
pub(crate) const REFRESH_AFTER: Duration = Duration::from_mins(10);
/// When a node looks itself up again after joining; four times as long each time after, up to `REFRESH_AFTER`.
pub(crate) const FIRST_SELF_LOOKUP: Duration = Duration::from_millis(500);
/// How often leases are swept and refreshes considered.
pub(crate) const MAINTENANCE: Duration = Duration::from_secs(10);
/// Dial-backs under way: each costs a handshake that a stranger asked for.
pub(crate) const MAX_DIAL_BACKS: usize = 16;

/// The limits that depend on the machine rather than on the protocol.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory for records, by estimate (twice the body plus 512 bytes each).
    pub store_bytes: usize,
    /// Lookups under way, ours and those behind publications and refreshes; more are told to come back.
    pub lookups: usize,
    /// Requests per peer.
    pub requests: Rate,
    /// Stores per peer: an announcement is 4 keys every 5 minutes, and early repairs.
    pub stores: Rate,
    /// Requests per public subnet, so that many ids behind one line do not multiply the limit.
    pub subnet_requests: Rate,
    /// Peers (and subnets) whose rates are remembered.
    pub remembered_peers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // About 10,000 full-sized records.
            store_bytes: 32 << 20,
            // A node has a handful; a router one per request being planned.
            lookups: 64,
            // A lookup asks a peer once, or 16 times to page a full key.
            requests: Rate { per_second: 20.0, burst: 100.0 },
            stores: Rate { per_second: 0.5, burst: 24.0 },
            subnet_requests: Rate { per_second: 200.0, burst: 1000.0 },
            remembered_peers: 4096,
        }
    }
}
