//! Memory that a stage takes in each numerics class, from the shapes alone: what `inspect` shows and what a plan for
//! several machines needs. It allocates nothing and knows no library; a test of the engine (`loader/tests.rs`) holds
//! the matrices of loaded stages against these numbers.
//!
//! A matrix of `rows` x `columns` takes, on a CPU,
//!
//! | class | bytes |
//! |---|---|
//! | exact | 4 per value |
//! | bf16 | 2 per value |
//! | int8 | 1 per value, 4 per row for its scale |
//! | int4 | 1/2 per value, 4 per group of 32 values for scale and minimum (2 where the file has `Q4_0`, not counted on) |
//!
//! with rows padded to 16 but in exact, and in int8 and int4 columns to 32. Matrices that multiply the same rows are
//! stacked before they are padded. A router of experts is exact in every class. Embedding and head are matrices like the others, but
//! keep 8 bits in int4 unless the file has them in `Q4_0` or `Q4_1`. A tied pair is held once by a stage that has both
//! ends. Vectors are f32 everywhere; keys and values are 4 bytes in exact, 1 in the classes that end in `-kv8`, with 4
//! for each head and position, else 2.

use std::collections::BTreeMap;

use proto::LayerSpan;
use proto::manifest::Architecture;
use proto::tensor::{NumericsClass, WeightFormat};
use serde::Serialize;

use crate::architecture::span_tensors;
use crate::names::layer_of;

/// Bytes of a model's parts in one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// The class's name.
    pub class: &'static str,
    /// The largest layer.
    pub layer_bytes: u64,
    /// All layers.
    pub all_layers_bytes: u64,
    /// What the first stage has beside its layers.
    pub embedding_bytes: u64,
    /// What the last stage has beside its layers: norm and head.
    pub head_bytes: u64,
    /// Keys and values of one position over all layers.
    pub kv_bytes_per_token: u64,
    /// Keys and values of one position in one layer.
    pub kv_bytes_per_token_and_layer: u64,
}

/// How many layers of a model one machine holds, by the place of its span. 0 where not even one layer fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// The class's name.
    pub class: &'static str,
    /// A span that begins at layer 0, with the embedding.
    pub first: u32,
    /// A span in the middle.
    pub middle: u32,
    /// A span that ends at the last layer, with norm and head.
    pub last: u32,
    /// The whole model fits.
    pub whole: bool,
    /// Machines of this size that the whole model needs; `None` if no number of them is enough.
    pub machines: Option<u32>,
}

/// What a machine has and what it is to hold beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Memory in bytes.
    pub memory: u64,
    /// Positions of KV, over all sessions.
    pub positions: u64,
}

impl Footprint {
    /// All classes, most exact first. `four_bit_ends`: the file has embedding and head in 4 bits.
    pub fn of_all(architecture: &Architecture, four_bit_ends: bool) -> Vec<Self> {
        let Ok(whole) = LayerSpan::new(0, architecture.n_layers) else { return Vec::new() };
        let mut layers: BTreeMap<u32, Vec<(String, Vec<u64>)>> = BTreeMap::new();
        for (name, shape) in span_tensors(architecture, whole) {
            if let Some(layer) = layer_of(&name) {
                layers.entry(layer).or_default().push((name, shape));
            }
        }
        CLASSES.map(|class| Self::of(architecture, class, &layers, four_bit_ends)).to_vec()
    }

    fn of(
        a: &Architecture,
        class: NumericsClass,
        layers: &BTreeMap<u32, Vec<(String, Vec<u64>)>>,
        four_bit_ends: bool,
    ) -> Self {
        let weights = class.weights();
        let layers = layers.values().map(|tensors| layer(weights, tensors));
        let (largest, all) =
            layers.fold((0, 0), |(largest, all), bytes: u64| (bytes.max(largest), all + bytes));
        let [vocab, hidden] = [a.vocab, a.hidden].map(u64::from);
        let end = match weights {
            WeightFormat::Int4 if !four_bit_ends => matrix(WeightFormat::Int8, vocab, hidden),
            weights => matrix(weights, vocab, hidden),
        };
        let kv = a.kv_bytes_per_layer(class.kv());
        Self {
            class: class.name(),
            layer_bytes: largest,
            all_layers_bytes: all,
            embedding_bytes: end,
            head_bytes: tensor(weights, &[hidden]) + end,
            kv_bytes_per_token: kv * u64::from(a.n_layers),
            kv_bytes_per_token_and_layer: kv,
        }
    }

    /// Bytes of the weights of a stage that holds everything.
    pub fn whole_bytes(&self, architecture: &Architecture) -> u64 {
        // A tied head is the embedding itself.
        let shared = if architecture.tied_head { self.embedding_bytes } else { 0 };
        self.all_layers_bytes + self.embedding_bytes + self.head_bytes - shared
    }

