//! Opening a model: finds its files, checks their headers, and gives every tensor its canonical name.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use proto_text::count_json_values;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{Absent, Checkpoint, Container, RowLayout, StoredTensor, WeightFile};
use crate::architecture::families::Family;
use crate::experts::{ExpertNames, InGguf, MAX_EXPERTS};
use crate::gguf::Gguf;
use crate::header::{HeaderError, MAX_TENSORS, TensorHeader, clip};
use crate::mapping::MappedFile;
use crate::stored::ElementType;
use crate::{names, safetensors};

/// Largest `config.json`, `generation_config.json` or `tokenizer_config.json`: real ones are below
/// 64 KiB, a few tokenizer configurations list thousands of added tokens.
const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// Most values in one of these: 6,400 added tokens with their attributes make 51,000. In memory some 70 bytes each.
const MAX_CONFIG_VALUES: u64 = 1 << 18;
/// Largest safetensors index: 131,072 tensors at 150 bytes.
const MAX_INDEX_BYTES: u64 = 32 << 20;
/// Most shard files of one model.
const MAX_SHARDS: usize = 4096;

/// Why a model could not be opened. Every case names the file and the cure.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing at that path.
    #[error(
        "{path}: there is no such file or directory; give an HF directory, a .gguf file, a built-in alias or hf:ORG/NAME"
    )]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A header is wrong.
    #[error("{path}: {source}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// A JSON file is wrong.
    #[error("{path}: {what}; fetch the model again")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The directory holds no weights.
    #[error(
        "{path}: there is no model.safetensors, no model.safetensors.index.json and no other single .safetensors file; fetch the model again, or give the .gguf file itself"
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// One part of a GGUF that was split.
    #[error(
        "{path}: this is one of {parts} parts of a split GGUF, which is not supported; merge them with llama-gguf-split --merge"
    )]
    SplitGguf {
        /// The file.
        path: PathBuf,
        /// Number of parts.
        parts: u64,
    },
    /// A file is larger than its limit.
    #[error("{path}: {bytes} bytes are more than the limit of {limit}; this is not the file it should be")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

pub(super) fn open(path: &Path) -> Result<Checkpoint, OpenError> {
    let metadata = std::fs::metadata(path).map_err(|source| io_error(path, source))?;
    if metadata.is_dir() { open_directory(path) } else { open_gguf(path) }
}

/// Reads a small file of a model whole; `None` when there is none.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, OpenError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, source)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|source| io_error(path, source))?;
    if bytes.len() as u64 > limit {
        return Err(OpenError::TooLarge { path: path.to_owned(), bytes: bytes.len() as u64, limit });
    }
    Ok(Some(bytes))
}

/// Reads a JSON object of a model; `None` when there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>, OpenError> {
    let Some(bytes) = read_small(path, MAX_CONFIG_BYTES)? else { return Ok(None) };
    let values =
        count_json_values(&bytes).map_err(|error| json_error(path, &format!("not JSON: {error}")))?;
    if values > MAX_CONFIG_VALUES {
        let what = format!("{values} values, more than the limit of {MAX_CONFIG_VALUES}");
        return Err(json_error(path, &what));
    }
    let map = serde_json::from_slice(&bytes)
        .map_err(|error| json_error(path, &format!("not a JSON object: {error}")))?;
    Ok(Some(map))
}

