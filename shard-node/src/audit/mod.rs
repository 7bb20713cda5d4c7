//! Audits of others: what a node signed for is opened, its span computed again from the committed input, and judged.
//!
//! ```text
//! evidence --subjects--> who signed what --ask--> opened rows --recompute--> outputs --judge--> signed verdicts
//! ```
//! Whoever has an answer's evidence and the weights of a span can audit it. Which receipts are opened follows from a seed
//! that was committed to before the node signed for its batch; what is computed, and on what, is the caller's.

mod ask;
mod calibrate;
mod recompute;
mod subject;
mod verdicts;

pub use ask::{Asked, AuditError, Auditor, Opened};
pub use calibrate::{CalibrateError, Calibrated, CalibrationPlan, calibrate};
pub use recompute::{Recomputed, recompute};
pub use subject::{InputPart, Subject, SubjectError, Work, subjects};
pub use verdicts::{Judge, Verdict, device_name};
