//! Grammars over a model's vocabulary: which tokens may come next, so that the whole becomes a text of the grammar.
//!
//! The work is llguidance's. Grammars come from strangers: compiling and each step have limits on work and memory, and
//! a panic in the library is an error. Where a text may end, every end-of-sequence id is allowed.
//!
//! It does not choose tokens, and it does not know when it is asked: both are the tail's.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use proto::answer::Grammar;
use serde_json::{Value, json};

use crate::tokenizer::Tokenizer;

/// A vocabulary as grammars see it. Takes some ten megabytes and a tenth of a second to make: one for each model.
pub struct GrammarVocabulary {
    factory: ParserFactory,
    /// Entries of the model's logits, which may be more than the tokenizer's.
    width: usize,
}

/// A text of a grammar that is being written.
pub struct GrammarText {
    matcher: Matcher,
    width: usize,
}

/// Why a grammar can't be followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrammarError {
    /// The model's vocabulary can't be used.
    #[error("grammars can't be followed with this tokenizer: {0}")]
    Vocabulary(String),
    /// It is no grammar, or more than the limits allow.
    #[error("the grammar can't be used: {0}")]
    Compile(String),
    /// A step takes more work than the limits allow, or the token is not one that was allowed.
    #[error("the grammar can't be followed any further: {0}")]
    Step(String),
}

impl GrammarVocabulary {
    /// The vocabulary of a model whose logits have `width` entries and whose answers end with one of `eos`.
    pub fn new(tokenizer: &Tokenizer, width: u32, eos: &[u32]) -> Result<Self, GrammarError> {
        let size = tokenizer.vocab_size().min(width);
        let eos: Vec<u32> = eos.iter().copied().filter(|&id| id < size).collect();
        let Some(&first) = eos.first() else {
            return Err(GrammarError::Vocabulary("it has no end-of-sequence id".into()));
        };
        let words: Vec<Vec<u8>> = (0..size).map(|id| word(tokenizer, id)).collect();
        let factory = guarded(|| {
            let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&eos);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new_simple(&env).map_err(|error| error.to_string())
        });
        let mut factory = factory.map_err(GrammarError::Vocabulary)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, width: width as usize })
    }

    /// The beginning of a text. Takes milliseconds as a rule, and a second at most: not for a thread that others wait
    /// for.
    pub fn begin(&self, grammar: &Grammar) -> Result<GrammarText, GrammarError> {
        let top = match grammar {
            Grammar::JsonSchema(source) => {
                let schema = serde_json::from_str(source)
                    .map_err(|error| GrammarError::Compile(format!("the schema is no JSON: {error}")))?;
                TopLevelGrammar::from_json_schema(with_bounded_space(schema))
            }
            Grammar::Lark(source) => TopLevelGrammar::from_lark(source.clone()),
        };
        let parser = guarded(|| self.factory.create_parser(top).map_err(|error| error.to_string()));
        let matcher = Matcher::new(Ok(parser.map_err(GrammarError::Compile)?));
        match matcher.get_error() {
            Some(error) => Err(GrammarError::Compile(error)),
            None => Ok(GrammarText { matcher, width: self.width }),
        }
    }
}

impl GrammarText {
    /// The tokens that may come next: bit `i % 64` of word `i / 64` is set when token `i` may. At least one may.
    pub fn allowed(&mut self) -> Result<Vec<u64>, GrammarError> {
        let matcher = &mut self.matcher;
        let mask = guarded(|| matcher.compute_mask_or_eos().map_err(|error| error.to_string()));
        let mask = mask.map_err(GrammarError::Step)?;
        let mut words = vec![0; self.width.div_ceil(64)];
        for (index, &half) in mask.as_slice().iter().enumerate() {
            if let Some(word) = words.get_mut(index / 2) {
                *word |= u64::from(half) << (32 * (index % 2));
            }
        }
        // Bits beyond the tokenizer's entries stand for nothing.
        let size = mask.len();
        for (index, word) in words.iter_mut().enumerate() {
            let known = size.saturating_sub(index * 64);
            if known < 64 {
                *word &= (1 << known) - 1;
            }
        }
        if words.iter().all(|&word| word == 0) {
            return Err(GrammarError::Step("no token goes on".into()));
        }
        Ok(words)
    }

    /// Goes on with a token that was allowed.
    pub fn push(&mut self, token: u32) -> Result<(), GrammarError> {
        let matcher = &mut self.matcher;
        guarded(|| matcher.consume_token(token).map_err(|error| error.to_string()))
            .map_err(GrammarError::Step)
    }
}

/// The text of a token, as bytes; special ones as llguidance marks them, so that no text matches them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(content) = tokenizer.token_content(id) else { return Vec::new() };
    if tokenizer.is_special(id) {
        let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        marked.extend_from_slice(content.as_bytes());
        return marked;
    }
    tokenizer.token_bytes(id).unwrap_or_default()
}

/// Between two signs any run of space is JSON: a model that likes space would never come to an end.
fn with_bounded_space(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key("x-guidance")
    {
        fields.insert("x-guidance".into(), json!({"whitespace_pattern": r"[ \n\t]{0,16}"}));
    }
    schema
}

/// Half of llguidance's own or less, which are for one user, but for what compiling begins with: a step takes some
/// milliseconds at most, compiling some hundreds, and a grammar some tens of megabytes.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 20_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Runs library code on a stranger's input; a panic becomes an error.
fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What a panic leaves behind is dropped: errors end the text, or the grammar never begins.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("the grammar library panicked".into()))
}

impl fmt::Debug for GrammarVocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarVocabulary").field("width", &self.width).finish_non_exhaustive()
    }
}

impl fmt::Debug for GrammarText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarText").field("width", &self.width).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
