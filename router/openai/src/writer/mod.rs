//! Answers: text, token by token, in; the bytes that OpenAI's clients expect out.
//!
//! ```text
//! push(choice, delta) -> TextReader: reasoning | content | calls -> writer of the endpoint -> buffer of the caller
//! ```
//! A writer is either a stream's, which writes what each token brings at once, or a whole answer's, which writes one
//! object at the end. Both read the text through the same [`TextReader`], which does not depend on how it is cut; so
//! the pieces of a stream put together are the whole answer.

mod call_id;
mod chat_stream;
mod chat_whole;
mod completion;
mod logprobs;
mod output;
mod reader;
mod responses;
mod thoughts;
mod usage;

use std::fmt;

pub use chat_stream::ChatStream;
pub use chat_whole::ChatWhole;
pub use completion::CompletionWriter;
pub use reader::{Part, Reading, TextReader};
pub use responses::ResponsesWriter;
pub use thoughts::Thinking;
pub use usage::Usage;

use crate::error::ApiError;
use crate::json::{write_text, write_u64};
use crate::request::{ChatRequest, Delivery};

/// What an answer is called, and by whom it is given. Equal in all its chunks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Unguessable and unique, with the endpoint's prefix: `chatcmpl-..`, `cmpl-..`, `resp_..`.
    pub id: String,
    /// When it was begun, seconds since 1970.
    pub created: u64,
    /// The model's name, as it was asked for.
    pub model: String,
    /// `ModelId` and numerics class: answers of equal requests can differ where this differs.
    pub system_fingerprint: String,
}

/// What a token brings to an answer.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Delta<'a> {
    /// Text that is safe to show now: whole characters, no part of a stop string. May be empty.
    pub text: &'a str,
    /// Tokens that it stands for: 1, or 0 for text that was held back until the end.
    pub tokens: u32,
    /// The token's probability, if it was asked for.
    pub logprob: Option<TokenLogprob<'a>>,
}

/// How likely a chosen token was.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenLogprob<'a> {
    /// The token's own bytes, which may be a part of a character.
    pub bytes: &'a [u8],
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at its place, the likeliest first: bytes and natural logarithm of the probability.
    pub top: &'a [(&'a [u8], f32)],
}

/// Why the model stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// It came to an end, or to a stop string.
    Stop,
    /// It was cut off by `max_tokens` or by the context.
    Length,
}

/// Writes an answer of `n` choices. Choices may be pushed in any order; each is finished once, and the answer ended once
/// after them.
pub trait AnswerWriter: fmt::Debug + Send {
    /// What comes before the first token.
    fn begin(&mut self, out: &mut Vec<u8>);
    /// What a token brings. A choice that there is not is ignored.
    fn push(&mut self, choice: u32, delta: &Delta<'_>, out: &mut Vec<u8>);
    /// A choice is complete.
    fn finish(&mut self, choice: u32, finish: Finish, out: &mut Vec<u8>);
    /// All of them are.
    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>);
    /// The answer can't be completed. A stream tells it in its last event; a whole answer writes nothing, as the error
    /// is the response then.
    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>);
}

impl ChatRequest {
    /// A writer of its answer, delivered as it asks.
    pub fn writer(&self, head: &Head, reading: &Reading) -> Box<dyn AnswerWriter> {
        match self.generation.delivery {
            Delivery::Whole => Box::new(ChatWhole::new(self, head, reading)),
            Delivery::Stream { .. } => Box::new(ChatStream::new(self, head, reading)),
        }
    }
}

impl<'a> Delta<'a> {
    /// A token and the text that it completes.
    pub const fn token(text: &'a str) -> Self {
        Self { text, tokens: 1, logprob: None }
    }

    /// Text that was held back until the end.
    pub const fn rest(text: &'a str) -> Self {
        Self { text, tokens: 0, logprob: None }
    }

    /// With the token's probability.
    #[must_use]
    pub const fn with_logprob(mut self, logprob: TokenLogprob<'a>) -> Self {
        self.logprob = Some(logprob);
        self
    }
}

impl Head {
    /// Appends the fields that all objects of an answer begin with, without a closing brace.
    fn write(&self, object: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        write_text(&self.id, out);
        out.extend_from_slice(b",\"object\":");
        write_text(object, out);
        out.extend_from_slice(b",\"created\":");
        write_u64(self.created, out);
        out.extend_from_slice(b",\"model\":");
        write_text(&self.model, out);
        out.extend_from_slice(b",\"system_fingerprint\":");
        write_text(&self.system_fingerprint, out);
    }
}

impl Finish {
    /// The word of OpenAI's completions.
    const fn reason(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }

    /// The word for a chat's choice: one that called tools and was not cut off says so.
    const fn chat_reason(self, calls: bool) -> &'static str {
        match self {
            Self::Stop if calls => "tool_calls",
            finish => finish.reason(),
        }
    }
}

/// Appends the last event of a stream that failed.
fn write_failure(error: &ApiError, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    error.write_json(out);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests;
