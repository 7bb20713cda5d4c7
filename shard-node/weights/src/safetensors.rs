//! The safetensors header: 8 bytes of length, then JSON, then tensors without holes.
//! Parsing only; files are opened by [`crate::checkpoint`].
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::header::{HeaderError, MAX_DIMS, MAX_TENSORS, TensorHeader, check_name, check_overlaps, clip};
use crate::stored::ElementType;

/// Longest JSON header. The format allows 100 MB; 131,072 tensors at 128 bytes each make 16 MiB.
const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Where the header ends in a file that begins with these 8 bytes: not further than a header may reach, though the
/// length may say so.
pub fn header_end(first: [u8; 8]) -> u64 {
    8 + u64::from_le_bytes(first).min(MAX_HEADER_BYTES)
}

/// Parses and checks the header of a whole safetensors file, given all its (mapped) bytes.
///
/// Tensors come back sorted by offset. They must cover the data region without holes or overlaps,
/// as the format demands.
pub fn parse(file: &[u8]) -> Result<Vec<TensorHeader>, HeaderError> {
    let have = file.len() as u64;
    let prefix = file.first_chunk::<8>().ok_or(HeaderError::Truncated { what: "header length", have })?;
    let header_len = u64::from_le_bytes(*prefix);
    HeaderError::limit("the header's length", header_len, MAX_HEADER_BYTES)?;
    let start = 8 + header_len;
    let json = usize::try_from(start)
        .ok()
        .and_then(|end| file.get(8..end))
        .ok_or(HeaderError::Truncated { what: "header", have })?;
    if json.first() != Some(&b'{') {
        return Err(HeaderError::NotThisFormat {
            format: "safetensors",
            what: "the header is not a JSON object".to_owned(),
        });
    }
    let entries: Entries =
        serde_json::from_slice(json).map_err(|error| HeaderError::malformed(clip(&error.to_string())))?;
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        tensors.push(check_entry(name, &entry, start, have)?);
    }
    check_overlaps(&mut tensors)?;
    let mut end = start;
    for tensor in &tensors {
        if tensor.offset != end {
            return Err(HeaderError::tensor(&tensor.name, "there is a hole before its bytes"));
        }
        end = tensor.offset + tensor.len;
    }
    if end != have {
        return Err(HeaderError::malformed(format!("{} bytes follow the last tensor", have - end)));
    }
    Ok(tensors)
}

fn check_entry(name: String, entry: &Entry, start: u64, have: u64) -> Result<TensorHeader, HeaderError> {
    check_name(&name)?;
    let ty = ElementType::from_safetensors(&entry.dtype).ok_or_else(|| HeaderError::Unsupported {
        what: format!("type {} of tensor {}", clip(&entry.dtype), clip(&name)),
    })?;
    if entry.shape.len() > MAX_DIMS {
        return Err(HeaderError::tensor(&name, format!("{} dimensions", entry.shape.len())));
    }
    let [from, to] = entry.data_offsets;
    let len = to.checked_sub(from).ok_or_else(|| {
        HeaderError::tensor(&name, format!("its bytes end ({to}) before they begin ({from})"))
    })?;
    let expected = ty
        .tensor_bytes(&entry.shape)
        .ok_or_else(|| HeaderError::tensor(&name, format!("shape {:?} overflows", entry.shape)))?;
    if len != expected {
        return Err(HeaderError::tensor(
            &name,
            format!(
                "{} of shape {:?} needs {expected} bytes, the header gives {len}",
                ty.name(),
                entry.shape
            ),
        ));
    }
    let end = start.saturating_add(to);
    if end > have {
        return Err(HeaderError::TensorTruncated { tensor: clip(&name), end, have });
    }
    Ok(TensorHeader { name, ty, shape: entry.shape.clone(), offset: start + from, len })
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's members in file order, without `__metadata__`; duplicates are an error.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        use serde::de::Error as _;
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{} appears twice", clip(&name))));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if entries.len() as u64 >= MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            entries.push((name, map.next_value()?));
        }
        Ok(Entries(entries))
    }
}
