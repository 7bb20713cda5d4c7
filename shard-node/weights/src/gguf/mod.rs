//! The GGUF header, versions 2 and 3: metadata and tensor table, checked against the file.
//! Parsing only; files are opened by [`crate::checkpoint`], tokenizers are built by `proto-text`.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use crate::header::{HeaderError, MAX_TENSORS, TensorHeader, check_name, check_overlaps, clip};
use crate::stored::ElementType;
use cursor::Cursor;
pub use value::{Array, Value};

/// Most metadata entries; real files have 20 to 60.
const MAX_METADATA: u64 = 4096;
/// Longest metadata key in bytes, as the format says.
const MAX_KEY_BYTES: u64 = 65_535;
/// Most dimensions (`GGML_MAX_DIMS`).
const MAX_GGML_DIMS: u32 = 4;
/// Default alignment of tensor offsets.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment accepted: a huge page would be 2 MiB, nothing uses more than 4096.
const MAX_ALIGNMENT: u64 = 2 << 20;

/// A parsed GGUF header.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors sorted by offset; offsets are from the start of the file.
    pub tensors: Vec<TensorHeader>,
}

impl Gguf {
    /// Parses and checks the header of a whole GGUF file, given all its (mapped) bytes.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        Self::parse_in(file, file.len() as u64)
    }

    /// The same of the first bytes of a file of `file_bytes`; `None` when the header goes on after them.
    pub fn parse_start(start: &[u8], file_bytes: u64) -> Result<Option<Self>, HeaderError> {
        match Self::parse_in(start, file_bytes) {
            Err(HeaderError::Truncated { .. }) if (start.len() as u64) < file_bytes => Ok(None),
            other => other.map(Some),
        }
    }

    fn parse_in(start: &[u8], file_bytes: u64) -> Result<Self, HeaderError> {
        let mut cursor = Cursor::new(start);
        let magic = cursor.array::<4>("magic")?;
        if &magic != b"GGUF" {
            return Err(HeaderError::NotThisFormat {
                format: "GGUF",
                what: format!("it begins with {:?}", clip(&String::from_utf8_lossy(&magic))),
            });
        }
        match cursor.u32("version")? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => {
                return Err(HeaderError::Unsupported { what: "a big-endian GGUF file".to_owned() });
            }
            version => return Err(HeaderError::Unsupported { what: format!("GGUF version {version}") }),
        }
        let tensor_count = cursor.u64("tensor count")?;
        HeaderError::limit("the number of tensors", tensor_count, MAX_TENSORS)?;
        let metadata_count = cursor.u64("metadata count")?;
        HeaderError::limit("the number of metadata entries", metadata_count, MAX_METADATA)?;
        let metadata = read_metadata(&mut cursor, metadata_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = read_table(&mut cursor, tensor_count)?;
        let data = cursor.position().next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(tensor, data, alignment, file_bytes)?;
        }
        check_overlaps(&mut tensors)?;
        Ok(Self { metadata, tensors })
    }

    /// A string value; `None` when the key is absent or of another kind.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer of any width.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key) {
            Some(Value::Unsigned(value)) => Some(*value),
            Some(Value::Signed(value)) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A floating-point number of either width.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key) {
            Some(Value::Float(value)) => Some(*value),
            _ => None,
        }
    }

    /// A boolean.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key) {
            Some(Value::Array(Array::String(values))) => Some(values),
            _ => None,
        }
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>, HeaderError> {
    let mut metadata = BTreeMap::new();
    let mut budget = value::MAX_ARRAY_ELEMENTS;
    for _ in 0..count {
        let key = cursor.string(MAX_KEY_BYTES, "a metadata key's length")?;
        let kind = cursor.u32("a metadata kind")?;
        let value = Value::read(cursor, kind, &mut budget)?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(HeaderError::malformed(format!("metadata key {} appears twice", clip(key))));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, HeaderError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(value)) if value.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(value) => {
            Ok(*value)
        }
        Some(other) => Err(HeaderError::malformed(format!("general.alignment is {other:?}"))),
    }
}

/// Reads the tensor table; offsets are still relative to the data region.
fn read_table(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorHeader>, HeaderError> {
    // A table entry has at least 8 + 1 + 4 + 8 + 4 + 8 bytes.
    let mut tensors = Vec::with_capacity(count.min(cursor.remaining() / 33) as usize);
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let name = cursor.string(MAX_KEY_BYTES, "a tensor name's length")?;
        check_name(name)?;
        if !seen.insert(name) {
            return Err(HeaderError::tensor(name, "appears twice"));
        }
        let dims = cursor.u32("a tensor's dimensions")?;
        if dims == 0 || dims > MAX_GGML_DIMS {
            return Err(HeaderError::tensor(name, format!("{dims} dimensions")));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            shape.push(cursor.u64("a tensor's shape")?);
        }
        shape.reverse();
        let number = cursor.u32("a tensor's type")?;
        let ty = ElementType::from_ggml(number).ok_or_else(|| HeaderError::Unsupported {
            what: format!("GGML type {number} of tensor {}", clip(name)),
        })?;
        let len = ty.tensor_bytes(&shape).ok_or_else(|| {
            HeaderError::tensor(name, format!("shape {shape:?} does not fit type {}", ty.name()))
        })?;
        let offset = cursor.u64("a tensor's offset")?;
        tensors.push(TensorHeader { name: name.to_owned(), ty, shape, offset, len });
    }
    Ok(tensors)
}

/// Turns an offset in the data region into one in the file, checking alignment and the file's end.
fn place(tensor: &mut TensorHeader, start: u64, alignment: u64, have: u64) -> Result<(), HeaderError> {
    if !tensor.offset.is_multiple_of(alignment) {
        return Err(HeaderError::tensor(
            &tensor.name,
            format!("offset {} is not a multiple of the alignment {alignment}", tensor.offset),
        ));
    }
    let offset = start.saturating_add(tensor.offset);
    let end = offset.saturating_add(tensor.len);
    if end > have {
        return Err(HeaderError::TensorTruncated { tensor: clip(&tensor.name), end, have });
    }
    tensor.offset = offset;
    Ok(())
}
