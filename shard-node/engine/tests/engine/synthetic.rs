//! Tiny models of every family with seeded random weights, written as safetensors; llamas as GGUF too.
//!
//! Matrices are normal with a deviation of `1 / sqrt(columns)`, so that every layer moves the residual by about its own size and
//! a skipped, doubled or swapped one changes the logits.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Family and sizes of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiny {
    pub(crate) family: &'static str,
    pub(crate) layers: u32,
    pub(crate) hidden: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) ffn: u32,
    pub(crate) vocab: u32,
    pub(crate) tied: bool,
    pub(crate) seed: u64,
}

/// Four layers, three queries to a key, tied.
pub(crate) const SMALL: Tiny = Tiny {
    family: "llama",
    layers: 4,
    hidden: 96,
    heads: 6,
    kv_heads: 2,
    head_dim: 16,
    ffn: 176,
    vocab: 320,
    tied: true,
    seed: 20_261_122,
};

/// Odd sizes: no whole vectors anywhere, one query to a key, a head of its own.
pub(crate) const ODD: Tiny = Tiny {
    family: "llama",
    layers: 3,
    hidden: 72,
    heads: 3,
    kv_heads: 3,
    head_dim: 24,
    ffn: 100,
    vocab: 261,
    tied: false,
    seed: 7,
};

/// One of every family, with windows much shorter than the tests' sequences where the family has them, in
/// even and odd sizes.
pub(crate) const FAMILIES: [Tiny; 7] = [
    SMALL,
    ODD,
    Tiny { family: "mistral", ..SMALL },
    Tiny { family: "qwen2", ..ODD },
    Tiny { family: "qwen3", ..SMALL },
    Tiny { family: "gemma3", ..SMALL },
    Tiny { family: "gemma3", tied: true, ..ODD },
];

/// Positions that a row sees in the models with windows.
pub(crate) const WINDOW: u32 = 20;

/// A tensor by its HF name.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) shape: Vec<u32>,
    pub(crate) values: Vec<f32>,
}

