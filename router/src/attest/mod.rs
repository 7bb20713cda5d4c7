//! What the hops of an answer sign, gathered while it grows, and what can be shown of it afterwards.
//!
//! Asks for signatures, checks each as it comes, and says whose do not hold. What they say is `proto-attest`'s affair;
//! when a session ends for it is [`crate::session`]'s.

mod evidence;

pub use evidence::{AnswerEvidence, AttestError, Collected};
