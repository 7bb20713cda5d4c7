//! API keys: who may ask, how much at once, and what each has used.
//!
//! ```text
//!  keys.json  <--- `router keys ..` (file: lock, replace)        usage.json <--- the serving router
//!      |                                                              ^
//!      '--- keyring (read again when it changes) --- meter (pure) ----'
//! ```
//! A key is 256 random bits, shown once when it is made; only its hash is kept. With that much entropy a plain hash is
//! as good as a slow one: there is nothing to guess.

mod file;
mod keyring;
mod meter;
mod record;

pub use file::{KeyFile, KeyFileError};
pub use keyring::{Admitted, KeyRefusal, Keyring};
pub use meter::{Exceeded, Meter};
pub use record::{KeyId, KeyLimits, KeyRecord, KeySet, KeySetError, KeyUsage, Secret};
