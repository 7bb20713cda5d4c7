//! Memory and loading of a class, and what of it is the library's.

use anyhow::Result;
use serde_json::{Value, json};

use super::contestants::{number, stage};
use crate::synthetic::{self, Shape, StoredAs};
use crate::tell;

/// One class, in bytes and seconds.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) class: String,
    /// Bytes of the span's tensors in the file.
    pub(super) stored: f64,
    pub(super) load_seconds: f64,
    /// What the weights take in this class.
    pub(super) weights: f64,
    pub(super) kv: f64,
    /// Resident memory with a model of next to nothing.
    pub(super) library: f64,
    /// Most resident memory until the stage was loaded.
    pub(super) peak_loaded: f64,
    /// Most resident memory ever.
    pub(super) peak: f64,
}

impl Memory {
    /// Most resident memory allowed.
    pub(super) fn budget(&self) -> f64 {
        1.1 * self.weights + self.kv + self.library
    }

    pub(super) fn load_rate(&self) -> f64 {
        self.stored / self.load_seconds
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "class": self.class,
            "stored_bytes": self.stored,
            "load_seconds": self.load_seconds,
            "load_bytes_per_second": self.load_rate(),
            "weights_bytes": self.weights,
            "kv_bytes": self.kv,
            "library_bytes": self.library,
            "peak_after_loading_bytes": self.peak_loaded,
            "peak_bytes": self.peak,
            "budget_bytes": self.budget(),
            "within_budget": self.peak <= self.budget(),
        })
    }
}

/// Peak resident memory of each class with the smallest model, all its kernels run once: what the library takes.
pub(super) fn library_bytes(classes: &[String], threads: usize) -> Result<Vec<(String, u64)>> {
    let Some(shape) = Shape::of("micro") else { return Ok(Vec::new()) };
    let model = synthetic::made(shape, StoredAs::Bf16)?;
    let mut library = Vec::new();
    for class in classes {
        let measured = || -> Result<u64> {
            let mut process = stage(Some((&model, class)), threads)?;
            process.told()?;
            process.ask("decode 1")?;
            process.ask("prefill 512 128")?;
            let memory = process.ask("memory")?;
            Ok((number(&memory, "peak_bytes")? - number(&memory, "kv_bytes")?) as u64)
        };
        match measured() {
            Ok(bytes) => library.push((class.clone(), bytes)),
            Err(error) => tell(&format!("{class}: {error:#}")),
        }
    }
    Ok(library)
}
