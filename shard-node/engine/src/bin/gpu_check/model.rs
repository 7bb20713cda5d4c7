//! Synthetic llamas, written at run time: every value is a function of the seed, the tensor's name and its index.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use half::bf16;
use serde_json::{Map, json};

/// Sizes of a llama with a tied head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Llama {
    pub(crate) layers: u32,
    pub(crate) hidden: u32,
    pub(crate) ffn: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) vocab: u32,
}

impl Llama {
    /// Writes the tensors of `layers`, and embedding and norm if `ends`, as bf16 safetensors with a config; gives the folder.
    pub(crate) fn write(
        &self,
        scratch: &Path,
        name: &str,
        layers: std::ops::Range<u32>,
        ends: bool,
    ) -> Result<PathBuf> {
        let folder = scratch.join(name);
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let config = json!({
            "model_type": "llama", "hidden_act": "silu", "hidden_size": self.hidden,
            "intermediate_size": self.ffn, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "vocab_size": self.vocab, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        });
        std::fs::write(folder.join("config.json"), config.to_string()).context("write the configuration")?;
        self.write_tensors(&folder.join("model.safetensors"), layers, ends).with_context(|| {
            format!("write synthetic weights to {}; --scratch names another folder", folder.display())
        })?;
        Ok(folder)
    }

    fn write_tensors(&self, path: &Path, layers: std::ops::Range<u32>, ends: bool) -> Result<()> {
        let tensors = self.tensors(layers, ends);
        let mut header = Map::new();
        let mut offset = 0u64;
        for (name, shape) in &tensors {
            let end = offset + 2 * elements(shape);
            header.insert(
                name.clone(),
                json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}),
            );
            offset = end;
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (name, shape) in &tensors {
            write_values(&mut file, name, shape)?;
        }
        Ok(file.flush()?)
    }

    fn tensors(&self, layers: std::ops::Range<u32>, ends: bool) -> Vec<(String, Vec<u32>)> {
        let Self { hidden, ffn, vocab, .. } = *self;
        let [q, kv] = [self.heads, self.kv_heads].map(|heads| heads * self.head_dim);
        let mut tensors = vec![];
        if ends {
            tensors.push(("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]));
            tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        }
        for layer in layers {
            for (part, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![ffn, hidden]),
                ("mlp.up_proj", vec![ffn, hidden]),
                ("mlp.down_proj", vec![hidden, ffn]),
            ] {
                tensors.push((format!("model.layers.{layer}.{part}.weight"), shape));
            }
        }
        tensors
    }
}

fn elements(shape: &[u32]) -> u64 {
    shape.iter().map(|&dim| u64::from(dim)).product()
}

/// Uniform with a deviation of `1 / sqrt(columns)`, and ones for vectors; on all cores, since a layer has 10^9 values.
fn write_values(file: &mut impl Write, name: &str, shape: &[u32]) -> Result<()> {
    let count = elements(shape);
    let scale = if shape.len() == 1 { 0.0 } else { (3.0 / f64::from(shape[1])).sqrt() };
    let mean = if shape.len() == 1 { 1.0 } else { 0.0 };
    let seed = name.bytes().fold(SEED, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let value = |index: u64| {
        let uniform = (mixed(seed.wrapping_add(index)) >> 40) as f64 / f64::from(1 << 23) - 1.0;
        bf16::from_f64(mean + scale * uniform)
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64;
    let mut begin = 0;
    while begin < count {
        let parts: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let starts = (0..cores).map(|core| (begin + core * PART).min(count));
            let threads: Vec<_> = starts
                .map(|from| {
                    let to = (from + PART).min(count);
                    scope.spawn(move || (from..to).flat_map(|index| value(index).to_le_bytes()).collect())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        for part in parts {
            file.write_all(&part)?;
        }
        begin += cores * PART;
    }
    Ok(())
}

/// The finaliser of splitmix64 (Steele, Lea & Flood 2014).
fn mixed(index: u64) -> u64 {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const SEED: u64 = 20_261_122;

/// Values of one thread's turn: 2 MiB.
const PART: u64 = 1 << 20;