fn open_gguf(path: &Path) -> Result<Checkpoint, OpenError> {
    let mapped = MappedFile::open(path).map_err(|source| io_error(path, source))?;
    let header = |source| OpenError::Header { path: path.to_owned(), source };
    let gguf = Gguf::parse(mapped.bytes()).map_err(header)?;
    if let Some(parts) = gguf.unsigned("split.count").filter(|&parts| parts > 1) {
        return Err(OpenError::SplitGguf { path: path.to_owned(), parts });
    }
    let architecture = gguf.string("general.architecture").unwrap_or_default();
    let family = Family::of_gguf(&gguf);
    let own_parts = family.map_or(&[][..], |family| family.gguf_parts);
    let interleaves = family.is_some_and(|family| family.gguf_interleaves);
    let head_dim = if interleaves { gguf_head_dim(&gguf, architecture) } else { None };
    let mut tensors = Tensors::default();
    let experts = family.and_then(|family| family.experts).unwrap_or(ExpertNames::USUAL);
    for stored in &gguf.tensors {
        match experts.in_gguf(&stored.name) {
            Some(InGguf::Router(name)) => {
                tensors.add(name, stored, RowLayout::Plain, 0, path).map_err(header)?;
                continue;
            }
            Some(InGguf::Stack { layer, matrix }) => {
                let name = |expert| experts.matrices(layer, expert)[matrix].clone();
                tensors.add_stack(name, stored, path).map_err(header)?;
                continue;
            }
            None => {}
        }
        let name = names::canonical_from_gguf(&stored.name, own_parts).unwrap_or_else(|| stored.name.clone());
        let permuted = names::permuted_in_llama_gguf(&stored.name);
        let layout = match head_dim {
            Some(head_dim) if permuted => {
                let rows = stored.shape.first().copied().unwrap_or(1);
                if head_dim == 0 || !head_dim.is_multiple_of(2) || !rows.is_multiple_of(head_dim) {
                    return Err(header(HeaderError::tensor(
                        &stored.name,
                        format!("its {rows} rows are not whole heads of {head_dim}"),
                    )));
                }
                RowLayout::HeadInterleaved { head_dim }
            }
            _ => RowLayout::Plain,
        };
        tensors.add(name, stored, layout, 0, path).map_err(header)?;
    }
    Ok(Checkpoint {
        path: path.to_owned(),
        files: vec![WeightFile { path: path.to_owned(), mapped }],
        container: Container::Gguf(gguf),
        tensors: tensors.readable,
        stacks: tensors.stacks,
        absent: tensors.absent,
    })
}

/// Rows per head of the permuted tensors.
fn gguf_head_dim(gguf: &Gguf, architecture: &str) -> Option<u64> {
    if let Some(length) = gguf.unsigned(&format!("{architecture}.attention.key_length")) {
        return Some(length);
    }
    let heads = gguf.unsigned(&format!("{architecture}.attention.head_count")).filter(|&heads| heads > 0)?;
    Some(gguf.unsigned(&format!("{architecture}.embedding_length"))? / heads)
}

fn open_directory(path: &Path) -> Result<Checkpoint, OpenError> {
    let config_path = path.join("config.json");
    let config = read_json(&config_path)?.ok_or(OpenError::NotFound { path: config_path })?;
    let index_path = path.join("model.safetensors.index.json");
    let mut files = Vec::new();
    let mut tensors = Tensors::default();
    if let Some(bytes) = read_small(&index_path, MAX_INDEX_BYTES)? {
        for (shard, names) in shards_of_index(&index_path, &bytes)? {
            let shard_path = path.join(&shard);
            if !shard_path.exists() {
                let absent = || Absent::Shard(shard_path.clone());
                let names = names.iter().map(|name| names::canonical_from_hf(name));
                tensors.absent.extend(names.map(|name| (name, absent())));
                continue;
            }
            let (file, headers) = open_safetensors(shard_path)?;
            let by_name: BTreeMap<_, _> = headers.iter().map(|header| (&*header.name, header)).collect();
            for name in names {
                let header = by_name.get(&*name).ok_or_else(|| {
                    json_error(&index_path, &format!("tensor {} is not in {shard}", clip(&name)))
                })?;
                tensors
                    .add(names::canonical_from_hf(&name), header, RowLayout::Plain, files.len(), &file.path)
                    .map_err(|source| OpenError::Header { path: file.path.clone(), source })?;
            }
            files.push(file);
        }
    } else {
        let (file, headers) = open_safetensors(single_file(path)?)?;
        for header in &headers {
            tensors
                .add(names::canonical_from_hf(&header.name), header, RowLayout::Plain, 0, &file.path)
                .map_err(|source| OpenError::Header { path: file.path.clone(), source })?;
        }
        files.push(file);
    }
    Ok(Checkpoint {
        path: path.to_owned(),
        container: Container::Safetensors { config },
        files,
        tensors: tensors.readable,
        stacks: tensors.stacks,
        absent: tensors.absent,
    })
}

/// The file of a model without an index: `model.safetensors`, or the only one there is.
fn single_file(directory: &Path) -> Result<PathBuf, OpenError> {
    let usual = directory.join("model.safetensors");
    if usual.exists() {
        return Ok(usual);
    }
    let entries = std::fs::read_dir(directory).map_err(|source| io_error(directory, source))?;
    let mut found = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(OpenError::NoWeights { path: directory.to_owned() }),
    }
}

/// Tensor names by shard file. Shard names must be plain file names: an index must not reach out of
/// its directory.
fn shards_of_index(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Vec<String>>, OpenError> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| json_error(path, &error.to_string()))?;
    index.weight_map.map(|shards| shards.0).ok_or_else(|| json_error(path, "there is no object weight_map"))
}

/// What of an index is read; the rest is skipped without being kept.
#[derive(Deserialize)]
struct Index {
    weight_map: Option<Shards>,
}