    /// Bytes of the weights of a stage with such a span. Layers count as the largest of them, which they all are in
    /// the families there are.
    pub fn span_bytes(&self, architecture: &Architecture, span: LayerSpan) -> u64 {
        let (first, last) = (span.start() == 0, span.end() == architecture.n_layers);
        if first && last {
            return self.whole_bytes(architecture);
        }
        let embedding = if first { self.embedding_bytes } else { 0 };
        let head = if last { self.head_bytes } else { 0 };
        u64::from(span.len()) * self.layer_bytes + embedding + head
    }

    /// What a machine holds of the model.
    pub fn fit(&self, architecture: &Architecture, budget: Budget) -> Fit {
        let usable = budget.usable();
        let a_layer = self
            .layer_bytes
            .saturating_add(self.kv_bytes_per_token_and_layer.saturating_mul(budget.positions));
        let layers = |ends: u64| {
            let layers = usable.saturating_sub(ends) / a_layer.max(1);
            u32::try_from(layers).unwrap_or(u32::MAX).min(architecture.n_layers)
        };
        let (first, middle, last) = (layers(self.embedding_bytes), layers(0), layers(self.head_bytes));
        let kv = self.kv_bytes_per_token.saturating_mul(budget.positions);
        let whole = self.whole_bytes(architecture).saturating_add(kv) <= usable;
        let machines = if whole {
            Some(1)
        } else if first == 0 || last == 0 {
            None
        } else {
            // Two ends of at least a layer each; a model whose ends meet was too big for one machine.
            let rest = architecture.n_layers.saturating_sub(first).saturating_sub(last);
            Some(2 + rest.div_ceil(middle))
        };
        Fit { class: self.class, first, middle, last, whole, machines }
    }
}

impl Budget {
    /// What is left for weights and KV: 15 % stay free for activations, the system and growth, and the engine
    /// without a model has its own size.
    pub fn usable(self) -> u64 {
        (self.memory / 100 * 85).saturating_sub(LIBRARY_BYTES)
    }
}

/// Resident memory of the engine process beside weights and KV: 190 MB were measured with one small layer loaded, and
/// the library's workspaces come with the first steps.
pub const LIBRARY_BYTES: u64 = 256 << 20;

/// All classes in the order of [`Footprint::of_all`].
const CLASSES: [NumericsClass; 7] = [
    NumericsClass::Exact,
    NumericsClass::Bf16,
    NumericsClass::Int8,
    NumericsClass::Int4,
    NumericsClass::Bf16Kv8,
    NumericsClass::Int8Kv8,
    NumericsClass::Int4Kv8,
];

fn tensor(weights: WeightFormat, shape: &[u64]) -> u64 {
    match shape.split_last() {
        Some((&columns, outer)) if !outer.is_empty() => matrix(weights, outer.iter().product(), columns),
        _ => 4 * shape.iter().product::<u64>(),
    }
}

/// A layer's tensors as a stage holds them.
fn layer(weights: WeightFormat, tensors: &[(String, Vec<u64>)]) -> u64 {
    let mut stacked: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut bytes = 0;
    for (name, shape) in tensors {
        match shape[..] {
            // A router chooses in f32 whatever the class.
            [rows, columns] if name.ends_with(".gate.weight") => {
                bytes += matrix(WeightFormat::Exact, rows, columns);
            }
            [rows, columns] => stacked.entry(product_of(name)).or_insert([0, columns])[0] += rows,
            _ => bytes += tensor(weights, shape),
        }
    }
    bytes + stacked.values().map(|&[rows, columns]| matrix(weights, rows, columns)).sum::<u64>()
}

fn matrix(weights: WeightFormat, rows: u64, columns: u64) -> u64 {
    let (padded_rows, groups) = (rows.next_multiple_of(16), columns.div_ceil(32));
    match weights {
        WeightFormat::Exact => 4 * rows * columns,
        WeightFormat::Bf16 => 2 * padded_rows * columns,
        WeightFormat::Int8 => padded_rows * (32 * groups + 4),
        WeightFormat::Int4 => padded_rows * groups * (16 + 4),
    }
}

/// What a matrix of that name is multiplied in: those of the same rows are stacked, and padded as one.
fn product_of(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let (path, matrix) = name.rsplit_once('.').unwrap_or(("", name));
    let product = match matrix {
        "q_proj" | "k_proj" | "v_proj" => "qkv",
        "gate_proj" | "up_proj" | "w1" | "w3" => "gate_up",
        other => other,
    };
    format!("{path}.{product}")
}

#[cfg(test)]
mod tests;
