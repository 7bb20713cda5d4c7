//! Answers into bytes: chunks of a stream, or one object at the end.
//!
//! ```text
//!  ChatAnswer:  begin -> role;  push -> text, calls;  end -> finish_reason;  then usage, [DONE]
//! ```
//! One value for each request; choices go by their index and may come in any order. The caller gives text that is safe
//! to show: whole characters, and nothing that a stop string may still take back.

mod chat;
mod completion;
mod logprobs;

use serde::Serialize;

pub use chat::ChatAnswer;
pub use completion::CompletionAnswer;
pub use logprobs::{TokenLogprob, TopLogprob};

/// The end of a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// What every object of an answer says of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AnswerHead {
    /// The answer's id, with the endpoint's prefix.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name as it was asked for.
    pub model: String,
    /// The model's id and class.
    pub system_fingerprint: String,
}

/// Why an answer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// By itself, or at a stop string.
    Stop,
    /// As many tokens as may be.
    Length,
    /// It calls functions.
    ToolCalls,
}

/// What a request took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Of them, those that were not computed again, by the stages' own account.
    pub cached: u64,
    /// Tokens generated, of all choices.
    pub completion: u64,
}

#[derive(Serialize)]
struct WrittenUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Details,
}

#[derive(Serialize)]
struct Details {
    cached_tokens: u64,
}

impl Serialize for Usage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WrittenUsage {
            prompt_tokens: self.prompt,
            completion_tokens: self.completion,
            total_tokens: self.prompt + self.completion,
            prompt_tokens_details: Details { cached_tokens: self.cached },
        }
        .serialize(serializer)
    }
}

/// Appends an object as one event.
fn event(out: &mut Vec<u8>, object: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // Strings and numbers into memory: this can't fail.
    let _ = serde_json::to_writer(&mut *out, object);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests;
