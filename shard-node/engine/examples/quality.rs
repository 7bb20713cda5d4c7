//! How far each numerics class is from `exact` on text: Kullback-Leibler divergence of its next-token
//! distribution, and how often its most likely token is the same.
//!
//! `cargo run --release -p shard-node-engine --example quality -- MODEL [TOKENS] [CLASS..]` lets the model write
//! (class `exact`, temperature 1, seeded) in 16 sequences from different first tokens, 2,048 tokens by default,
//! and gives every class the same tokens.

#![expect(clippy::print_stdout, reason = "a measuring program")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_stage::{KvSlot, Stage, StepGroup, StepInput, StepOutput};

/// Sequences side by side: class `exact` multiplies 16 rows at the price of one.
const SEQUENCES: u32 = 16;
const SEED: u64 = 20_261_122;
const CLASSES: [NumericsClass; 3] = [NumericsClass::Bf16, NumericsClass::Int8, NumericsClass::Int4];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = PathBuf::from(arguments.next().context("name a GGUF file or an HF directory")?);
    let tokens: u32 = arguments.next().map_or(Ok(2048), |text| text.parse())?;
    let classes = arguments.map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
    let classes = if classes.is_empty() { CLASSES.to_vec() } else { classes };
    let steps = tokens.div_ceil(SEQUENCES);

    let mut exact = Whole::load(&model, NumericsClass::Exact, steps)?;
    let mut near =
        classes.iter().map(|&class| Whole::load(&model, class, steps)).collect::<Result<Vec<_>>>()?;
    let mut distances = vec![Distance::default(); classes.len()];
    let mut random = Random(SEED);
    let vocab = exact.stage.shape().vocab;
    let mut inputs: Vec<u32> = (0..SEQUENCES).map(|_| (random.uniform() * f64::from(vocab)) as u32).collect();
    for step in 0..steps {
        let truth = exact.step(step, &inputs)?;
        for (whole, distance) in near.iter_mut().zip(&mut distances) {
            let logits = whole.step(step, &inputs)?;
            for (a, b) in truth.chunks(vocab as usize).zip(logits.chunks(vocab as usize)) {
                distance.add(a, b);
            }
        }
        inputs = truth.chunks(vocab as usize).map(|logits| random.choose(logits)).collect();
    }
    println!(
        "seed {SEED}, {} positions, text by the model itself in class exact at temperature 1",
        steps * SEQUENCES
    );
    println!("| class | mean KL to exact, nats | 99th percentile | largest | same best token |");
    println!("|---|---|---|---|---|");
    for (class, distance) in classes.iter().zip(&mut distances) {
        println!("| {class} | {} |", distance.row());
    }
    Ok(())
}

/// A model in one stage, its sequences open.
struct Whole {
    stage: Box<dyn Stage>,
    slots: Vec<KvSlot>,
}

impl Whole {
    fn load(model: &Path, class: NumericsClass, steps: u32) -> Result<Self> {
        let n_layers = shard_node_weights::Checkpoint::open(model)?.architecture()?.n_layers;
        let options = EngineOptions {
            model: model.to_owned(),
            span: LayerSpan::new(0, n_layers)?,
            class,
            device: DeviceChoice::Cpu,
            threads: None,
            manifest: None,
        };
        let mut stage = load(&options, |_| ())?;
        let slots = (0..SEQUENCES).map(|_| stage.open(steps)).collect::<Result<_, _>>()?;
        Ok(Self { stage, slots })
    }

    /// Logits of all sequences after one more token each.
    fn step(&mut self, position: u32, tokens: &[u32]) -> Result<Vec<f32>> {
        let start = Position::new(position);
        let groups: Vec<_> =
            self.slots.iter().map(|&slot| StepGroup { slot, start, rows: 1, sample: true }).collect();
        match self.stage.step(&groups, StepInput::Tokens(tokens.to_vec()))? {
            StepOutput::Logits(logits) => Ok(logits),
            StepOutput::Activations(_) => bail!("a whole model gave no logits"),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Distance {
    divergences: Vec<f64>,
    same: usize,
}

impl Distance {
    fn add(&mut self, truth: &[f32], near: &[f32]) {
        let (log_p, log_q) = (log_softmax(truth), log_softmax(near));
        let terms = log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q));
        self.divergences.push(terms.sum::<f64>().max(0.0));
        self.same += usize::from(argmax(truth) == argmax(near));
    }

    fn row(&mut self) -> String {
        self.divergences.sort_by(f64::total_cmp);
        let count = self.divergences.len();
        let mean = self.divergences.iter().sum::<f64>() / count as f64;
        let (late, largest) = (self.divergences[count * 99 / 100], self.divergences[count - 1]);
        let same = self.same as f64 / count as f64 * 100.0;
        format!("{mean:.5} | {late:.4} | {largest:.3} | {same:.1} %")
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) - largest - sum.ln()).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A token from the distribution of the logits.
    fn choose(&mut self, logits: &[f32]) -> u32 {
        let mut left = self.uniform();
        for (token, log_p) in log_softmax(logits).into_iter().enumerate() {
            left -= log_p.exp();
            if left < 0.0 {
                return token as u32;
            }
        }
        0
    }
}
