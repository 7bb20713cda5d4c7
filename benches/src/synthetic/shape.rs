//! The shapes of synthetic models: sizes of a llama, its tensors and their deviations, its `config.json`.

use serde_json::{Value, json};

/// The sizes of a llama.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// The preset's name.
    pub(crate) name: &'static str,
    pub(crate) layers: u32,
    pub(crate) hidden: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) ffn: u32,
    pub(crate) vocab: u32,
    pub(crate) rope_theta: u32,
    pub(crate) tied: bool,
}

/// `micro` and `tiny` are for tests; the others have the sizes of published models, with a smaller vocabulary from
/// `llama-1b` on, as a head of 128,256 rows would be most of a small model's step.
pub(crate) const SHAPES: [Shape; 6] = [
    shape("micro", (2, 64, 4, 2, 128), 320, 10_000, true),
    shape("tiny", (8, 256, 8, 4, 704), 2048, 10_000, true),
    shape("smol-135m", (30, 576, 9, 3, 1536), 49_152, 100_000, true),
    shape("llama-1b", (16, 2048, 32, 8, 8192), 32_000, 500_000, true),
    shape("llama-3b", (28, 3072, 24, 8, 8192), 32_000, 500_000, true),
    shape("llama-8b", (32, 4096, 32, 8, 14_336), 32_000, 500_000, false),
];

/// A tensor to be made.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Spec {
    /// Its HF name.
    pub(crate) name: String,
    /// Dimensions, outermost first.
    pub(crate) shape: Vec<u64>,
    pub(crate) mean: f32,
    pub(crate) deviation: f32,
}

impl Spec {
    pub(crate) fn values(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Shape {
    /// The preset of that name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    const fn head_dim(&self) -> u32 {
        self.hidden / self.heads
    }

    /// All tensors in the file's order.
    ///
    /// A matrix has a deviation of `1 / sqrt(columns)`, so that each layer moves the residual by about its own size
    /// and a skipped, doubled or swapped one changes the logits; `transformers`' usual 0.02 makes a model that repeats
    /// its last token. The embedding has twice that, so that logits spread, also when it is the head.
    pub(crate) fn tensors(&self) -> Vec<Spec> {
        let [hidden, ffn, vocab] = [self.hidden, self.ffn, self.vocab].map(u64::from);
        let [queries, keys] = [self.heads, self.kv_heads].map(|heads| u64::from(heads * self.head_dim()));
        let matrix = |name: String, rows: u64, columns: u64, gain: f64| Spec {
            name,
            shape: vec![rows, columns],
            mean: 0.0,
            // Square root and division are exact to the last bit on every machine.
            deviation: (gain / (columns as f64).sqrt()) as f32,
        };
        let norm = |name: String| Spec { name, shape: vec![hidden], mean: 1.0, deviation: 0.1 };
        let mut tensors = vec![matrix("model.embed_tokens.weight".into(), vocab, hidden, 2.0)];
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            tensors.extend([
                norm(name("input_layernorm")),
                matrix(name("self_attn.q_proj"), queries, hidden, 1.0),
                matrix(name("self_attn.k_proj"), keys, hidden, 1.0),
                matrix(name("self_attn.v_proj"), keys, hidden, 1.0),
                matrix(name("self_attn.o_proj"), hidden, queries, 1.0),
                norm(name("post_attention_layernorm")),
                matrix(name("mlp.gate_proj"), ffn, hidden, 1.0),
                matrix(name("mlp.up_proj"), ffn, hidden, 1.0),
                matrix(name("mlp.down_proj"), hidden, ffn, 1.0),
            ]);
        }
        tensors.push(norm("model.norm.weight".into()));
        if !self.tied {
            tensors.push(matrix("lm_head.weight".into(), vocab, hidden, 2.0));
        }
        tensors
    }

    /// `config.json`. No end-of-sequence id: an answer runs to its last token, whatever is sampled.
    pub(crate) fn config(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim(),
            "vocab_size": self.vocab,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": f64::from(self.rope_theta),
            "tie_word_embeddings": self.tied,
            "bos_token_id": null,
            "eos_token_id": null,
            "attention_bias": false,
            "mlp_bias": false,
            "torch_dtype": dtype,
        })
    }
}

const fn shape(
    name: &'static str,
    (layers, hidden, heads, kv_heads, ffn): (u32, u32, u32, u32, u32),
    vocab: u32,
    rope_theta: u32,
    tied: bool,
) -> Shape {
    Shape { name, layers, hidden, heads, kv_heads, ffn, vocab, rope_theta, tied }
}
