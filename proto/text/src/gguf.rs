//! From the vocabulary inside a GGUF file to `tokenizer.json`, the one form that the rest of the swarm knows.
//!
//! The same vocabulary always gives the same bytes, since their hash stands in the manifest. What the metadata
//! only names, such as the pre-tokenizer's regular expressions, is written out; a name that is not known here is
//! refused, because a wrong guess yields ids that almost fit.

mod byte_level;
mod sentencepiece;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::tokenizer;

/// The `tokenizer.ggml.*` metadata of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `pre`: name of the pre-tokenizer; absent in old files and for `llama`.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `merges`, best first, each two tokens and a space between them. Only `gpt2` has them.
    pub merges: Vec<String>,
    /// `scores`, by id. Only `llama` needs them.
    pub scores: Vec<f32>,
    /// `token_type`, by id, as GGUF numbers them; empty means that all are normal.
    pub token_types: Vec<i32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `add_bos_token`; absent means what the kind of vocabulary implies.
    pub add_bos: Option<bool>,
    /// `add_eos_token`; absent means no.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`, of `llama`; absent means yes.
    pub add_space_prefix: Option<bool>,
}

/// Why a vocabulary can't be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufVocabularyError {
    /// A kind of vocabulary that is not known here.
    #[error("tokenizer.ggml.model {0:?} is not supported; supported are gpt2 and llama")]
    UnknownModel(String),
    /// A pre-tokenizer that is not known here.
    #[error(
        "tokenizer.ggml.pre {0:?} is not supported; supported are default, gpt-2, llama-bpe, qwen2 and smollm"
    )]
    UnknownPreTokenizer(String),
    /// No tokens, or more than any model has.
    #[error("tokenizer.ggml.tokens has {0} entries; it must have 1 to {MAX_TOKENS}")]
    TokenCount(usize),
    /// Lists that belong together differ in length.
    #[error("tokenizer.ggml.{list} has {got} entries for {tokens} tokens")]
    ListLength {
        /// The list.
        list: &'static str,
        /// Its entries.
        got: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// Two ids for one token.
    #[error("tokens {first} and {second} are both {content:?}")]
    DuplicateToken {
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
        /// Their content.
        content: String,
    },
    /// A token longer than any model's.
    #[error("token {id} has {bytes} bytes; at most {MAX_TOKEN_BYTES} are allowed")]
    TokenTooLong {
        /// The token.
        id: u32,
        /// Its length.
        bytes: usize,
    },
    /// More merges than fit the vocabulary.
    #[error("the vocabulary has {0} merges; at most {MAX_MERGES} are allowed")]
    MergeCount(usize),
    /// A merge that is not two tokens whose concatenation is a token.
    #[error("tokenizer.ggml.merges entry {index} is {merge:?}, which does not join two tokens into a third")]
    Merge {
        /// Which merge.
        index: usize,
        /// Its text.
        merge: String,
    },
    /// An id outside the vocabulary.
    #[error("tokenizer.ggml.{key} is {id}, but there are {tokens} tokens")]
    TokenId {
        /// The key.
        key: &'static str,
        /// The id.
        id: u32,
        /// Number of tokens.
        tokens: usize,
    },
    /// A score that is not a number.
    #[error("the score of token {0} is not a number")]
    Score(u32),
}

