//! Requests: the bytes of a body in, what is asked for or an error out.
//!
//! One file for each endpoint, and one for each thing that several of them have. `parameters` is the table of all names.

mod chat;
#[cfg(test)]
mod clients;
mod completion;
mod constraint;
mod generation;
#[cfg(test)]
mod hostile;
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

/// Limits of the parser, for the `OpenAPI` document.
pub(crate) mod limits {
    pub(crate) use super::chat::MAX_VARIABLES;
    pub(crate) use super::completion::{MAX_ALL_CHOICES, MAX_LOGPROBS, MAX_PROMPTS};
    pub(crate) use super::generation::{
        MAX_CHOICES, MAX_DEADLINE_MS, MAX_ID_DIGITS, MAX_STOP_CHARS, MAX_TOKENS, MAX_TOP_K, PENALTY,
        PRIORITIES, REPETITION, SEED, SHARE, TEMPERATURE,
    };
    pub(crate) use super::messages::{
        ANYWHERE, CALL_EXTRAS, FUNCTION_EXTRAS, MAX_ID_CHARS, MAX_MESSAGES, MAX_NAME_CHARS, MAX_PARTS,
        MAX_TOOL_CALLS, OTHERS, PART_EXTRAS,
    };
    pub(crate) use super::responses::INCLUDES;
    pub(crate) use super::tokens::MAX_DIMENSIONS;
    pub(crate) use super::tools::{MAX_FUNCTION_NAME, MAX_TOOLS};
}
