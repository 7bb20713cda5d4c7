//! The sans-IO core.
mod distance;
mod rate;
mod seed;
mod subnet;
mod time;
pub use distance::Distance;
pub use rate::Rate;
pub use subnet::{Scope, Subnet, may_dial};
pub use time::Now;
