//! The whole toy model, computed from tokens alone: what every pipeline of [`ToyStage`](super::ToyStage)s must answer.

use super::{Row, apply_layer, embed, logit};

/// Sizes of a toy model. Two models of equal sizes are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToyModel {
    /// Layers.
    pub n_layers: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Most positions.
    pub context: u32,
}

impl ToyModel {
    /// A model with `n_layers` layers, 64 tokens and 4,096 positions.
    pub const fn new(n_layers: u32) -> Self {
        Self { n_layers, vocab: 64, context: 4096 }
    }

    /// Logits after the last of `tokens`; all zero for no tokens.
    ///
    /// Goes layer by layer over the whole sequence, unlike a stage, which goes row by row over its layers.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let mut rows: Vec<Row> = tokens.iter().map(|&token| embed(token)).collect();
        for layer in 0..self.n_layers {
            let mut digest = 0;
            for (position, row) in rows.iter_mut().enumerate() {
                digest = apply_layer(row, layer, position as u32, digest);
            }
        }
        let Some(last) = rows.last() else { return vec![0.0; self.vocab as usize] };
        (0..self.vocab).map(|token| logit(last, token)).collect()
    }

    /// The `count` tokens that follow `prompt`, greedily: the largest logit, of equal ones the lowest id.
    pub fn answer(&self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let logits = self.logits(&tokens);
            let mut best = 0;
            for (token, &logit) in logits.iter().enumerate() {
                if logit > logits[best] {
                    best = token;
                }
            }
            tokens.push(best as u32);
        }
        tokens.split_off(prompt.len())
    }
}
