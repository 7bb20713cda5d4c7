//! Requests: the bytes of a body in, what is asked for or an error out.
//!
//! One file for each endpoint, and one for each thing that several of them have. `parameters` is the table of all names.

mod chat;
mod completion;
mod constraint;
mod generation;
mod items;
mod messages;
pub mod parameters;
mod responses;
mod tokens;
mod tools;

pub use chat::{Chat, ChatRequest};
pub use completion::{CompletionPrompt, CompletionRequest};
pub use constraint::{CallConstraint, Constraint};
pub use generation::{Delivery, Generation};
pub use responses::ResponsesRequest;
pub use tokens::{DetokenizeRequest, EmbeddingRequest, TokenizeInput, TokenizeRequest};
pub(crate) use tools::is_function_name;
pub use tools::{Tool, ToolChoice, Tools};
