//! One sequence's life on a pipeline, as a pure state machine. Owns every rule of a session: opening order, exactly-once
//! by position and generation, credit, leases, suspicion, the end. It does not send, wait or read a clock.
//!
//! ```text
//!            Start              last stage .. stage 0 opened
//! Waiting ----------> Opening --------------------------------> Running
//!    |                   |                                         |
//!    |  refused, lost, timed out, cancelled     finished, lost, stalled, violated, cancelled
//!    |                   v                                         v
//!    +-----------------> Closing: accounts come in ------------> Done
//! ```

mod credit;
mod error;
mod event;
mod health;
mod machine;
mod standby;
mod terms;
#[cfg(test)]
mod tests;

pub use error::SessionError;
pub use event::{Action, Control, Event, FinishReason, OpenFailure, Outcome, Report, Signed};
pub use machine::SessionMachine;
pub use terms::{SessionLimits, SessionShare, SessionTerms, StageLabel, StandbyStage, Watch};
