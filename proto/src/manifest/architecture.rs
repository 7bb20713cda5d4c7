//! The shape of a decoder: what a forward pass needs to know besides the weights. Numbers only; which families
//! compute them is the engine's business.

use serde::{Deserialize, Serialize};

use super::{MAX_CONTEXT, ManifestError};
use crate::span::MAX_LAYERS;
use crate::tensor::KvFormat;

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
    /// Layers that see only the last positions; absent where every layer sees all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<SlidingWindow>,
    /// Base of the rotary embedding of the layers with a window, where it differs; those are never stretched then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_rope_theta: Option<f64>,
    /// Scores are multiplied by this number to the power of -1/2; absent where that is `head_dim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_scalar: Option<f64>,
    /// Experts instead of one feed-forward; `ffn` is then that of the dense layers, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
}

/// Attention that forgets: a row sees itself and the `width - 1` positions before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlidingWindow {
    /// Positions a row sees, itself among them.
    pub width: u32,
    /// Every so manieth layer sees all positions: with 6, layers 5, 11, ... (counted from 0). Absent: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_every: Option<u32>,
}

impl SlidingWindow {
    /// Whether this layer has the window.
    pub const fn covers(self, layer: u32) -> bool {
        match self.global_every {
            Some(every) => !(layer + 1).is_multiple_of(every),
            None => true,
        }
    }
}

/// A mixture of feed-forward networks, of which a row uses a few.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u32,
    /// Experts a row uses.
    pub used: u32,
    /// Width of one expert.
    pub ffn: u32,
    /// The used experts' weights are divided by their sum.
    pub normalise: bool,
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
    /// YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Frequencies with more turns than this in the original context are left alone.
        beta_fast: f64,
        /// Frequencies with fewer turns than this are divided whole.
        beta_slow: f64,
        /// Cosines and sines are multiplied by this.
        attention_factor: f64,
        /// The borders between the two are rounded to whole dimensions.
        truncate: bool,
        /// The original context.
        original_context: u32,
    },
}

/// Most experts in all layers together: 61 layers of 256 have 15,616.
const MAX_EXPERTS: u64 = 1 << 16;

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
            Self::Yarn { factor, beta_fast, beta_slow, attention_factor, truncate: _, original_context } => {
                [factor, beta_fast, beta_slow, attention_factor].into_iter().all(factor_is_sane)
                    && beta_fast > beta_slow
                    && (1..=MAX_CONTEXT).contains(&original_context)
            }
        }
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
        if self.window.is_some_and(|window| window.width == 0 || window.global_every.is_some_and(|n| n < 2)) {
            return field("window");
        }
        if self.local_rope_theta.is_some_and(|theta| !(1.0..1e12).contains(&theta)) {
            return field("local_rope_theta");
        }
        if self.query_scalar.is_some_and(|scalar| !(1e-6..1e12).contains(&scalar)) {
            return field("query_scalar");
        }
        let sane = |e: Experts| within(e.count, 4096) && within(e.used, e.count) && within(e.ffn, 1 << 18);
        if !self.experts.is_none_or(sane) {
            return field("experts");
        }
        // Three matrices each: whoever lists a model's tensors must not be made to list millions.
        if self.experts.is_some_and(|e| u64::from(e.count) * u64::from(self.n_layers) > MAX_EXPERTS) {
            return field("experts: too many in all layers together");
        }
        Ok(())
    }

    /// Bytes of KV for one position in one layer.
    pub fn kv_bytes_per_layer(&self, format: KvFormat) -> u64 {
        2 * u64::from(self.kv_heads) * format.head_bytes(self.head_dim)
    }
}
