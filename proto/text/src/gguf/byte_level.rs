//! `gpt2`: byte-level BPE with merges in the file and one of several pre-tokenizers.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{GgufVocabulary, GgufVocabularyError, Parts};

pub(super) fn parts(
    vocabulary: &GgufVocabulary,
    ids: &HashMap<&str, u32>,
) -> Result<Parts, GgufVocabularyError> {
    let kind = PreTokenizer::from_name(vocabulary.pre.as_deref().unwrap_or("default"))?;
    let unknown = vocabulary.unknown.and_then(|id| vocabulary.tokens.get(id as usize));
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": kind == PreTokenizer::Llama3,
        "vocab": vocabulary.vocab_json(),
        "merges": merges(vocabulary, ids)?,
    });
    Ok(Parts {
        normalizer: if kind == PreTokenizer::Qwen2 { json!({ "type": "NFC" }) } else { Value::Null },
        pre_tokenizer: kind.json(),
        decoder: byte_level(true),
        model,
        adds_bos: kind == PreTokenizer::Llama3,
    })
}

/// How text is cut before merging. Names and expressions: llama.cpp, `src/llama-vocab.cpp`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PreTokenizer {
    Default,
    Gpt2,
    Llama3,
    Qwen2,
    SmolLm,
}

impl PreTokenizer {
    fn from_name(name: &str) -> Result<Self, GgufVocabularyError> {
        match name {
            "default" => Ok(Self::Default),
            "gpt-2" => Ok(Self::Gpt2),
            "llama-bpe" => Ok(Self::Llama3),
            "qwen2" => Ok(Self::Qwen2),
            "smollm" => Ok(Self::SmolLm),
            other => Err(GgufVocabularyError::UnknownPreTokenizer(other.to_owned())),
        }
    }

    fn json(self) -> Value {
        let steps = match self {
            Self::Default => {
                vec![split(DEFAULT_SYMBOLS), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]")]
            }
            Self::Gpt2 => vec![split(GPT2)],
            Self::Llama3 => vec![split(LLAMA3)],
            Self::Qwen2 => vec![split(QWEN2)],
            Self::SmolLm => vec![json!({ "type": "Digits", "individual_digits": true }), split(GPT2)],
        };
        let steps: Vec<Value> = steps.into_iter().chain([byte_level(false)]).collect();
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

fn split(regex: &str) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
}

/// Only maps bytes to characters: the regular expressions stand before it.
fn byte_level(decoder: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": decoder, "trim_offsets": true, "use_regex": decoder })
}

fn merges(
    vocabulary: &GgufVocabulary,
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[String; 2]>, GgufVocabularyError> {
    let mut merges = Vec::with_capacity(vocabulary.merges.len());
    for (index, merge) in vocabulary.merges.iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            let joined = format!("{left}{right}");
            [left, right, joined.as_str()].iter().all(|part| ids.contains_key(part))
        });
        let Some((left, right)) = pair else {
            return Err(GgufVocabularyError::Merge { index, merge: merge.clone() });
        };
        merges.push([left.to_owned(), right.to_owned()]);
    }
    Ok(merges)
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEFAULT_SYMBOLS: &str = r"[\p{P}\$\+<=>\^~\|]+";
