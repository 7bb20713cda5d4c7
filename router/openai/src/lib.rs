//! The OpenAI-compatible API of the router, apart from HTTP.

mod error;
mod json;
mod read;

pub use error::{ApiError, ErrorCode};
