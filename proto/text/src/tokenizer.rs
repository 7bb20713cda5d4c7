//! The tokenizer of a model, from the bytes of its `tokenizer.json`.
//!
//! Those bytes come from strangers. Beyond the parser's own errors this refuses what would make ids random (BPE
//! dropout), counts what would make reading costly, switches off what would make them many (padding) or few (truncation), refuses text rewriting that
//! multiplies its input, and turns a panic inside the tokenizers library into an error.

mod rewriting;
mod sizes;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tokenizers::models::ModelWrapper;
use tokenizers::{DecoderWrapper, Tokenizer as Inner};

use crate::detokenise::{append_bytes, byte_token};
use rewriting::Rewriting;
use sizes::Sizes;
pub(crate) use sizes::{MAX_MERGES, MAX_TOKENS};

/// Turns text into token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    /// The same tokenizer, but blind to special tokens; made when first needed.
    plain: OnceLock<Inner>,
    special: HashSet<u32>,
    vocab_size: u32,
    /// Bytes; `None` where a token may stand for a text of any length.
    longest_token: Option<usize>,
}

/// What special tokens mean in the text to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeMode {
    /// Nothing: `<|im_end|>` is ten characters of text. For text that must not steer the model.
    Plain,
    /// A special token that is written out becomes that token, and none is added: for rendered chat templates.
    Markup,
    /// As `Markup`, and the tokens that the model wants around a text (BOS) are added: for bare prompts.
    Prompt,
}

/// Why a tokenizer can't be read, or a text not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// More bytes than any tokenizer has.
    #[error("tokenizer.json has {bytes} bytes, but at most {limit} are read")]
    TooLarge {
        /// Size given.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// More entries than any tokenizer has.
    #[error("tokenizer.json has {count} {what}, more than the limit of {limit}")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Not a `tokenizer.json`.
    #[error("tokenizer.json can't be read: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// Valid, but not served.
    #[error("tokenizer.json is refused: {reason}")]
    Refused {
        /// Why.
        reason: &'static str,
    },
    /// More text than a context holds.
    #[error("the text has {bytes} bytes, but at most {limit} are encoded")]
    TextTooLong {
        /// Size given.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// The tokenizer failed on this text.
    #[error("the text can't be encoded: {reason}")]
    Encode {
        /// What the tokenizer said.
        reason: String,
    },
    /// The tokenizer failed on these ids.
    #[error("the ids can't be decoded: {reason}")]
    Decode {
        /// What the tokenizer said.
        reason: String,
    },
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::check_json(bytes)?;
        let parsed = guarded(|| Inner::from_bytes(bytes).map_err(|e| e.to_string()));
        let mut inner = parsed.map_err(|reason| TokenizerError::Malformed { reason })?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout != 0.0)
        {
            return Err(TokenizerError::Refused { reason: "BPE dropout would make token ids random" });
        }
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| TokenizerError::Malformed { reason: e.to_string() })?;
        let vocab_size = inner.get_vocab_size(true) as u32;
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let keeps_text =
            matches!(inner.get_model(), ModelWrapper::BPE(_)) && Rewriting::read(bytes)?.keeps_text();
        let longest_token =
            keeps_text.then(|| inner.get_vocab(true).keys().map(String::len).max().unwrap_or(0));
        Ok(Self { inner, plain: OnceLock::new(), special, vocab_size, longest_token })
    }

    /// Refuses what costs too much to read or to use, without reading it in full: what passes may still be malformed.
    pub fn check_json(bytes: &[u8]) -> Result<(), TokenizerError> {
        if bytes.len() > MAX_JSON_BYTES {
            return Err(TokenizerError::TooLarge { bytes: bytes.len(), limit: MAX_JSON_BYTES });
        }
        Sizes::check(bytes)?;
        Rewriting::read(bytes)?.check()
    }

    /// The ids of `text`.
    pub fn encode(&self, text: &str, mode: EncodeMode) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: MAX_TEXT_BYTES });
        }
        let inner = match mode {
            EncodeMode::Plain => self.plain.get_or_init(|| {
                let mut plain = self.inner.clone();
                plain.set_encode_special_tokens(true);
                plain
            }),
            EncodeMode::Markup | EncodeMode::Prompt => &self.inner,
        };
        let encoded =
            guarded(|| inner.encode_fast(text, mode == EncodeMode::Prompt).map_err(|e| e.to_string()));
        encoded.map(|e| e.get_ids().to_vec()).map_err(|reason| TokenizerError::Encode { reason })
    }

    /// The text of `ids`, special tokens left out if `skip_special`. Unknown ids are left out; bytes that are not
    /// UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let decoded = guarded(|| self.inner.decode(ids, skip_special).map_err(|e| e.to_string()));
        decoded.map_err(|reason| TokenizerError::Decode { reason })
    }

    /// The id of a token by its exact content, say `<|im_end|>`.
    pub fn token_id(&self, content: &str) -> Option<u32> {
        self.inner.token_to_id(content)
    }

    /// The content of a token as the vocabulary writes it.
    pub fn token_content(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The bytes that a token adds to a text, if each token adds the same ones wherever it stands: tokenizers of bytes,
    /// and those with byte tokens and U+2581 for a space.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let content = self.token_content(id)?;
        if self.is_byte_level() {
            let mut bytes = Vec::with_capacity(content.len());
            append_bytes(&content, &mut bytes);
            return Some(bytes);
        }
        Some(match byte_token(&content) {
            Some(byte) => vec![byte],
            None => content.replace('\u{2581}', " ").into_bytes(),
        })
    }

    /// Whether `id` is a special token, one that stands for no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Number of tokens, added ones included. A model's logits may be wider.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of the longest text that could be as few as `tokens` tokens: whatever is longer need not be encoded to know
    /// that it is too long.
    pub fn longest_text(&self, tokens: u32) -> usize {
        self.longest_token
            .map_or(usize::MAX, |bytes| bytes.saturating_mul(tokens as usize).saturating_mul(MAX_SHRINKING))
    }

    /// Whether tokens are strings of bytes in the GPT-2 alphabet and a text is just their concatenation.
    pub(crate) fn is_byte_level(&self) -> bool {
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }
}

/// Runs library code on a stranger's input; a panic becomes an error.
fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // The closure only reads the tokenizer; its caches are behind locks that survive poisoning.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("the tokenizers library panicked".into()))
}

/// The largest in use has 33 MB (262,144 tokens).
const MAX_JSON_BYTES: usize = 64 << 20;

/// Several times the longest context, at 4 bytes per token.
const MAX_TEXT_BYTES: usize = 8 << 20;

/// Composing three characters of a Korean syllable into one leaves a third.
const MAX_SHRINKING: usize = 4;

#[cfg(test)]
mod tests;