impl Tiny {
    pub(crate) fn tensors(&self) -> Vec<Named> {
        let Self { hidden, heads, kv_heads, head_dim, ffn, vocab, .. } = *self;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut specs = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
        for layer in 0..self.layers {
            let mut parts = vec![
                ("input_layernorm.weight", vec![hidden]),
                ("self_attn.q_proj.weight", vec![q, hidden]),
                ("self_attn.k_proj.weight", vec![kv, hidden]),
                ("self_attn.v_proj.weight", vec![kv, hidden]),
                ("self_attn.o_proj.weight", vec![hidden, q]),
                ("post_attention_layernorm.weight", vec![hidden]),
                ("mlp.gate_proj.weight", vec![ffn, hidden]),
                ("mlp.up_proj.weight", vec![ffn, hidden]),
                ("mlp.down_proj.weight", vec![hidden, ffn]),
            ];
            match self.family {
                "qwen2" => parts.extend([
                    ("self_attn.q_proj.bias", vec![q]),
                    ("self_attn.k_proj.bias", vec![kv]),
                    ("self_attn.v_proj.bias", vec![kv]),
                ]),
                "qwen3" | "gemma3" => parts.extend([
                    ("self_attn.q_norm.weight", vec![head_dim]),
                    ("self_attn.k_norm.weight", vec![head_dim]),
                ]),
                _ => {}
            }
            if self.family == "gemma3" {
                parts.extend([
                    ("pre_feedforward_layernorm.weight", vec![hidden]),
                    ("post_feedforward_layernorm.weight", vec![hidden]),
                ]);
            }
            specs.extend(
                parts.into_iter().map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)),
            );
        }
        specs.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            specs.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
        let mut normal = Normal(self.seed);
        let tensor = |(name, shape): (String, Vec<u32>)| {
            let count = shape.iter().product::<u32>();
            let scale = if shape.len() == 1 { 0.1 } else { 1.0 / (shape[1] as f32).sqrt() };
            let is_factor = shape.len() == 1 && name.contains("norm") && self.family != "gemma3";
            let mean = if is_factor { 1.0 } else { 0.0 };
            let scale = if name.contains("embed") || name.contains("lm_head") { 2.0 * scale } else { scale };
            let values = (0..count).map(|_| mean + scale * normal.next()).collect();
            Named { name, shape, values }
        };
        specs.into_iter().map(tensor).collect()
    }

    pub(crate) fn config(&self) -> Map<String, Value> {
        let mut config = json!({
            "model_type": self.family, "hidden_size": self.hidden,
            "intermediate_size": self.ffn, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "vocab_size": self.vocab, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": self.tied,
        });
        let more = match self.family {
            "mistral" => json!({"sliding_window": WINDOW}),
            "gemma3" => json!({
                "model_type": "gemma3_text", "sliding_window": WINDOW, "sliding_window_pattern": 2,
                "query_pre_attn_scalar": 40, "rope_local_base_freq": 500.0,
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            }),
            _ => json!({}),
        };
        let config = config.as_object_mut().unwrap();
        config.extend(more.as_object().cloned().unwrap());
        config.clone()
    }

    /// A directory in the HF layout, f32.
    pub(crate) fn safetensors(&self) -> TempDir {
        write_directory(&self.config(), &self.tensors())
    }

    /// A GGUF file, f32, its q and k rows permuted as llama.cpp's converter does.
    pub(crate) fn gguf(&self) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        let tensors = self.tensors().into_iter().map(|tensor| self.for_gguf(tensor)).collect::<Vec<_>>();
        let mut metadata = vec![];
        text(&mut metadata, "general.architecture", "llama");
        for (key, value) in [
            ("block_count", self.layers),
            ("context_length", 512),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.ffn),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("vocab_size", self.vocab),
        ] {
            key_of(&mut metadata, &format!("llama.{key}"), 4);
            metadata.extend(value.to_le_bytes());
        }
        for (key, value) in [("attention.layer_norm_rms_epsilon", 1e-5f32), ("rope.freq_base", 10_000.0)] {
            key_of(&mut metadata, &format!("llama.{key}"), 6);
            metadata.extend(value.to_le_bytes());
        }
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend(11u64.to_le_bytes());
        header.extend(metadata);
        let mut offset = 0u64;
        for tensor in &tensors {
            string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                header.extend(u64::from(*dim).to_le_bytes());
            }
            header.extend(0u32.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += (tensor.values.len() as u64 * 4).next_multiple_of(32);
        }
        header.resize(header.len().next_multiple_of(32), 0);
        for tensor in &tensors {
            header.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
            header.resize(header.len().next_multiple_of(32), 0);
        }
        std::fs::write(&path, header).unwrap();
        (directory, path)
    }

    fn for_gguf(&self, mut tensor: Named) -> Named {
        let heads = match () {
            () if tensor.name.contains("q_proj") => self.heads,
            () if tensor.name.contains("k_proj") => self.kv_heads,
            () => 0,
        };
        // `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py: row (half, i) of a head becomes row (i, half).
        let (columns, half) = (self.hidden as usize, self.head_dim as usize / 2);
        let mut permuted = tensor.values.clone();
        for head in 0..heads as usize {
            for i in 0..2 * half {
                let from = (head * 2 * half + i) * columns;
                let to = (head * 2 * half + 2 * (i % half) + i / half) * columns;
                permuted[to..to + columns].copy_from_slice(&tensor.values[from..from + columns]);
            }
        }
        tensor.values = permuted;
        for (hf, gguf) in [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("model.layers.", "blk."),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            tensor.name = tensor.name.replace(hf, gguf);
        }
        tensor
    }
}

/// Writes a directory in the HF layout from f32 tensors.
pub(crate) fn write_directory(config: &Map<String, Value>, tensors: &[Named]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
    write_safetensors(&directory.path().join("model.safetensors"), tensors);
    directory
}

/// Writes one safetensors file of f32 tensors.
pub(crate) fn write_safetensors(path: &Path, tensors: &[Named]) {
    let mut header = Map::new();
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.values.len() * 4;
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    for tensor in tensors {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
    }
}

/// Seeded integers and normal values (splitmix64, Box-Muller).
pub(crate) struct Normal(pub(crate) u64);

impl Normal {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        (self.bits() % u64::from(end)) as u32
    }

    pub(crate) fn next(&mut self) -> f32 {
        let mut uniform = || ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (a, b) = (uniform(), uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn key_of(out: &mut Vec<u8>, key: &str, kind: u32) {
    string(out, key);
    out.extend(kind.to_le_bytes());
}

fn text(out: &mut Vec<u8>, key: &str, value: &str) {
    key_of(out, key, 8);
    string(out, value);
}
