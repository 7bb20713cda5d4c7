//! How much a `tokenizer.json` holds, counted in one pass that allocates nothing for it.
//!
//! The tokenizers library keeps several copies of each entry while it reads, some hundred bytes for the four of
//! `"",`; so entries are counted before it sees the file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::TokenizerError;
use crate::json_size::Counted;

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    values: u64,
    vocabulary: u64,
    merges: u64,
    added: u64,
    steps: u64,
}

impl Sizes {
    /// Counts, and refuses by name what is more than any tokenizer has.
    pub(super) fn check(bytes: &[u8]) -> Result<(), TokenizerError> {
        let sizes: Self =
            serde_json::from_slice(bytes).map_err(|e| TokenizerError::Malformed { reason: e.to_string() })?;
        let limits = [
            ("merges", sizes.merges, MAX_MERGES),
            ("tokens", sizes.vocabulary, MAX_TOKENS),
            ("added tokens", sizes.added, MAX_TOKENS),
            ("values in its normalizer, pre-tokenizer, post-processor and decoder", sizes.steps, MAX_STEPS),
            ("JSON values", sizes.values, MAX_VALUES),
        ];
        for (what, count, limit) in limits {
            if count > limit {
                return Err(TokenizerError::TooMany { what, count, limit });
            }
        }
        Ok(())
    }
}

/// Twice the most in use: the vocabulary of 262,144 has 514,906.
pub(crate) const MAX_MERGES: u64 = 1 << 20;

/// Four times the largest vocabulary in use (262,144).
pub(crate) const MAX_TOKENS: u64 = 1 << 20;

/// Steps have some hundred; the post-processor lists each special token that it adds.
const MAX_STEPS: u64 = 1 << 16;

/// The largest vocabulary and its merges as pairs make 1.9 million.
const MAX_VALUES: u64 = 1 << 22;

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TopLevel)
    }
}

struct TopLevel;

impl<'de> Visitor<'de> for TopLevel {
    type Value = Sizes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sizes, A::Error> {
        let mut sizes = Sizes::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "model" {
                let Model { vocabulary, merges, values } = map.next_value()?;
                // The last one counts if there are two, as it does for the library: both must be small.
                sizes.vocabulary = sizes.vocabulary.max(vocabulary);
                sizes.merges = sizes.merges.max(merges);
                sizes.values += values;
                continue;
            }
            let counted: Counted = map.next_value()?;
            sizes.values += counted.values;
            match key.as_str() {
                "added_tokens" => sizes.added += counted.elements,
                "normalizer" | "pre_tokenizer" | "post_processor" | "decoder" => {
                    sizes.steps += counted.values;
                }
                _ => {}
            }
        }
        Ok(sizes)
    }
}

/// The `model` object.
#[derive(Default)]
struct Model {
    vocabulary: u64,
    merges: u64,
    values: u64,
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ModelVisitor)
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let mut model = Model::default();
        while let Some(key) = map.next_key::<String>()? {
            let counted: Counted = map.next_value()?;
            model.values += counted.values;
            match key.as_str() {
                "vocab" => model.vocabulary += counted.elements,
                "merges" => model.merges += counted.elements,
                _ => {}
            }
        }
        Ok(model)
    }
}
