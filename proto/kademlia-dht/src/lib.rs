//! Kademlia over signed records: a sans-IO [`core`] and a thin driver ([`Dht`]) over `proto-transport`.
//!
//! What it is for: a node announces its [`NodeRecord`](proto::record::NodeRecord) ([`Directory::announce`]), a
//! router finds all nodes that offer a model ([`Directory::lookup_model_name`]). Values are sets of signed
//! records, one per signer; the keys a record stands under follow from the record. Contents are hints: trust comes
//! from the record's signature and the handshake with the peer.
//!
//! Design, rules and numbers: `docs/decisions/`, [`core`], and [`simulation`] for the figures.

pub mod bootstrap;
mod clock;
pub mod core;
pub mod directory;
pub mod driver;
mod metrics;
pub mod simulation;
pub mod static_directory;
pub mod testing;

pub use directory::{Announcement, Directory, DirectoryFuture, LookupError, PublishError, Published};
pub use driver::{Dht, DhtConfig, JoinError, Role};
pub use metrics::DiscoveryMetrics;
pub use static_directory::StaticDirectory;
