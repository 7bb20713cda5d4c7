//! A model on disk: its tensors under canonical names, whatever the container, and their bytes.
//! Opening reads headers only; no tensor byte is touched before it is asked for. It does not know
//! what the tensors mean (see [`crate::architecture`]) nor whether they are right (see [`crate::manifest`]).

mod open;

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};

use proto::tensor::Dtype;

use crate::dequantise::{self, DequantiseError, Element};
use crate::gguf::Gguf;
use crate::header::clip;
use crate::mapping::MappedFile;
use crate::stored::READABLE;
pub use open::OpenError;
pub(crate) use open::{read_json, read_small};

/// An opened model: a GGUF file, or a directory of safetensors with its `config.json`.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    container: Container,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, StoredTensor>,
    /// Tensors of the file that were taken apart, by stored name.
    stacks: BTreeMap<String, StoredTensor>,
    absent: BTreeMap<String, Absent>,
}

/// The files a model came in.
#[derive(Debug)]
pub enum Container {
    /// One GGUF file, which holds everything.
    Gguf(Gguf),
    /// A directory in the HF layout; `config.json` parsed.
    Safetensors {
        /// The members of `config.json`.
        config: serde_json::Map<String, serde_json::Value>,
    },
}

impl Container {
    /// `gguf` or `safetensors`, as the manifest says.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gguf(_) => "gguf",
            Self::Safetensors { .. } => "safetensors",
        }
    }
}

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Canonical (HF) name, such as `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// The name in its file, as in the manifest.
    pub stored_name: String,
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Order of the rows in the file.
    pub layout: RowLayout,
    file: usize,
    offset: u64,
    len: u64,
    /// A part of the tensor that the file holds under `stored_name`: one of a stack of experts.
    sliced: bool,
}

impl StoredTensor {
    /// Rows: the outermost dimension (1 for a scalar).
    pub fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Values per row (1 for a vector).
    pub fn columns(&self) -> u64 {
        // Saturating: a hostile shape may hold huge dimensions beside a zero.
        self.shape.iter().skip(1).fold(1, |product: u64, &dim| product.saturating_mul(dim))
    }

    /// Stored bytes.
    pub const fn stored_bytes(&self) -> u64 {
        self.len
    }

    /// Is it one of several that the file holds as one tensor? See [`Checkpoint::whole`].
    pub const fn is_sliced(&self) -> bool {
        self.sliced
    }
}

/// Order of a tensor's rows in its file, relative to the HF layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLayout {
    /// The same.
    Plain,
    /// llama-family q and k in GGUF: in each head, row `j * head_dim / 2 + i` of HF (`j` is the half)
    /// is stored as row `2 * i + j`. [`Checkpoint::rows`] undoes it.
    HeadInterleaved {
        /// Rows of a head; even.
        head_dim: u64,
    },
}

impl RowLayout {
    /// Where the file has the row that HF calls `row`.
    pub const fn stored_row(self, row: u64) -> u64 {
        match self {
            Self::Plain => row,
            Self::HeadInterleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + 2 * (within % half) + within / half
            }
        }
    }
}

/// A file of the model that holds tensors.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    mapped: MappedFile,
}

impl WeightFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for streaming reads.
    pub const fn mapped(&self) -> &MappedFile {
        &self.mapped
    }
}

/// Why a name of the model has no readable bytes.
#[derive(Clone, Debug)]
enum Absent {
    /// The index names a shard file that is not there.
    Shard(PathBuf),
    /// Its type cannot be read.
    Type { path: PathBuf, name: &'static str },
}

/// Why a tensor cannot be used. Every case names the file, the tensor and the cure.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// No such tensor.
    #[error(
        "{path}: there is no tensor {tensor}; the model is incomplete or of another architecture: fetch it again"
    )]
    Missing {
        /// The model.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
    },
    /// The file that should hold it is not there.
    #[error("{path}: the file that holds tensor {tensor} is missing; fetch it")]
    ShardMissing {
        /// The missing file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
    },
    /// Stored in a type that this version cannot read.
    #[error("{path}: tensor {tensor} is stored as {dtype}, which is not supported; use {READABLE}")]
    UnreadableType {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The type's name.
        dtype: &'static str,
    },
    /// Its shape is not the one the architecture demands.
    #[error(
        "{path}: tensor {tensor} has shape {found:?}, the architecture demands {expected:?}; config and weights do not belong together: fetch the model again"
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<u64>,
        /// The shape it has.
        found: Vec<u64>,
    },
    /// Rows beyond its last one were asked for.
    #[error("{path}: tensor {tensor} has {rows} rows, {start}..{end} were asked for")]
    RowsOutOfRange {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// Its rows.
        rows: u64,
        /// First row asked for.
        start: u64,
        /// One past the last row asked for.
        end: u64,
    },
    /// A value that would spoil every token.
    #[error(
        "{path}: tensor {tensor} holds {value} in row {row}, column {column}; the file is damaged or was made badly: fetch it again, or another conversion of the model"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// The row, counted from 0 as HF orders them.
        row: u64,
        /// The place in the row.
        column: u64,
        /// What is there.
        value: f32,
    },
    /// Its rows are not whole blocks, or the output has the wrong length.
    #[error("{path}: tensor {tensor}")]
    Dequantise {
        /// The file.
        path: PathBuf,
        /// Canonical name.
        tensor: String,
        /// What does not fit.
        source: DequantiseError,
    },
}

impl Checkpoint {
    /// Opens a GGUF file or an HF directory. Reads and checks headers only.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        open::open(path)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container with its metadata.
    pub const fn container(&self) -> &Container {
        &self.container
    }

    /// Another `config.json` for the same tensors.
    #[cfg(test)]
    pub(crate) fn replace_config(&mut self, config: serde_json::Map<String, serde_json::Value>) {
        self.container = Container::Safetensors { config };
    }

    /// The files that hold tensors.
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// The readable tensors as the files hold them, stacks of experts whole; in no order.
    pub fn stored_tensors(&self) -> impl Iterator<Item = &StoredTensor> {
        self.tensors.values().filter(|tensor| !tensor.sliced).chain(self.stacks.values())
    }

    /// What the file holds a tensor of this checkpoint in: itself, or the stack it is a part of.
    pub fn whole<'a>(&'a self, tensor: &'a StoredTensor) -> &'a StoredTensor {
        self.stacks.get(&tensor.stored_name).filter(|_| tensor.sliced).unwrap_or(tensor)
    }

    /// All readable tensors, ordered by canonical name.
    pub fn tensors(&self) -> impl Iterator<Item = &StoredTensor> {
        self.tensors.values()
    }

    /// Readable tensors whose canonical name begins with `prefix`.
    pub fn tensors_with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a StoredTensor> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.tensors
            .range::<str, _>(from)
            .take_while(move |(name, _)| name.starts_with(prefix))
            .map(|(_, tensor)| tensor)
    }

    /// Names that have no readable bytes, each with the reason, ordered by name.
    pub fn unreadable(&self) -> impl Iterator<Item = TensorError> {
        self.absent.iter().map(|(name, absent)| absent.error(name))
    }

    /// The tensor of that canonical name.
    pub fn tensor(&self, name: &str) -> Result<&StoredTensor, TensorError> {
        self.tensors.get(name).ok_or_else(|| match self.absent.get(name) {
            Some(absent) => absent.error(name),
            None => TensorError::Missing { path: self.path.clone(), tensor: clip(name) },
        })
    }

    /// Does the model have a tensor of that canonical name, readable or not? A tensor that can't be read is
    /// still a part of the model.
    pub fn lists(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.absent.contains_key(name)
    }

    /// Canonical names of all tensors, readable or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().chain(self.absent.keys()).map(String::as_str)
    }

    /// The tensor of that canonical name, which must have that shape.
    pub fn require(&self, name: &str, shape: &[u64]) -> Result<&StoredTensor, TensorError> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            return Err(TensorError::WrongShape {
                path: self.file_of(tensor).to_owned(),
                tensor: clip(name),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        Ok(tensor)
    }

    /// The file that holds a tensor of this checkpoint.
    pub fn file_of(&self, tensor: &StoredTensor) -> &Path {
        &self.files[tensor.file].path
    }

    /// The stored bytes of a tensor, in the map.
    pub fn bytes(&self, name: &str) -> Result<&[u8], TensorError> {
        self.tensor(name).map(|tensor| self.stored(tensor))
    }

    /// The stored bytes of a tensor of this checkpoint, in the map.
    pub fn stored(&self, tensor: &StoredTensor) -> &[u8] {
        &self.files[tensor.file].mapped.bytes()[tensor.byte_range()]
    }

    /// Gives a tensor's pages back to the system, after its values have been packed elsewhere.
    /// Reading it again works and costs time only.
    pub fn release(&self, name: &str) -> Result<(), TensorError> {
        self.release_stored(self.tensor(name)?);
        Ok(())
    }

    /// [`release`](Self::release) of a tensor of this checkpoint.
    pub fn release_stored(&self, tensor: &StoredTensor) {
        if let Err(error) = self.files[tensor.file].mapped.release(tensor.byte_range()) {
            tracing::debug!(tensor = tensor.name, %error, "release pages");
        }
    }

    /// [`release`](Self::release) of some rows, in HF order. Where the file has them in another order it does nothing.
    pub fn release_rows(&self, tensor: &StoredTensor, rows: Range<u64>) {
        let all = tensor.rows();
        if tensor.layout != RowLayout::Plain || rows.start >= rows.end || rows.end > all {
            return;
        }
        let row_bytes = tensor.len / all;
        let [start, end] = [rows.start, rows.end].map(|row| (tensor.offset + row * row_bytes) as usize);
        if let Err(error) = self.files[tensor.file].mapped.release(start..end) {
            tracing::debug!(tensor = tensor.name, %error, "release pages");
        }
    }

    /// Values of some rows, in HF order (GGUF's permutation of q and k is undone), as `f32` or
    /// [`Bf16`](crate::dequantise::Bf16). Row-major, `rows.len() * columns` values, all of them finite.
    ///
    /// A vector has one value per row.
    pub fn rows<T: Element>(&self, name: &str, rows: Range<u64>) -> Result<Vec<T>, TensorError> {
        let tensor = self.tensor(name)?;
        let count = rows.end.saturating_sub(rows.start).min(tensor.rows());
        let mut out = vec![T::default(); (count * tensor.columns()) as usize];
        self.rows_into(tensor, rows, &mut out)?;
        Ok(out)
    }

    /// All values of a tensor, in HF order.
    pub fn values<T: Element>(&self, name: &str) -> Result<Vec<T>, TensorError> {
        let rows = self.tensor(name)?.rows();
        self.rows(name, 0..rows)
    }

    /// [`rows`](Self::rows) of a tensor of this checkpoint, into a buffer of exactly the right length.
    pub fn rows_into<T: Element>(
        &self,
        tensor: &StoredTensor,
        rows: Range<u64>,
        out: &mut [T],
    ) -> Result<(), TensorError> {
        let columns = tensor.columns() as usize;
        let wrong = |source| tensor_error(self.file_of(tensor), tensor, rows.start, source);
        if rows.start > rows.end || rows.end > tensor.rows() {
            return Err(TensorError::RowsOutOfRange {
                path: self.file_of(tensor).to_owned(),
                tensor: tensor.name.clone(),
                rows: tensor.rows(),
                start: rows.start,
                end: rows.end,
            });
        }
        let holds = (rows.end - rows.start) as usize * columns;
        if holds != out.len() {
            return Err(wrong(DequantiseError::WrongLength { ty: tensor.dtype, holds, room: out.len() }));
        }
        if holds == 0 {
            return Ok(());
        }
        let stored = self.stored(tensor);
        let row_bytes = stored.len() / tensor.rows() as usize;
        let range = |from: u64, to: u64| from as usize * row_bytes..to as usize * row_bytes;
        match tensor.layout {
            RowLayout::Plain => {
                dequantise::convert_finite(tensor.dtype, &stored[range(rows.start, rows.end)], out)
                    .map_err(wrong)
            }
            RowLayout::HeadInterleaved { .. } => {
                for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
                    let at = tensor.layout.stored_row(row);
                    dequantise::convert_finite(tensor.dtype, &stored[range(at, at + 1)], out)
                        .map_err(|source| tensor_error(self.file_of(tensor), tensor, row, source))?;
                }
                Ok(())
            }
        }
    }
}

/// What went wrong while rows from `first_row` on were converted.
fn tensor_error(path: &Path, tensor: &StoredTensor, first_row: u64, source: DequantiseError) -> TensorError {
    let (path, name) = (path.to_owned(), tensor.name.clone());
    match source {
        DequantiseError::NotFinite { index, value } => TensorError::NotFinite {
            path,
            tensor: name,
            row: first_row + index as u64 / tensor.columns(),
            column: index as u64 % tensor.columns(),
            value,
        },
        source => TensorError::Dequantise { path, tensor: name, source },
    }
}

impl StoredTensor {
    /// Where the bytes are in the file; inside it, as checked by the header's parser.
    fn byte_range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.len) as usize
    }
}

impl StoredTensor {
    /// Which file, and where in it.
    pub(crate) const fn place(&self) -> (usize, u64) {
        (self.file, self.offset)
    }
}

impl Absent {
    fn error(&self, name: &str) -> TensorError {
        match self {
            Self::Shard(path) => TensorError::ShardMissing { path: path.clone(), tensor: clip(name) },
            Self::Type { path, name: dtype } => {
                TensorError::UnreadableType { path: path.clone(), tensor: clip(name), dtype }
            }
        }
    }
}
