//! The manifest: what a model is, byte for byte. Its hash is the model's id.
//!
//! Canonical bytes are compact JSON with the fields in declaration order, so that two programs in two languages can
//! agree on them. The manifest does not hold the model's name: two people may call one model differently.

mod architecture;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::tensor::Dtype;
use crate::{ContentHash, ModelId};

pub use architecture::{Architecture, Experts, RopeScaling, SlidingWindow};

/// Largest manifest in bytes: 200 bytes for each of 65,536 tensors.
pub const MAX_MANIFEST_BYTES: usize = 16 << 20;
/// Most tensors; an MoE with 128 experts on 64 layers has 25,000.
pub const MAX_TENSORS: usize = 65_536;
/// Most positions of a context; the longest published ones have ten million.
pub const MAX_CONTEXT: u32 = 1 << 24;
/// Largest chat template in bytes; the largest in use, with tool schemas, have about 20 kB.
pub const MAX_TEMPLATE_BYTES: usize = 128 << 10;
/// Longest licence, quantisation or container in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// A tensor as stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name in the file.
    pub name: String,
    /// How its elements are laid out.
    pub dtype: Dtype,
    /// Row-major: the last dimension is contiguous.
    pub shape: Vec<u64>,
    /// BLAKE3 of its stored bytes.
    pub blake3: ContentHash,
}

/// The tokenizer's file by hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerEntry {
    /// BLAKE3 of the `tokenizer.json` bytes.
    pub blake3: ContentHash,
    /// Their length.
    pub bytes: u64,
}

/// What a model is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 1.
    pub format: u32,
    /// The decoder.
    pub architecture: Architecture,
    /// `Q4_1`, `BF16`...: the type of most matrices.
    pub quantisation: String,
    /// The container it was read from: `gguf` or `safetensors`; GGUF permutes the rows of some llama matrices.
    pub container: String,
    /// Begins a text, if the model wants that.
    pub bos: Option<u32>,
    /// The tokenizer adds `bos` to plain prompts.
    pub add_bos: bool,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
    /// Tokenizer, if the model has one.
    pub tokenizer: Option<TokenizerEntry>,
    /// Jinja chat template, if it has one.
    pub chat_template: Option<String>,
    /// SPDX id or name of the licence, if the files say.
    pub licence: Option<String>,
    /// Every tensor, ordered by name.
    pub tensors: Vec<TensorEntry>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Over [`MAX_MANIFEST_BYTES`].
    #[error("manifest of {0} bytes is over {MAX_MANIFEST_BYTES}")]
    TooLong(usize),
    /// Not the JSON of a manifest.
    #[error("manifest does not parse: {0}")]
    Malformed(String),
    /// Parses, but is not what this version would have written; its hash would not be the model's id.
    #[error("manifest is not in canonical form")]
    NotCanonical,
    /// The bytes do not hash to the id they were asked for by.
    #[error("manifest hashes to {got}, not to {expected}")]
    WrongId {
        /// The id asked for.
        expected: ModelId,
        /// The bytes' id.
        got: ModelId,
    },
    /// A field breaks a limit.
    #[error("manifest: invalid {0}")]
    Field(String),
}

impl Manifest {
    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest holds no map with keys that are not strings")
    }

    /// BLAKE3 of the canonical bytes.
    pub fn model_id(&self) -> ModelId {
        ModelId::from_bytes(*ContentHash::of(&self.to_bytes()).as_bytes())
    }

    /// Parses and checks bytes from a peer or a cache.
    pub fn from_bytes(bytes: &[u8], expected: ModelId) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let got = ModelId::from_bytes(*ContentHash::of(bytes).as_bytes());
        if got != expected {
            return Err(ManifestError::WrongId { expected, got });
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        manifest.check()?;
        if manifest.to_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The entry of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok().map(|at| &self.tensors[at])
    }

    /// Checks limits and that the numbers fit each other.
    pub fn check(&self) -> Result<(), ManifestError> {
        let field = |name: &str| Err(ManifestError::Field(name.into()));
        if self.format != 1 {
            return field("format: this version reads format 1");
        }
        self.architecture.check()?;
        if self.tensors.len() > MAX_TENSORS {
            return field("tensors: too many");
        }
        if self.chat_template.as_ref().is_some_and(|template| template.len() > MAX_TEMPLATE_BYTES) {
            return field("chat_template: too long");
        }
        if self.eos.len() > crate::session::MAX_EOS {
            return field("eos: too many");
        }
        let outside = |id: &u32| *id >= self.architecture.vocab;
        if self.bos.as_ref().is_some_and(outside) || self.eos.iter().any(outside) {
            return field("bos or eos: outside the vocabulary");
        }
        let labels = [("quantisation", &self.quantisation), ("container", &self.container)];
        for (name, label) in labels.into_iter().chain(self.licence.as_ref().map(|label| ("licence", label))) {
            if label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control) {
                return field(&format!("{name}: too long, or not plain text"));
            }
        }
        let mut names = HashSet::new();
        for tensor in &self.tensors {
            if tensor.name.len() > 512
                || tensor.shape.len() > 8
                || tensor.dtype.bytes(&tensor.shape).is_none()
            {
                return field(&format!("tensor {:.80}", tensor.name));
            }
            if !names.insert(tensor.name.as_str()) {
                return field(&format!("tensor {:.80}: named twice", tensor.name));
            }
        }
        if !self.tensors.is_sorted_by(|a, b| a.name < b.name) {
            return field("tensors: not ordered by name");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
