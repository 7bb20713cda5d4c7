//! What an answer must look like, and what is told of its choices. Only the tail needs it, and only if asked for.

use bincode::{Decode, Encode};

use crate::DecodeError;

/// Longest grammar: the largest JSON schemas in public use stay below it.
pub const MAX_GRAMMAR_BYTES: usize = 64 << 10;
/// Most alternatives told of a choice, as in the OpenAI API.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Terms of an answer beyond sampling; `Default` asks for nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct AnswerTerms {
    /// So many of the most likely tokens are told with each choice, at most [`MAX_TOP_LOGPROBS`].
    pub top_logprobs: u8,
    /// Which texts the answer may be.
    pub grammar: Option<Grammar>,
}

/// A set of texts.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Grammar {
    /// JSON that a schema (JSON Schema 2020-12) takes.
    JsonSchema(String),
    /// A grammar in llguidance's variant of Lark.
    Lark(String),
}

impl Grammar {
    /// As it is written.
    pub fn source(&self) -> &str {
        match self {
            Self::JsonSchema(source) | Self::Lark(source) => source,
        }
    }
}

impl AnswerTerms {
    /// Whether the bounds are kept.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.top_logprobs > MAX_TOP_LOGPROBS {
            return Err(DecodeError::field("top_logprobs", format!("{}", self.top_logprobs)));
        }
        let bytes = self.grammar.as_ref().map_or(0, |grammar| grammar.source().len());
        if bytes > MAX_GRAMMAR_BYTES {
            return Err(DecodeError::field("grammar", format!("{bytes} bytes")));
        }
        Ok(())
    }
}
