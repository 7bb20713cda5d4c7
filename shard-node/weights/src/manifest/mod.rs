//! Manifests: computed from a model's files by one streaming read, and held against them tensor by
//! tensor when a span is loaded ([`SpanCheck`] on several threads). The format is [`proto::manifest`]'s; the cache is [`cache`]'s;
//! [`fit`] looks at headers before anything is loaded.

pub mod cache;
pub mod fit;
mod span_check;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use proto::manifest::{Manifest, TensorEntry, TokenizerEntry};
use proto::tensor::Dtype;
use proto::{ContentHash, LayerSpan, ModelId};

use crate::architecture::ArchitectureError;
use crate::checkpoint::{Checkpoint, StoredTensor, TensorError};
use crate::names::layer_of;
use crate::text::{TextError, TextParts};
pub use span_check::SpanCheck;

/// A model with everything that nodes serve by hash.
#[derive(Clone, Debug)]
pub struct Described {
    /// What the model is.
    pub manifest: Manifest,
    /// The manifest's hash.
    pub id: ModelId,
    /// Bytes of `tokenizer.json`, as the manifest hashes them.
    pub tokenizer_json: Option<Vec<u8>>,
}

/// Why a manifest could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// The decoder is unknown or unsupported.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A tensor is missing or wrong.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Tokenizer or template cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file could not be read to its end.
    #[error("{path}: reading tensor {tensor}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// What was computed breaks a limit of the format.
    #[error("{path}: {source}")]
    Limit {
        /// The model.
        path: PathBuf,
        /// The limit.
        source: proto::manifest::ManifestError,
    },
}

/// Why a tensor on disk is not the manifest's.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read at all.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The manifest does not list it.
    #[error(
        "{path}: tensor {tensor} is not in the manifest of model {model}; these files are another model's"
    )]
    NotListed {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The model's id, shortened.
        model: String,
    },
    /// Type or shape differ.
    #[error(
        "{path}: tensor {tensor} is {found}, the manifest of model {model} says {expected}; these files are another model's"
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The model's id, shortened.
        model: String,
        /// Type and shape in the manifest.
        expected: String,
        /// Type and shape in the file.
        found: String,
    },
    /// The file could not be read.
    #[error("{path}: reading tensor {tensor}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// The bytes differ.
    #[error(
        "{path}: the bytes of tensor {tensor} are not those of model {model}; the file is damaged or was changed: fetch it again"
    )]
    WrongBytes {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The model's id, shortened.
        model: String,
    },
}

/// Computes the manifest of a whole model by one streaming read. `progress` is told (bytes hashed,
/// bytes in all) about once per MiB.
pub fn compute(checkpoint: &Checkpoint, progress: impl FnMut(u64, u64)) -> Result<Described, ComputeError> {
    let text = checkpoint.text()?;
    compute_with(checkpoint, text, progress)
}

fn compute_with(
    checkpoint: &Checkpoint,
    text: TextParts,
    progress: impl FnMut(u64, u64),
) -> Result<Described, ComputeError> {
    let architecture = checkpoint.architecture()?;
    let limit = |source| ComputeError::Limit { path: checkpoint.path().to_owned(), source };
    let whole = LayerSpan::new(0, architecture.n_layers)
        .map_err(|error| limit(proto::manifest::ManifestError::Field(error.to_string())))?;
    checkpoint.check_span(&architecture, whole)?;
    let tensors = hash_tensors(checkpoint, progress)?;
    let manifest = Manifest {
        format: 1,
        architecture,
        quantisation: quantisation(checkpoint).name().to_owned(),
        container: checkpoint.container().name().to_owned(),
        bos: text.bos,
        add_bos: text.add_bos,
        eos: text.eos,
        tokenizer: text
            .tokenizer_json
            .as_deref()
            .map(|bytes| TokenizerEntry { blake3: ContentHash::of(bytes), bytes: bytes.len() as u64 }),
        chat_template: text.chat_template,
        licence: text.licence,
        tensors,
    };
    manifest.check().map_err(limit)?;
    Ok(Described { id: manifest.model_id(), manifest, tokenizer_json: text.tokenizer_json })
}

