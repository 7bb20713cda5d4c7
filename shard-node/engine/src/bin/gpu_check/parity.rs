//! Is it right: the device against the CPU's exact class and against transformers, and k stages against one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proto::tensor::NumericsClass;
use shard_node_engine::DeviceChoice;
use shard_node_stage::Stage;

use crate::pipeline::{logits, stage};
use crate::report::Report;

/// `models` holds `tokens.json` and a folder for each model: `model.gguf`, `logits` (f32, a row for each token) and
/// `bf16.json` (the root mean square of the error that bf16 makes to transformers).
pub(crate) fn check(report: &mut Report, models: &Path) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let tokens = read(&models.join("tokens.json"))?;
    let tokens: Vec<u32> = serde_json::from_slice(&tokens).context("read the tokens")?;
    let entries = std::fs::read_dir(models).with_context(|| format!("list {}", models.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    ensure!(!folders.is_empty(), "no models in {}", models.display());
    for folder in folders {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bytes = read(&folder.join("logits"))?;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        ensure!(
            !tokens.is_empty() && values.len().is_multiple_of(tokens.len()),
            "logits and tokens do not match"
        );
        let rounding: f64 =
            serde_json::from_slice(&read(&folder.join("bf16.json"))?).context("read bf16.json")?;
        let file = folder.join("model.gguf");
        let experts = shard_node_weights::Checkpoint::open(&file)?.architecture()?.experts.is_some();
        let exact =
            logits(&mut [stage(&file, (0, LAYERS), NumericsClass::Exact, DeviceChoice::Cpu)?], &tokens, 1)?;
        let reference = values.chunks(values.len() / tokens.len()).map(<[f32]>::to_vec).collect();
        let model = Model { name, file, tokens: tokens.clone(), exact, reference, rounding, experts };
        for class in [NumericsClass::Exact, NumericsClass::Bf16, NumericsClass::Int8, NumericsClass::Int4] {
            let mut one = [stage(&model.file, (0, LAYERS), class, report.device())?];
            model.parity(report, class, &mut one)?;
            model.stages(report, class, &mut one)?;
        }
    }
    Ok(())
}

/// A small model and what its logits must be.
struct Model {
    name: String,
    file: PathBuf,
    tokens: Vec<u32>,
    /// By the CPU's exact class, one row at a time.
    exact: Vec<Vec<f32>>,
    /// By transformers in f32.
    reference: Vec<Vec<f32>>,
    /// What bf16 costs transformers.
    rounding: f64,
    /// Its layers choose among experts.
    experts: bool,
}

impl Model {
    fn parity(&self, report: &mut Report, class: NumericsClass, one: &mut [Box<dyn Stage>; 1]) -> Result<()> {
        let (mut from_cpu, mut from_reference, mut flips, mut rows) = (0f32, 0f32, 0u32, 0f64);
        let mut error = Errors::default();
        // Row by row, in small chunks and in large ones: decode and prefill take different operators.
        for chunk in CHUNKS {
            for (index, row) in logits(one, &self.tokens, chunk)?.into_iter().enumerate() {
                let position = ((index + 1) * chunk).min(self.tokens.len()) - 1;
                let (exact, reference) = (&self.exact[position], &self.reference[position]);
                from_cpu = from_cpu.max(difference(&row, exact));
                from_reference = from_reference.max(difference(&row, reference));
                flips += u32::from(best(&row) != best(exact));
                error.add(&row, reference);
                rows += 1.0;
            }
        }
        // Quantised weights are off by what quantising costs, which the same class on the CPU shows.
        let allowed = match class {
            NumericsClass::Exact => f64::from(F32_BOUND),
            NumericsClass::Bf16 => BF16_FACTOR * self.rounding,
            _ => QUANTISED_FACTOR * self.error_on_cpu(class)?,
        };
        let rms = error.rms(self.experts);
        let same = from_cpu <= F32_BOUND && from_reference <= F32_BOUND && flips == 0;
        let passed = rms <= allowed && (same || class != NumericsClass::Exact);
        report.judge(
            &format!("parity_{class}_{}", self.name),
            passed,
            &[
                ("largest_difference_from_cpu_exact", f64::from(from_cpu)),
                ("largest_difference_from_transformers", f64::from(from_reference)),
                ("rms_from_transformers", rms),
                ("rms_of_transformers_bf16", self.rounding),
                ("rms_allowed", allowed),
                ("other_best_tokens", f64::from(flips)),
                ("rows", rows),
            ],
        );
        Ok(())
    }

    /// The root mean square of the error to transformers that the class makes on the CPU.
    fn error_on_cpu(&self, class: NumericsClass) -> Result<f64> {
        let mut one = [stage(&self.file, (0, LAYERS), class, DeviceChoice::Cpu)?];
        let mut error = Errors::default();
        for (row, reference) in logits(&mut one, &self.tokens, 1)?.iter().zip(&self.reference) {
            error.add(row, reference);
        }
        Ok(error.rms(self.experts))
    }

    /// The same operators on the same shapes: k stages must give the bits of one.
    fn stages(&self, report: &mut Report, class: NumericsClass, one: &mut [Box<dyn Stage>; 1]) -> Result<()> {
        let (mut worst, mut unequal) = (0f32, 0u32);
        for cut in [&[(0, 1), (1, LAYERS)][..], &[(0, 2), (2, 3), (3, LAYERS)][..]] {
            let stages = cut.iter().map(|&span| stage(&self.file, span, class, report.device()));
            let mut several = stages.collect::<Result<Vec<_>>>()?;
            for chunk in CHUNKS {
                let (a, b) = (logits(one, &self.tokens, chunk)?, logits(&mut several, &self.tokens, chunk)?);
                worst = a.iter().zip(&b).map(|(a, b)| difference(a, b)).fold(worst, f32::max);
                unequal += u32::from(a != b);
            }
        }
        report.judge(
            &format!("stages_{class}_{}", self.name),
            unequal == 0,
            &[("largest_difference_from_one_stage", f64::from(worst)), ("runs_unequal", f64::from(unequal))],
        );
        Ok(())
    }
}

/// How far rows of logits are from those of transformers.
#[derive(Debug, Default)]
struct Errors {
    /// The mean square of each row's differences.
    rows: Vec<f64>,
}

impl Errors {
    fn add(&mut self, row: &[f32], reference: &[f32]) {
        let squares = row.iter().zip(reference).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        self.rows.push(squares / row.len() as f64);
    }

    /// The root mean square of all rows; with experts that of the middle row, since rounding makes a router choose
    /// another expert now and then, and that row jumps.
    fn rms(mut self, experts: bool) -> f64 {
        let rows = self.rows.len();
        if experts {
            self.rows.sort_by(f64::total_cmp);
            return self.rows.get(rows / 2).map_or(f64::NAN, |square| square.sqrt());
        }
        (self.rows.iter().sum::<f64>() / rows as f64).sqrt()
    }
}

/// The largest difference; infinite where one is not a number.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0f32, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) });
    if a.len() == b.len() { worst } else { f32::INFINITY }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best })
}

/// Layers of every small model.
const LAYERS: u32 = 4;

const CHUNKS: [usize; 3] = [1, 7, 40];

/// The CPU's own bound against transformers. TF32's 10 bits would miss it many times over: so it also shows that TF32
/// is off.
const F32_BOUND: f32 = 1e-4;

/// The shim's error stays below 1.5 of what bf16 costs transformers; the library's operators round more often.
const BF16_FACTOR: f64 = 2.0;

/// A GPU multiplies by unrounded activations, so it should be nearer; chunks and bf16's rounding differ.
const QUANTISED_FACTOR: f64 = 1.25;
