//! Text around a model: tokenizer, chat template, incremental detokenise, stop strings.
//!
//! Both ends of a pipeline need it: the router turns text into ids and back, the tail will need the vocabulary for
//! grammar masks. Everything here is pure; the date that some templates ask for is an argument. Tokenizers and
//! templates come from strangers together with a model and are treated so: size limits, fuel, and errors instead
//! of panics.
//!
//! It does not know where the bytes come from, and it does not choose end-of-sequence ids.

pub mod chat;
mod detokenise;
pub mod gguf;
pub mod grammar;
mod json_size;
mod stop;
mod tokenizer;

pub use chat::{ChatInput, ChatMessage, ChatOptions, ChatTemplate, TemplateError, ToolCall};
pub use detokenise::DetokenStream;
pub use gguf::{GgufVocabulary, GgufVocabularyError};
pub use grammar::{GrammarError, GrammarText, GrammarVocabulary};
pub use json_size::count_json_values;
pub use stop::{MAX_STOPS, StopError, StopMatcher, StopOutcome};
pub use tokenizer::{EncodeMode, Tokenizer, TokenizerError};