/// Checks one tensor of the checkpoint against the manifest: listed, same type and shape, same bytes.
/// Touches that tensor's bytes only; of an expert in a stack, those of the whole stack, which is what is listed.
pub fn verify<'a>(
    manifest: &Manifest,
    checkpoint: &'a Checkpoint,
    tensor: &str,
) -> Result<&'a StoredTensor, VerifyError> {
    let stored = listed(manifest, checkpoint, tensor)?;
    let entry = manifest.tensor(&stored.stored_name);
    let whole = checkpoint.whole(stored);
    if entry.is_none_or(|entry| ContentHash::of(checkpoint.stored(whole)) != entry.blake3) {
        return Err(VerifyError::WrongBytes {
            path: checkpoint.file_of(stored).to_owned(),
            tensor: stored.name.clone(),
            model: manifest.model_id().short(),
        });
    }
    Ok(stored)
}

/// The tensor, which the manifest lists with its type and shape. Touches none of its bytes.
fn listed<'a>(
    manifest: &Manifest,
    checkpoint: &'a Checkpoint,
    tensor: &str,
) -> Result<&'a StoredTensor, VerifyError> {
    let stored = checkpoint.tensor(tensor)?;
    let path = || checkpoint.file_of(stored).to_owned();
    let model = || manifest.model_id().short();
    let tensor = || stored.name.clone();
    let entry = manifest.tensor(&stored.stored_name).ok_or_else(|| VerifyError::NotListed {
        path: path(),
        tensor: tensor(),
        model: model(),
    })?;
    let whole = checkpoint.whole(stored);
    if entry.dtype != whole.dtype || entry.shape != whole.shape {
        return Err(VerifyError::Differs {
            path: path(),
            tensor: tensor(),
            model: model(),
            expected: format!("{} {:?}", entry.dtype, entry.shape),
            found: format!("{} {:?}", whole.dtype, whole.shape),
        });
    }
    Ok(stored)
}

/// The type that holds most values of the layers' matrices.
pub fn quantisation(checkpoint: &Checkpoint) -> Dtype {
    let mut values: HashMap<Dtype, u64> = HashMap::new();
    let matrices = || checkpoint.tensors().filter(|tensor| tensor.shape.len() > 1);
    for tensor in matrices().filter(|tensor| layer_of(&tensor.name).is_some()) {
        *values.entry(tensor.dtype).or_default() += tensor.rows() * tensor.columns();
    }
    let most = values.into_iter().max_by_key(|&(dtype, count)| (count, dtype.name()));
    most.map_or(Dtype::F32, |(dtype, _)| dtype)
}

/// BLAKE3 of every tensor's stored bytes, ordered by stored name. Plain reads in file order, not the
/// map: the pages of a whole model should not count as this process's memory.
fn hash_tensors(
    checkpoint: &Checkpoint,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<TensorEntry>, ComputeError> {
    let mut in_order: Vec<&StoredTensor> = checkpoint.stored_tensors().collect();
    in_order.sort_by_key(|tensor| tensor.place());
    let total = in_order.iter().map(|tensor| tensor.stored_bytes()).sum();
    let mut done = 0;
    let mut buffer = vec![0; READ_BYTES];
    let mut entries = Vec::with_capacity(in_order.len());
    for tensor in in_order {
        let mut hasher = blake3::Hasher::new();
        let (file, mut at) = tensor.place();
        let file = checkpoint.files()[file].mapped().file();
        let mut left = tensor.stored_bytes();
        while left > 0 {
            let part = &mut buffer[..left.min(READ_BYTES as u64) as usize];
            file.read_exact_at(part, at).map_err(|source| ComputeError::Read {
                path: checkpoint.file_of(tensor).to_owned(),
                tensor: tensor.name.clone(),
                source,
            })?;
            hasher.update(part);
            let read = part.len() as u64;
            (at, left, done) = (at + read, left - read, done + read);
            progress(done, total);
        }
        entries.push(TensorEntry {
            name: tensor.stored_name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            blake3: ContentHash::from_bytes(*hasher.finalize().as_bytes()),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// One read: large enough for the device's full speed, small enough for the second-level cache.
const READ_BYTES: usize = 1 << 20;
