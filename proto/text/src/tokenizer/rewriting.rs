//! The parts of a `tokenizer.json` that rewrite text: by how much they may multiply it, and whether they lose any of it.

use serde::Deserialize;
use serde_json::Value;

use super::TokenizerError;

/// Normalizer, pre-tokenizer and decoder.
#[derive(Deserialize)]
pub(super) struct Rewriting {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

impl Rewriting {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, TokenizerError> {
        serde_json::from_slice(bytes).map_err(|e| TokenizerError::Malformed { reason: e.to_string() })
    }

    /// Refuses steps that together could multiply a text by more than [`MAX_GROWTH`].
    pub(super) fn check(&self) -> Result<(), TokenizerError> {
        let steps = [&self.normalizer, &self.pre_tokenizer, &self.decoder];
        let growth = steps.into_iter().map(growth_of).fold(1, usize::saturating_mul);
        if growth > MAX_GROWTH {
            return Err(TokenizerError::Refused { reason: "its normalizer or decoder multiplies the text" });
        }
        Ok(())
    }

    /// Whether every byte of a text comes to stand in some token: nothing is cut away, and no byte is unknown.
    pub(super) fn keeps_text(&self) -> bool {
        let normalizers = ["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Sequence"];
        let pre_tokenizers = ["ByteLevel", "Digits", "Sequence", "Split"];
        holds_byte_level(&self.decoder)
            && holds_byte_level(&self.pre_tokenizer)
            && all_known(&self.normalizer, &normalizers)
            && all_known(&self.pre_tokenizer, &pre_tokenizers)
    }
}

/// The steps of a sequence; none for another one.
fn inner(step: &Value) -> impl Iterator<Item = &Value> {
    ["normalizers", "pretokenizers", "decoders"]
        .into_iter()
        .filter_map(|key| step.get(key)?.as_array())
        .flatten()
}

fn type_of(step: &Value) -> Option<&str> {
    step.get("type").and_then(Value::as_str)
}

fn holds_byte_level(step: &Value) -> bool {
    type_of(step) == Some("ByteLevel") || inner(step).any(holds_byte_level)
}

fn all_known(step: &Value, known: &[&str]) -> bool {
    let removes = step.get("behavior").and_then(Value::as_str) == Some("Removed");
    step.is_null()
        || type_of(step).is_some_and(|name| known.contains(&name))
            && !removes
            && inner(step).all(|step| all_known(step, known))
}

/// By how much a step, or the sequence in it, may multiply its input, from the strings that it inserts.
fn growth_of(step: &Value) -> usize {
    let inserted = ["content", "prepend", "replacement"];
    let longest = inserted.iter().filter_map(|key| step.get(key)?.as_str()).map(str::len).max().unwrap_or(1);
    let own = match type_of(step) {
        // An expression that matches the empty text inserts at every character and removes none.
        Some("Replace") if step.pointer("/pattern/Regex").is_some() => 1 + longest,
        // Half of the bytes become characters of two bytes.
        Some("ByteLevel") => 2,
        _ => longest.max(1),
    };
    inner(step).map(growth_of).fold(own, usize::saturating_mul)
}

/// Replacing a space by the 3 bytes of U+2581, three times over: more than any real tokenizer does.
const MAX_GROWTH: usize = 64;
