//! Writes a synthetic model as one safetensors file: several threads make pieces of it, each in a buffer of its own, and
//! put them where they belong. Resident memory is the buffers, whatever the model's size.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use shard_node_weights::{Bf16, Element};

use super::shape::Spec;
use super::values::Stream;

/// How the numbers are stored. Values are made in f32; bf16 rounds them to nearest, ties to even.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum StoredAs {
    /// bfloat16
    Bf16,
    /// 32-bit float
    F32,
}

impl StoredAs {
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name in file names and options.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// The name in `config.json`.
    pub(crate) const fn torch_name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        }
    }

    /// Stored bytes of some values of a tensor, appended to `out`.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::Bf16 => out.extend(values.iter().flat_map(|&value| Bf16::from_f32(value).0.to_le_bytes())),
            Self::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
}

/// A part of a tensor and its place in the file.
#[derive(Debug)]
struct Piece {
    tensor: usize,
    first: u64,
    values: u64,
    offset: u64,
}

/// Writes the file.
pub(crate) fn write(path: &Path, tensors: &[Spec], seed: u64, stored: StoredAs) -> Result<()> {
    let header = header(tensors, stored);
    let streams: Vec<Stream> = tensors.iter().map(|spec| Stream::new(seed, spec)).collect();
    let mut pieces = Vec::new();
    let mut offset = header.len() as u64;
    for (tensor, spec) in tensors.iter().enumerate() {
        let mut first = 0;
        while first < spec.values() {
            let values = PIECE_VALUES.min(spec.values() - first);
            pieces.push(Piece { tensor, first, values, offset: offset + first * stored.bytes() });
            first += values;
        }
        offset += spec.values() * stored.bytes();
    }
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.set_len(offset).with_context(|| format!("reserve {offset} bytes for {}", path.display()))?;
    file.write_all_at(&header, 0)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let (mut values, mut bytes) = (vec![0.0; PIECE_VALUES as usize], Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return Ok(()) };
            let values = &mut values[..piece.values as usize];
            streams[piece.tensor].fill(piece.first, values);
            bytes.clear();
            stored.encode(values, &mut bytes);
            file.write_all_at(&bytes, piece.offset).context("write a piece")?;
        }
    };
    let threads =
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(MOST_THREADS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Length, JSON, and spaces up to a multiple of 8, as the format wants it.
fn header(tensors: &[Spec], stored: StoredAs) -> Vec<u8> {
    let mut entries = Map::new();
    // transformers refuses files that do not say for which library they were saved.
    entries.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut begin = 0;
    let dtype = stored.name().to_uppercase();
    for spec in tensors {
        let end = begin + spec.values() * stored.bytes();
        let entry = json!({"dtype": dtype, "shape": spec.shape, "data_offsets": [begin, end]});
        entries.insert(spec.name.clone(), entry);
        begin = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [(json.len() as u64).to_le_bytes().as_slice(), &json].concat()
}

/// Values of a piece: with their bytes, 8 MiB of buffers a thread in the larger type.
const PIECE_VALUES: u64 = 1 << 20;

/// With two buffers of 4 MiB each, 128 MiB at most.
const MOST_THREADS: usize = 16;
