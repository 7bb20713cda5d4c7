//! A summary of a model for people and scripts: what it is, how large its parts are, what this version
//! cannot compute. Reads headers only; printing is the program's.

use std::collections::BTreeMap;

use proto::LayerSpan;
use proto::manifest::Architecture;
use proto::tensor::{Dtype, KvFormat};
use serde::Serialize;

use crate::architecture::{ArchitectureError, Reading, span_tensors};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::footprint::Footprint;
use crate::manifest::quantisation;

/// What `inspect` shows of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// `gguf` or `safetensors`.
    pub container: &'static str,
    /// The decoder.
    pub architecture: Architecture,
    /// The type of most matrices.
    pub quantisation: &'static str,
    /// Tensors by stored type.
    pub tensors: BTreeMap<&'static str, u64>,
    /// Values in all tensors.
    pub parameters: u64,
    /// Those that one token uses: all but the experts that it does not.
    pub parameters_per_token: u64,
    /// Stored bytes of all tensors.
    pub stored_bytes: u64,
    /// Stored bytes of each layer.
    pub layer_bytes: Vec<u64>,
    /// Stored bytes of the embedding.
    pub embedding_bytes: u64,
    /// Stored bytes that the last stage needs beside its layers: norm and head.
    pub head_bytes: u64,
    /// Memory in each numerics class.
    pub classes: Vec<Footprint>,
    /// The licence that the files name.
    pub licence: Option<String>,
    /// KV bytes of one token over all layers, in bf16.
    pub kv_bytes_per_token_bf16: u64,
    /// KV bytes of one token over all layers, in f32 (class `exact`).
    pub kv_bytes_per_token_exact: u64,
    /// Parts that this version cannot compute, tensors that are missing or unreadable; empty for a
    /// usable model.
    pub unsupported: Vec<String>,
}

/// Summarises an opened model.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Inspection, ArchitectureError> {
    let Reading { architecture, mut unsupported } = checkpoint.read_architecture()?;
    let mut tensors = BTreeMap::new();
    let (mut parameters, mut stored_bytes) = (0, 0);
    for tensor in checkpoint.stored_tensors() {
        *tensors.entry(tensor.dtype.name()).or_default() += 1;
        parameters += tensor.rows() * tensor.columns();
        stored_bytes += tensor.stored_bytes();
    }
    unsupported.extend(missing(checkpoint, &architecture));
    let bytes_of = |name: &str| checkpoint.tensor(name).map_or(0, StoredTensor::stored_bytes);
    let layer_bytes = (0..architecture.n_layers)
        .map(|layer| {
            let prefix = format!("model.layers.{layer}.");
            checkpoint.tensors_with_prefix(&prefix).map(StoredTensor::stored_bytes).sum()
        })
        .collect();
    let embedding_bytes = bytes_of("model.embed_tokens.weight");
    let head = if architecture.tied_head { embedding_bytes } else { bytes_of("lm_head.weight") };
    let kv = |format| u64::from(architecture.n_layers) * architecture.kv_bytes_per_layer(format);
    Ok(Inspection {
        container: checkpoint.container().name(),
        quantisation: quantisation(checkpoint).name(),
        tensors,
        parameters,
        parameters_per_token: parameters - idle_parameters(checkpoint, &architecture),
        stored_bytes,
        layer_bytes,
        embedding_bytes,
        head_bytes: bytes_of("model.norm.weight") + head,
        classes: Footprint::of_all(&architecture, four_bit_ends(checkpoint, &architecture)),
        licence: checkpoint.licence(),
        kv_bytes_per_token_bf16: kv(KvFormat::Bf16),
        kv_bytes_per_token_exact: kv(KvFormat::F32),
        unsupported,
        architecture,
    })
}

/// Are embedding and head stored in blocks of 4 bits?
fn four_bit_ends(checkpoint: &Checkpoint, architecture: &Architecture) -> bool {
    let head = if architecture.tied_head { "model.embed_tokens.weight" } else { "lm_head.weight" };
    ["model.embed_tokens.weight", head].into_iter().all(|name| {
        checkpoint.tensor(name).is_ok_and(|tensor| matches!(tensor.dtype, Dtype::Q4_0 | Dtype::Q4_1))
    })
}

/// Values of the experts that a token does not use.
fn idle_parameters(checkpoint: &Checkpoint, architecture: &Architecture) -> u64 {
    let Some(experts) = architecture.experts else { return 0 };
    let of_experts = |tensor: &&StoredTensor| tensor.name.contains("experts.");
    let all: u64 =
        checkpoint.tensors().filter(of_experts).map(|tensor| tensor.rows() * tensor.columns()).sum();
    all / u64::from(experts.count.max(1)) * u64::from(experts.count.saturating_sub(experts.used))
}

/// What a whole pipeline would miss, at most a few lines of it.
fn missing(checkpoint: &Checkpoint, architecture: &Architecture) -> Vec<String> {
    let Ok(whole) = LayerSpan::new(0, architecture.n_layers) else { return Vec::new() };
    let mut problems = span_tensors(architecture, whole)
        .into_iter()
        .filter_map(|(name, shape)| checkpoint.require(&name, &shape).err());
    let mut named: Vec<String> = problems.by_ref().take(SHOWN).map(|error| error.to_string()).collect();
    let more = problems.count();
    if more > 0 {
        named.push(format!("and {more} more tensors"));
    }
    named
}

/// Missing tensors that are named one by one.
const SHOWN: usize = 5;
