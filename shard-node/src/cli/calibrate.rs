//! `shard-node calibrate`: what honest nodes give, for audits to judge by.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use proto::{ContentHash, LayerSpan};
use proto_attest::calibration::{Calibration, DevicePair};
use proto_text::{EncodeMode, Tokenizer};

use super::serve::runtime;
use super::source::{self, Source};
use super::{merged, print_line};
use crate::attest::exec_build;
use crate::audit::{CalibrationPlan, calibrate, device_name};
use crate::engine::{Engine, LoadRequest};
use crate::settings::{Checked, Settings};

/// Options of `calibrate`.
#[derive(Args, Debug)]
pub(super) struct CalibrateArgs {
    /// Spans of the hops, comma-separated; they tile the model
    #[arg(long, value_name = "A..B", value_delimiter = ',', required_unless_present = "parts")]
    spans: Vec<LayerSpan>,
    /// Instead: so many hops with equally many layers
    #[arg(long, value_name = "N", conflicts_with = "spans")]
    parts: Option<u32>,
    /// Answers computed at once, one run for each number
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16,32")]
    batches: Vec<u32>,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 64)]
    tokens: u32,
    /// Texts that answers begin with, one a line; some of many kinds by default. Those of a report must be others
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Another one gives other answers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where the calibration goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// Configuration file instead of layerlane/node.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl CalibrateArgs {
    pub(super) fn checked(&self) -> Result<Checked> {
        let sane = |batch: &u32| (1..=256).contains(batch);
        ensure!(self.batches.iter().all(sane), "--batches are numbers from 1 to 256");
        ensure!((2..=4096).contains(&self.tokens), "--tokens is a number from 2 to 4096");
        let checked = merged(self.settings.clone(), self.config.clone())?.check()?;
        checked.model.as_ref().context("no model was named: give --model REF")?;
        Ok(checked)
    }
}

/// The prompts' ids.
fn prompts(file: Option<&Path>, tokenizer: Option<&[u8]>) -> Result<Vec<Vec<u32>>> {
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("read the prompts {}", path.display()))?
        }
        None => include_str!("calibration_prompts.txt").to_owned(),
    };
    let tokenizer = tokenizer.context("find a tokenizer: this model has none, and prompts are texts")?;
    let tokenizer = Tokenizer::from_json(tokenizer)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| Ok(tokenizer.encode(line, EncodeMode::Prompt)?)).collect()
}

/// Measures and writes the file; prints its name.
pub(super) fn run(engine: &dyn Engine, args: &CalibrateArgs, checked: &Checked) -> Result<()> {
    let reference = checked.model.clone().context("read the model")?;
    let Source { path, span, described } = source::from_files(&runtime()?, &reference, None)?;
    let layers = described.manifest.architecture.n_layers;
    let spans = match args.parts {
        Some(parts) => LayerSpan::split_evenly(layers, parts)?,
        None => args.spans.clone(),
    };
    let loader = engine.loader(LoadRequest {
        checkpoint: path,
        manifest: Arc::new(described.manifest),
        span,
        class: checked.class,
        device: checked.device,
        threads: checked.threads,
    });
    let mut stage = loader()?;
    let prompts = prompts(args.prompts.as_deref(), described.tokenizer_json.as_deref())?;
    let (batches, tokens, seed) = (args.batches.clone(), args.tokens, args.seed);
    let plan = CalibrationPlan { spans, batches, tokens, prompts, seed };
    let mut told = |batch: u32| tracing::info!(batch, "calibrated");
    let calibrated = calibrate(stage.as_mut(), &plan, &mut told)?;
    let device = device_name();
    let calibration = Calibration {
        version: 1,
        model: described.id,
        class: checked.class,
        exec_build: exec_build(),
        prompts: calibrated.prompts,
        devices: vec![DevicePair { node: device.clone(), auditor: device }],
        spans: calibrated.spans,
    };
    let bytes = calibration.encode()?;
    std::fs::write(&args.out, &bytes).with_context(|| format!("write {}", args.out.display()))?;
    for span in &calibration.spans {
        for honest in &span.statistics {
            print_line(&format!(
                "layers {}..{} {:?}: p50 {:.5}, p99 {:.5}, max {:.5} of {} chunks",
                span.start, span.end, honest.statistic, honest.p50, honest.p99, honest.max, honest.chunks
            ));
        }
    }
    print_line(&format!("calibration {} in {}", ContentHash::of(&bytes), args.out.display()));
    Ok(())
}
