//! Kademlia over signed records: a sans-IO core and a thin driver.

pub mod bootstrap;
mod clock;
pub mod core;
pub mod directory;
pub mod simulation;
pub mod static_directory;
pub mod testing;

pub use directory::{Announcement, Directory, DirectoryFuture, LookupError, PublishError, Published};
pub use static_directory::StaticDirectory;
