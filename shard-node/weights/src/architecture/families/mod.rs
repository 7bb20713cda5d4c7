//! The families of decoders this version computes, as model files describe them: one file each, and
//! the table that finds them. How they compute is the engine's table, under the same names.
//!
//! A family says what `config.json` and GGUF metadata mean for it, which tensors a layer has, and
//! where llama.cpp's converter stores them otherwise than HF does.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use proto::manifest::Architecture;

use super::from_gguf::GgufFields;
use super::from_hf::{HfDefaults, HfFields};
use super::{FieldError, Reading};

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Family {
    /// Its name in [`Architecture::family`] and in the engine's table.
    pub(crate) name: &'static str,
    /// `model_type` of `config.json`.
    model_types: &'static [&'static str],
    /// `general.architecture` of a GGUF; `None` where GGUF files go by another family's name.
    gguf: Option<&'static str>,
    /// What `transformers` assumes where `config.json` says nothing.
    pub(super) defaults: HfDefaults,
    /// Names of the activation that gates the feed-forward network.
    pub(super) activations: &'static [&'static str],
    /// Completes what every `config.json` has in common.
    pub(super) read_hf: fn(&HfFields<'_>, &mut Reading) -> Result<(), FieldError>,
    /// Completes what the metadata of every GGUF have in common.
    pub(super) read_gguf: fn(&GgufFields<'_>, &mut Reading) -> Result<(), FieldError>,
    /// The tensors of one layer.
    pub(super) layer: fn(&Architecture, u32) -> Vec<Part>,
    /// GGUF names of parts of a layer, each with its HF name, where they differ from the usual ones.
    pub(crate) gguf_parts: &'static [(&'static str, &'static str)],
    /// llama.cpp's converter interleaves the rows of q and k.
    pub(crate) gguf_interleaves: bool,
    /// HF checkpoints store norms as what is added to one; llama.cpp's converter adds it.
    pub(super) norms_about_zero: bool,
}

/// A tensor of a layer: its canonical name after `model.layers.N.`, and its shape.
pub(super) type Part = (String, Vec<u64>);

/// All families. To add one: a file here, a row here, and the same in the engine.
static FAMILIES: [Family; 5] = [llama::LLAMA, llama::MISTRAL, qwen2::QWEN2, qwen3::QWEN3, gemma3::GEMMA3];

impl Family {
    /// The family of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// The family of a `config.json`'s `model_type`.
    pub(crate) fn of_model_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
    }

    /// The family of a GGUF's `general.architecture`.
    pub(crate) fn of_gguf(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.gguf == Some(architecture))
    }

    /// What is closest to a family outside the table, to describe as much of it as can be.
    pub(crate) fn nearest(name: &str) -> &'static Self {
        Self::named(name).unwrap_or(&FAMILIES[0])
    }
}

/// The names of all families, as in [`Architecture::family`].
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name)
}

/// The names of all families in one line.
pub(super) fn known() -> String {
    families().collect::<Vec<_>>().join(", ")
}

/// The four matrices of attention.
fn attention(a: &Architecture) -> impl Iterator<Item = Part> {
    let hidden = u64::from(a.hidden);
    let [q, kv] = [a.heads, a.kv_heads].map(|heads| u64::from(heads) * u64::from(a.head_dim));
    [("q", [q, hidden]), ("k", [kv, hidden]), ("v", [kv, hidden]), ("o", [hidden, q])]
        .into_iter()
        .map(|(name, shape)| (format!("self_attn.{name}_proj.weight"), shape.to_vec()))
}

/// Norms of the queries and keys of every head.
fn head_norms(a: &Architecture) -> impl Iterator<Item = Part> {
    let dim = u64::from(a.head_dim);
    ["q", "k"].into_iter().map(move |name| (format!("self_attn.{name}_norm.weight"), vec![dim]))
}

/// The three matrices of a gated feed-forward network.
fn feed_forward(a: &Architecture) -> impl Iterator<Item = Part> {
    let [hidden, ffn] = [a.hidden, a.ffn].map(u64::from);
    [("gate", [ffn, hidden]), ("up", [ffn, hidden]), ("down", [hidden, ffn])]
        .into_iter()
        .map(|(name, shape)| (format!("mlp.{name}_proj.weight"), shape.to_vec()))
}

/// Norms of the residual stream.
fn norms(a: &Architecture, names: &'static [&'static str]) -> impl Iterator<Item = Part> {
    let hidden = u64::from(a.hidden);
    names.iter().map(move |name| (format!("{name}.weight"), vec![hidden]))
}

/// The two norms of a layer of most families.
const TWO_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// What gates most families' feed-forward networks.
const SILU: &[&str] = &["silu", "swish"];