impl GgufVocabulary {
    /// The bytes of the equivalent `tokenizer.json`.
    pub fn to_tokenizer_json(&self) -> Result<Vec<u8>, GgufVocabularyError> {
        let ids = self.check()?;
        let parts = match self.model.as_str() {
            "gpt2" => byte_level::parts(self, &ids)?,
            "llama" => sentencepiece::parts(self, &ids)?,
            other => return Err(GgufVocabularyError::UnknownModel(other.to_owned())),
        };
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": self.post_processor(parts.adds_bos),
            "decoder": parts.decoder,
            "model": parts.model,
        });
        // Keys stay in the order written here, tokens in the order of ids.
        Ok(json.to_string().into_bytes())
    }

    /// Checks what all kinds share and gives the id of each token.
    fn check(&self) -> Result<HashMap<&str, u32>, GgufVocabularyError> {
        let tokens = self.tokens.len();
        if !(1..=MAX_TOKENS).contains(&tokens) {
            return Err(GgufVocabularyError::TokenCount(tokens));
        }
        if self.merges.len() > MAX_MERGES {
            return Err(GgufVocabularyError::MergeCount(self.merges.len()));
        }
        for (list, got) in [("token_type", self.token_types.len()), ("scores", self.scores.len())] {
            if got != 0 && got != tokens {
                return Err(GgufVocabularyError::ListLength { list, got, tokens });
            }
        }
        let named =
            [("bos_token_id", self.bos), ("eos_token_id", self.eos), ("unknown_token_id", self.unknown)];
        for (key, id) in named {
            if let Some(id) = id.filter(|&id| id as usize >= tokens) {
                return Err(GgufVocabularyError::TokenId { key, id, tokens });
            }
        }
        let mut ids = HashMap::with_capacity(tokens);
        for (id, content) in (0u32..).zip(&self.tokens) {
            if content.len() > MAX_TOKEN_BYTES {
                return Err(GgufVocabularyError::TokenTooLong { id, bytes: content.len() });
            }
            if let Some(first) = ids.insert(content.as_str(), id) {
                let content = content.clone();
                return Err(GgufVocabularyError::DuplicateToken { first, second: id, content });
            }
        }
        Ok(ids)
    }

    fn kind(&self, id: u32) -> TokenKind {
        match self.token_types.get(id as usize) {
            None | Some(1) => TokenKind::Normal,
            Some(3) => TokenKind::Control,
            Some(4) => TokenKind::UserDefined,
            // 2 unknown, 5 unused, 6 byte, and numbers that do not exist yet: never made from text.
            Some(_) => TokenKind::Inert,
        }
    }

    /// Control tokens are special: found in text, left out of decoded text. User-defined ones are only found.
    fn added_tokens(&self) -> Vec<Value> {
        let mut added = Vec::new();
        for (id, content) in (0u32..).zip(&self.tokens) {
            let special = match self.kind(id) {
                TokenKind::Control => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Inert => continue,
            };
            if content.is_empty() {
                continue;
            }
            added.push(json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }));
        }
        added
    }

    /// Puts BOS before and EOS after a prompt, where the file asks for it.
    fn post_processor(&self, kind_adds_bos: bool) -> Value {
        let bos = self.bos.filter(|_| self.add_bos.unwrap_or(kind_adds_bos));
        let eos = self.eos.filter(|_| self.add_eos.unwrap_or(false));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let mut special = Map::new();
        let mut token = |id: u32, type_id: u32| {
            let content = &self.tokens[id as usize];
            special.insert(content.clone(), json!({ "id": content, "ids": [id], "tokens": [content] }));
            json!({ "SpecialToken": { "id": content, "type_id": type_id } })
        };
        let mut around = |sequence: &str, type_id: u32| {
            let text = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
            let bos = bos.map(|id| token(id, type_id));
            let eos = eos.map(|id| token(id, type_id));
            [bos, Some(text), eos].into_iter().flatten().collect::<Vec<_>>()
        };
        let single = around("A", 0);
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special })
    }

    /// The vocabulary in the order of ids.
    fn vocab_json(&self) -> Map<String, Value> {
        (0u32..).zip(&self.tokens).map(|(id, content)| (content.clone(), id.into())).collect()
    }
}

/// What a kind of vocabulary contributes.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether a prompt gets a BOS where the file says nothing.
    adds_bos: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Normal,
    Control,
    UserDefined,
    Inert,
}

/// What a `tokenizer.json` may have, since one is made of it.
const MAX_TOKENS: usize = tokenizer::MAX_TOKENS as usize;
const MAX_MERGES: usize = tokenizer::MAX_MERGES as usize;

/// The longest tokens in use are runs of 512 spaces or dashes. Bounds the work of deriving merges, too.
const MAX_TOKEN_BYTES: usize = 4096;

#[cfg(test)]
pub(crate) mod tests;