/// The tensors of each shard, checked one by one as they come.
struct Shards(BTreeMap<String, Vec<String>>);

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ShardsVisitor)
    }
}

struct ShardsVisitor;

impl<'de> Visitor<'de> for ShardsVisitor {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of shard names by tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shards, A::Error> {
        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut tensors = 0;
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            tensors += 1;
            if tensors > MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if !is_plain_file_name(&shard) || !shard.ends_with(".safetensors") {
                let shard = clip(&shard);
                let what = format!("shard name {shard:?} is not a plain .safetensors file name");
                return Err(A::Error::custom(what));
            }
            shards.entry(shard).or_default().push(tensor);
            if shards.len() > MAX_SHARDS {
                return Err(A::Error::custom(format!("more than {MAX_SHARDS} shards")));
            }
        }
        Ok(Shards(shards))
    }
}

/// A name of one path component, without separators or control characters.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
}

fn open_safetensors(path: PathBuf) -> Result<(WeightFile, Vec<TensorHeader>), OpenError> {
    let mapped = MappedFile::open(&path).map_err(|source| io_error(&path, source))?;
    let headers = safetensors::parse(mapped.bytes())
        .map_err(|source| OpenError::Header { path: path.clone(), source })?;
    Ok((WeightFile { path, mapped }, headers))
}

#[derive(Default)]
struct Tensors {
    readable: BTreeMap<String, StoredTensor>,
    stacks: BTreeMap<String, StoredTensor>,
    absent: BTreeMap<String, Absent>,
}

impl Tensors {
    /// Takes a GGUF's stack of experts apart: `name` gives that of each one.
    fn add_stack(
        &mut self,
        name: impl Fn(u32) -> String,
        stack: &TensorHeader,
        path: &Path,
    ) -> Result<(), HeaderError> {
        let &[count, rows, columns] = &stack.shape[..] else {
            let dimensions = stack.shape.len();
            let what = format!("has {dimensions} dimensions, a stack of experts has three");
            return Err(HeaderError::tensor(&stack.name, what));
        };
        let experts = u32::try_from(count).ok().filter(|experts| (1..=MAX_EXPERTS).contains(experts));
        let experts = experts.ok_or_else(|| {
            HeaderError::tensor(
                &stack.name,
                format!("stacks {count} experts, a layer has 1 to {MAX_EXPERTS}"),
            )
        })?;
        // A few bytes of header must not become names without end.
        let names = (self.readable.len() + self.absent.len()) as u64 + count;
        HeaderError::limit("the number of tensors with every expert's", names, MAX_TENSORS)?;
        let len = stack.len / count;
        for expert in 0..experts {
            let offset = stack.offset + u64::from(expert) * len;
            let shape = vec![rows, columns];
            let header = TensorHeader { name: stack.name.clone(), ty: stack.ty, shape, offset, len };
            let name = name(expert);
            self.add(name.clone(), &header, RowLayout::Plain, 0, path)?;
            if let Some(tensor) = self.readable.get_mut(&name) {
                tensor.sliced = true;
            }
        }
        if let ElementType::Readable(dtype) = stack.ty {
            let whole = StoredTensor {
                name: stack.name.clone(),
                stored_name: stack.name.clone(),
                dtype,
                shape: stack.shape.clone(),
                layout: RowLayout::Plain,
                file: 0,
                offset: stack.offset,
                len: stack.len,
                sliced: false,
            };
            self.stacks.insert(stack.name.clone(), whole);
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: String,
        header: &TensorHeader,
        layout: RowLayout,
        file: usize,
        path: &Path,
    ) -> Result<(), HeaderError> {
        if self.readable.contains_key(&name) || self.absent.contains_key(&name) {
            return Err(HeaderError::tensor(&name, "there are two tensors of this name"));
        }
        match header.ty {
            ElementType::Readable(dtype) => {
                let tensor = StoredTensor {
                    name: name.clone(),
                    stored_name: header.name.clone(),
                    dtype,
                    shape: header.shape.clone(),
                    layout,
                    file,
                    offset: header.offset,
                    len: header.len,
                    sliced: false,
                };
                self.readable.insert(name, tensor);
            }
            ElementType::Unreadable { name: dtype, .. } => {
                self.absent.insert(name, Absent::Type { path: path.to_owned(), name: dtype });
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::NotFound {
        return OpenError::NotFound { path: path.to_owned() };
    }
    OpenError::Io { path: path.to_owned(), source }
}

fn json_error(path: &Path, what: &str) -> OpenError {
    OpenError::Json { path: path.to_owned(), what: clip(what) }
}
