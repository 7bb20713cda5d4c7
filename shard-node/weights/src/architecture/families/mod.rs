//! The families of decoders this version computes, as model files describe them: one file each, and
//! the table that finds them. How they compute is the engine's table, under the same names.
//!
//! A family says what `config.json` and GGUF metadata mean for it, which tensors a layer has, and
//! where llama.cpp's converter stores them otherwise than HF does.

mod gemma3;
mod llama;
mod mixtral;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use proto::manifest::Architecture;

use super::from_gguf::GgufFields;
use super::from_hf::{HfDefaults, HfFields};
use super::{FieldError, Reading};
use crate::experts::ExpertNames;
use crate::gguf::Gguf;

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
    /// What a family with experts calls them.
    pub(crate) experts: Option<ExpertNames>,
}

/// A tensor of a layer: its canonical name after `model.layers.N.`, and its shape.
pub(super) type Part = (String, Vec<u64>);

/// All families. To add one: a file here, a row here, and the same in the engine.
static FAMILIES: [Family; 7] = [
    llama::LLAMA,
    llama::MISTRAL,
    qwen2::QWEN2,
    qwen3::QWEN3,
    gemma3::GEMMA3,
    mixtral::MIXTRAL,
    qwen3_moe::QWEN3_MOE,
];

impl Family {
    /// The family of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// The family of a `config.json`'s `model_type`.
    pub(crate) fn of_model_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
    }

    /// The family of a GGUF by its `general.architecture`, which some share with one that has experts.
    pub(crate) fn of_gguf(gguf: &Gguf) -> Option<&'static Self> {
        let architecture = gguf.string("general.architecture")?;
        let experts = gguf.unsigned(&format!("{architecture}.expert_count")).is_some_and(|count| count > 0);
        let mut named = FAMILIES.iter().filter(|family| family.gguf == Some(architecture));
        named.clone().find(|family| family.experts.is_some() == experts).or_else(|| named.next())
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

/// The router and the experts of a layer.
fn experts(a: &Architecture, layer: u32) -> impl Iterator<Item = Part> {
    let names = ExpertNames::of(&a.family);
    let (count, ffn) = a.experts.map_or((0, 0), |experts| (experts.count, experts.ffn));
    let [hidden, ffn, all] = [a.hidden, ffn, count].map(u64::from);
    let shapes = [[ffn, hidden], [ffn, hidden], [hidden, ffn]];
    let of_one = move |expert| {
        names.matrices(layer, expert).into_iter().zip(shapes).map(|(name, shape)| (name, shape.to_vec()))
    };
    let parts = [(names.router(layer), vec![all, hidden])].into_iter().chain((0..count).flat_map(of_one));
    parts.map(|(name, shape)| (name.splitn(4, '.').skip(3).collect(), shape))
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
