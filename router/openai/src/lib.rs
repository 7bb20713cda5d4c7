//! The OpenAI-compatible API of the router, apart from HTTP: bytes of a request in, what is asked for out; text and
//! tokens in, bytes of an answer out.
//!
//! ```text
//! bytes -- ChatRequest::parse --> ChatRequest { generation, chat, constraint } | ApiError
//!            (CompletionRequest has prompts; ResponsesRequest is like ChatRequest; TokenizeRequest, ..)
//!            template (proto-text) -> prompt; Reading::new(chat, constraint, template, prompt)
//!            ChatRequest::writer, CompletionWriter, ResponsesWriter: AnswerWriter -- begin, push.., finish.., end --> bytes in the caller's buffer
//! ```
//! * [`Generation`] says which model, how to sample, how many choices, how delivered; [`Chat`] what the template gets;
//!   [`Constraint`] what the text must look like, whose [`schema`](Constraint::schema) goes to the tail as
//!   [`Grammar::JsonSchema`](proto::answer::Grammar).
//! * [`Reading`] says how the model's text is to be read: thoughts, calls of tools. The tokens that
//!   [`Reading::markers`] names must be detokenised to their text even where special tokens are left out.
//! * An [`AnswerWriter`] is fed text that is safe to show and writes into a buffer that the caller empties.
//! * [`openapi_document`] describes all endpoints; requests' schemas come from the parser's own tables
//!   ([`request::parameters`]) and limits.
//! * [`unsupported_endpoint`] names what a path of OpenAI's API is for that is not served.
//! * [`ApiError`] has the HTTP status, the body and the time after which to try again.
//!
//! No clock, no randomness, no I/O: ids, seeds and the time are arguments. It knows neither routes nor sessions, and
//! reads no header.

mod calls;
mod endpoints;
mod error;
mod json;
mod openapi;
mod read;
pub mod request;
mod writer;

pub use calls::{ToolFormat, template_shows_tools, tool_prompt};
pub use endpoints::unsupported_endpoint;
pub use error::{ApiError, ErrorCode};
pub use openapi::document as openapi_document;
pub use request::{
    CallConstraint, Chat, ChatRequest, CompletionPrompt, CompletionRequest, Constraint, Delivery,
    DetokenizeRequest, EmbeddingRequest, Generation, ResponsesRequest, TokenizeInput, TokenizeRequest, Tool,
    ToolChoice, Tools,
};
pub use writer::{
    AnswerWriter, ChatStream, ChatWhole, CompletionWriter, Delta, Finish, Head, Part, Reading,
    ResponsesWriter, TextReader, Thinking, TokenLogprob, Usage,
};
