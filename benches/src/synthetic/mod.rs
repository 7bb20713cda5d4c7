//! Synthetic models: seeded random weights in the shapes of real ones, for measurements that need no download.
//!
//! Every tensor depends on the seed and its own name only, so that one can be made without the others. There is no
//! tokenizer: prompts are given as `--token-ids`.

mod file;
mod shape;
#[cfg(test)]
mod tests;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

pub(crate) use file::StoredAs;
pub(crate) use shape::{SHAPES, Shape};

use crate::{print_result, tell};

/// Options of `synthetic`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// micro, tiny, smol-135m, llama-1b, llama-3b or llama-8b
    #[arg(long, default_value = "llama-1b", value_parser = parse_shape)]
    shape: Shape,
    /// Folder to write; by default one of its own under the build's target folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How the numbers are stored
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: StoredAs,
    /// Seed of all tensors
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let path = match &options.out {
        Some(out) => out.clone(),
        None => default_folder(options.shape, options.dtype, options.seed)?,
    };
    make(&path, options.shape, options.dtype, options.seed)?;
    let tensors = options.shape.tensors();
    let values: u64 = tensors.iter().map(shape::Spec::values).sum();
    print_result(&json!({
        "bench": "synthetic",
        "path": path,
        "tensors": tensors.len(),
        "parameters": values,
        "bytes": values * options.dtype.bytes(),
    }));
    Ok(())
}

/// A shape by its name.
pub(crate) fn parse_shape(name: &str) -> Result<Shape> {
    Shape::of(name).with_context(|| format!("use one of: {}", SHAPES.map(|shape| shape.name).join(", ")))
}

/// The model in its usual place, made if it is not there.
pub(crate) fn made(shape: Shape, dtype: StoredAs) -> Result<PathBuf> {
    let path = default_folder(shape, dtype, 0)?;
    make(&path, shape, dtype, 0)?;
    Ok(path)
}

fn default_folder(shape: Shape, dtype: StoredAs, seed: u64) -> Result<PathBuf> {
    let program = std::env::current_exe().context("find our own program")?;
    // target/release/benches, or target/release/deps/benches-... in a test.
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let target = target.context("our program does not lie in a build's target folder: give --out DIR")?;
    Ok(target.join("synthetic").join(format!("{}-{}-{seed}", shape.name, dtype.name())))
}

/// Writes a model, unless the same one lies there.
fn make(folder: &Path, shape: Shape, dtype: StoredAs, seed: u64) -> Result<()> {
    let stamp = stamp(shape, dtype, seed);
    let stamp_path = folder.join("synthetic.json");
    let there = fs::read(&stamp_path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    if there.as_ref() == Some(&stamp) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    tell(&format!("making {} in {}", shape.name, folder.display()));
    // The stamp comes last: half a model has none.
    if there.is_some() {
        fs::remove_file(&stamp_path)?;
    }
    file::write(&folder.join("model.safetensors"), &shape.tensors(), seed, dtype)?;
    let config = serde_json::to_vec_pretty(&shape.config(dtype.torch_name()))?;
    fs::write(folder.join("config.json"), config)?;
    fs::write(&stamp_path, serde_json::to_vec_pretty(&stamp)?)?;
    Ok(())
}

/// What a folder holds. The generator's number changes whenever it makes other bytes of the same shape and seed.
fn stamp(shape: Shape, dtype: StoredAs, seed: u64) -> Value {
    json!({"generator": 1, "shape": shape.name, "dtype": dtype.name(), "seed": seed})
}
