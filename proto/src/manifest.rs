//! The manifest: what a model is, byte for byte. Its hash is the model's id.
//!
//! Canonical bytes are compact JSON with the fields in declaration order, so that two programs in two languages can
//! agree on them. The manifest does not hold the model's name: two people may call one model differently.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::span::MAX_LAYERS;
use crate::tensor::Dtype;
use crate::{ContentHash, ModelId};

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

/// The shape of a decoder and the numbers its forward pass needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Name of the family in the table of architectures: `llama`, ...
    pub family: String,
    /// Decoder layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Most positions.
    pub context: u32,
    /// RMS norm epsilon.
    pub norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// How the rotary embedding is stretched.
    pub rope_scaling: Option<RopeScaling>,
    /// The output head is the embedding matrix.
    pub tied_head: bool,
}

/// Stretched rotary embeddings.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3's frequency-dependent stretch.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Below this many turns in the original context a frequency is stretched whole.
        low_freq_factor: f64,
        /// Above this many it is left alone.
        high_freq_factor: f64,
        /// The original context.
        original_context: u32,
    },
}

impl RopeScaling {
    /// Whether a forward pass can divide by the numbers; no model stretches its context a million times.
    pub fn is_sane(self) -> bool {
        // False for NaN, as `contains` is.
        let factor_is_sane = |number: f64| (1e-6..=1e6).contains(&number);
        match self {
            Self::Linear { factor } => factor_is_sane(factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                [factor, low_freq_factor, high_freq_factor].into_iter().all(factor_is_sane)
                    && high_freq_factor > low_freq_factor
                    && (1..=MAX_CONTEXT).contains(&original_context)
            }
        }
    }
}

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

impl Architecture {
    /// Checks that the numbers are sane.
    pub fn check(&self) -> Result<(), ManifestError> {
        let field = |name: &str| Err(ManifestError::Field(name.into()));
        let within = |value: u32, max: u32| (1..=max).contains(&value);
        if self.family.is_empty() || self.family.len() > 64 {
            return field("family");
        }
        if !within(self.n_layers, MAX_LAYERS) {
            return field("n_layers");
        }
        if !within(self.hidden, 1 << 16) || !within(self.ffn, 1 << 18) || !within(self.vocab, 1 << 20) {
            return field("hidden, ffn or vocab");
        }
        if !within(self.heads, 1024) || !within(self.head_dim, 1024) || !self.head_dim.is_multiple_of(2) {
            return field("heads or head_dim");
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return field("kv_heads: must divide heads");
        }
        if !within(self.context, MAX_CONTEXT) {
            return field("context");
        }
        // `contains` is false for NaN.
        if !(f64::MIN_POSITIVE..1.0).contains(&self.norm_eps) || !(1.0..1e12).contains(&self.rope_theta) {
            return field("norm_eps or rope_theta");
        }
        if self.rope_scaling.is_some_and(|scaling| !scaling.is_sane()) {
            return field("rope_scaling: makes no sense");
        }
        Ok(())
    }

    /// Bytes of KV for one position in one layer, with elements of `element_bytes`.
    pub fn kv_bytes_per_layer(&self, element_bytes: u64) -> u64 {
        2 * u64::from(self.kv_heads) * u64::from(self.head_dim) * element_bytes
    }
}

#[cfg(test)]
mod tests;
