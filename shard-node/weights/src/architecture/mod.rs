//! The shape of the decoder, read from `config.json` or GGUF metadata, and the parts of it that this
//! version cannot compute, each by name. What tensors that shape demands is listed here too.

mod from_gguf;
mod from_hf;

use std::path::PathBuf;

use proto::LayerSpan;
use proto::manifest::Architecture;

use crate::checkpoint::{Checkpoint, Container, TensorError};

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
    #[error("{path}: not supported by this version: {}; use a model of the llama or mistral family", parts.join(", "))]
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
        .map_err(|FieldError { field, what }| ArchitectureError::Field {
            path: self.path().to_owned(),
            field,
            what,
        })?;
        reading.unsupported.extend(unexpected_tensors(self));
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
pub fn span_tensors(architecture: &Architecture, span: LayerSpan) -> Vec<(String, Vec<u64>)> {
    let a = architecture;
    let [hidden, ffn, vocab] = [a.hidden, a.ffn, a.vocab].map(u64::from);
    let [q, kv] = [a.heads, a.kv_heads].map(|heads| u64::from(heads) * u64::from(a.head_dim));
    let mut tensors = Vec::new();
    let last = span.end() == a.n_layers;
    if span.start() == 0 || (last && a.tied_head) {
        tensors.push(("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]));
    }
    for layer in span.layers() {
        let parts: [(&str, Vec<u64>); 9] = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, q]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![ffn, hidden]),
            ("mlp.up_proj", vec![ffn, hidden]),
            ("mlp.down_proj", vec![hidden, ffn]),
        ];
        tensors.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
    }
    if last {
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !a.tied_head {
            tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
    }
    tensors
}

/// A field of the metadata that cannot be used.
#[derive(Debug)]
struct FieldError {
    field: String,
    what: String,
}

impl FieldError {
    fn new(field: &str, what: impl Into<String>) -> Self {
        Self { field: field.to_owned(), what: what.into() }
    }
}

/// Tensors that a llama-family forward pass would silently ignore.
fn unexpected_tensors(checkpoint: &Checkpoint) -> Vec<String> {
    let in_layers = |name: &&str| name.starts_with("model.layers.") || name.starts_with("blk.");
    let names: Vec<&str> = checkpoint.names().filter(in_layers).collect();
    let mut parts = Vec::new();
    if let Some(name) =
        names.iter().find(|name| name.rsplit_once('.').is_some_and(|(_, kind)| kind == "bias"))
    {
        parts.push(format!("biases ({name})"));
    }
    if let Some(name) = names.iter().find(|name| name.contains("q_norm.") || name.contains("k_norm.")) {
        parts.push(format!("norms of q and k ({name})"));
    }
    if let Some(name) = names.iter().find(|name| name.contains("experts") || name.contains("_exps.")) {
        parts.push(format!("experts ({name})"));
    }
    parts
}
