//! The OpenAI-compatible API of the router, apart from HTTP.

mod error;
mod json;
mod read;
pub mod request;

pub use error::{ApiError, ErrorCode};
pub use request::{
    CallConstraint, Chat, ChatRequest, Constraint, Delivery, Generation, Tool, ToolChoice, Tools,
};
