//! The shape of the decoder, read from `config.json` or GGUF metadata, and the parts of it that this
//! version cannot compute, each by name. What tensors that shape demands is listed here too.

pub(crate) mod families;
mod from_gguf;
mod from_hf;
mod layer_types;
mod rope;

use std::collections::BTreeSet;
use std::path::PathBuf;

use proto::LayerSpan;
use proto::manifest::Architecture;

use crate::checkpoint::{Checkpoint, Container, TensorError};
use crate::header::clip;
use crate::names::layer_of;
use crate::stored::READABLE;
use families::{Family, known};
use layer_types::LayerTypes;

pub use families::families;

/// What a model's metadata says about its decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The decoder, as far as it can be described.
    pub architecture: Architecture,
    /// Parts that this version cannot compute; empty for a usable model.
    pub unsupported: Vec<String>,
}

/// Why a model's decoder could not be described. Names the file and the field.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// A number is missing, of the wrong kind or out of range.
    #[error("{path}: {field} {what}; the model's metadata is damaged: fetch it again")]
    Field {
        /// The model.
        path: PathBuf,
        /// The field's name in the metadata.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// Known, but not computable here.
    #[error("{path}: not supported by this version: {}; use a model of one of these families: {}", parts.join(", "), known())]
    Unsupported {
        /// The model.
        path: PathBuf,
        /// The parts, each by name.
        parts: Vec<String>,
    },
}

impl Checkpoint {
    /// The decoder; an error that names every unsupported part when this version cannot compute it.
    pub fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        let reading = self.read_architecture()?;
        if reading.unsupported.is_empty() {
            return Ok(reading.architecture);
        }
        Err(ArchitectureError::Unsupported { path: self.path().to_owned(), parts: reading.unsupported })
    }

    /// The decoder together with the names of its unsupported parts, for `inspect`.
    pub fn read_architecture(&self) -> Result<Reading, ArchitectureError> {
        let mut reading = match self.container() {
            Container::Gguf(gguf) => from_gguf::read(gguf, self),
            Container::Safetensors { config } => from_hf::read(config),
        }
        .map_err(|FieldError { field, what }| {
            let path = self.path().to_owned();
            // What another family calls its numbers is not damage.
            match unknown_family(self.container()) {
                Some(part) => ArchitectureError::Unsupported { path, parts: vec![part] },
                None => ArchitectureError::Field { path, field, what },
            }
        })?;
        if let Some(scaling) = reading.architecture.rope_scaling.filter(|scaling| !scaling.is_sane()) {
            return Err(ArchitectureError::Field {
                path: self.path().to_owned(),
                field: "rope scaling".to_owned(),
                what: format!("makes no sense: {scaling:?}"),
            });
        }
        reading.architecture.check().map_err(|error| ArchitectureError::Field {
            path: self.path().to_owned(),
            field: "architecture".to_owned(),
            what: error.to_string(),
        })?;
        let unexpected = unexpected_tensors(self, &reading.architecture);
        reading.unsupported.extend(unexpected);
        Ok(reading)
    }

    /// Checks that every tensor that the layers of `span` need is there, readable and of the right
    /// shape; the embedding with the first layer, norm and head with the last.
    pub fn check_span(&self, architecture: &Architecture, span: LayerSpan) -> Result<(), TensorError> {
        for (name, shape) in span_tensors(architecture, span) {
            self.require(&name, &shape)?;
        }
        Ok(())
    }
}

/// Canonical names and shapes of the tensors that a span needs. A tied head counts at both ends.
/// A family that is not known is taken for a llama.
pub fn span_tensors(architecture: &Architecture, span: LayerSpan) -> Vec<(String, Vec<u64>)> {
    let a = architecture;
    let family = Family::nearest(&a.family);
    let [hidden, vocab] = [a.hidden, a.vocab].map(u64::from);
    let mut tensors = Vec::new();
    let last = span.end() == a.n_layers;
    if span.start() == 0 || (last && a.tied_head) {
        tensors.push(("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]));
    }
    for layer in span.layers() {
        let parts = (family.layer)(a, layer.get()).into_iter();
        tensors.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)));
    }
    if last {
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !a.tied_head {
            tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
    }
    tensors
}

/// What to add to a norm's stored values to get its factors: some families store them less one in HF
/// checkpoints, and llama.cpp's converter adds it.
pub fn norm_offset(architecture: &Architecture, container: &Container) -> f32 {
    let about_zero = Family::named(&architecture.family).is_some_and(|family| family.norms_about_zero);
    if about_zero && matches!(container, Container::Safetensors { .. }) { 1.0 } else { 0.0 }
}

/// The family's name in the metadata, if it is not one of those that are computed.
fn unknown_family(container: &Container) -> Option<String> {
    match container {
        Container::Gguf(gguf) => {
            let name = gguf.string("general.architecture")?;
            Family::of_gguf(gguf).is_none().then(|| format!("architecture {:?}", clip(name)))
        }
        Container::Safetensors { config } => {
            let name = config.get("model_type")?.as_str()?;
            Family::of_model_type(name).is_none().then(|| format!("model_type {:?}", clip(name)))
        }
    }
}

/// What to say of a checkpoint that was quantised by that method.
fn quantised_checkpoint(method: &str) -> String {
    format!(
        "quantization_config {:?} (int4 of GPTQ and AWQ and 8-bit floats are not read; take the model unquantised, or a \
         GGUF of it in {READABLE})",
        clip(method)
    )
}

/// A field of the metadata that cannot be used.
#[derive(Debug)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    what: String,
}

impl FieldError {
    pub(crate) fn new(field: &str, what: impl Into<String>) -> Self {
        Self { field: field.to_owned(), what: what.into() }
    }
}

/// Tensors of the model's layers that its family's forward pass would silently ignore, one of each kind.
fn unexpected_tensors(checkpoint: &Checkpoint, architecture: &Architecture) -> Vec<String> {
    let family = Family::nearest(&architecture.family);
    let mut kinds: [(&str, Option<&str>); 4] =
        [("biases", None), ("norms of q and k", None), ("experts", None), ("parts of another family", None)];
    // Names come in order, so that a layer's follow each other.
    let mut layer = None;
    let mut expected = BTreeSet::new();
    for name in checkpoint.names() {
        let gguf = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
        let Some(index) = layer_of(name).or(gguf).filter(|&index| index < architecture.n_layers) else {
            continue;
        };
        if layer != Some(index) {
            layer = Some(index);
            let parts = (family.layer)(architecture, index).into_iter();
            expected = parts.map(|(part, _)| format!("model.layers.{index}.{part}")).collect();
        }
        let kind = match name.rsplit_once('.') {
            _ if expected.contains(name) => continue,
            Some((_, "bias")) => 0,
            _ if name.contains("q_norm.") || name.contains("k_norm.") => 1,
            _ if name.contains("experts") || name.contains("_exps.") || name.contains(".mlp.gate.") => 2,
            // Tables of the rotary embedding that old checkpoints have in every layer; they are computed here.
            Some((part, "weight")) if !part.ends_with("rope_freqs") && !part.ends_with("attn_rot_embd") => 3,
            _ => continue,
        };
        kinds[kind].1.get_or_insert(name);
    }
    kinds.into_iter().filter_map(|(kind, name)| Some(format!("{kind} ({})", clip(name?)))).collect()
}
