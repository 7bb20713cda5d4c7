//! What an operator sees of a process: log lines, metrics and the admin endpoint.
//!
//! Owns how logging is built, the metric [`Registry`] with its bucket sets, and [`AdminServer`], which
//! serves `/metrics`, `/livez` and `/readyz`. It owns the metrics of the build and of the process only: each
//! crate registers its own on the registry that is handed to it. No library calls [`init_binary_logging`].

pub mod buckets;

mod admin;
mod build;
mod logging;
mod process;
mod readiness;
mod registry;

pub use admin::{AdminServer, BindAdminError};
pub use build::{BuildLabels, register_build};
pub use logging::{
    DEFAULT_FILTER, InitLoggingError, LogFilterError, LogFormat, ParseLogFormatError, build_subscriber,
    init_binary_logging,
};
pub use process::register_process;
pub use readiness::{Readiness, ReadyState};
pub use registry::{RegisterMetricError, Registry};
