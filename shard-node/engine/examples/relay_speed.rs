//! Decode speed of a row of stages in one process, a compute thread each: what taking turns costs.
//!
//! `cargo run --release -p shard-node-engine --example relay_speed -- MODEL STAGES THREADS [STEPS]`.
//! Run it under several values of `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT`: the OpenMP runtime reads
//! them before `main`, so whoever starts an engine's process sets them.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: prints and reads clocks"
)]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_stage::{StepGroup, StepInput, StepOutput};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = PathBuf::from(arguments.next().context("name a model")?);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (stages, threads, steps) = (number(3)?, number(1)?, number(60)?);
    let n_layers = shard_node_weights::Checkpoint::open(&model)?.architecture()?.n_layers;
    let spans = LayerSpan::split_evenly(n_layers, stages as u32)?;

    std::thread::scope(|scope| {
        // One step is on its way at a time, so one place in each channel is enough.
        let (feed, mut input) = sync_channel::<StepInput>(1);
        for span in spans {
            let (output, next) = sync_channel(1);
            let options = EngineOptions {
                model: model.clone(),
                manifest: None,
                span,
                class: NumericsClass::Bf16,
                device: DeviceChoice::Cpu,
                threads: Some(threads),
            };
            let taken = std::mem::replace(&mut input, next);
            scope.spawn(move || compute(&options, steps, &taken, &output));
        }
        let mut times = vec![];
        for step in 0..steps {
            let begun = Instant::now();
            feed.send(StepInput::Tokens(vec![step as u32 + 3]))?;
            input.recv().map_err(|_| anyhow!("a stage failed"))?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let mut times = times.split_off(steps / 4);
        times.sort_by(f64::total_cmp);
        let (best, middle) = (times[0], times[times.len() / 2]);
        println!(
            "{stages} stage(s) of {threads} thread(s): {middle:.2} ms/token at the median, {best:.2} at best, {:.1} tok/s",
            1e3 / middle
        );
        Ok(())
    })
}

/// A stage's thread: loads, then computes steps until its input ends.
fn compute(
    options: &EngineOptions,
    steps: usize,
    input: &Receiver<StepInput>,
    output: &SyncSender<StepInput>,
) -> Result<()> {
    let mut stage = load(options, |_| ())?;
    let slot = stage.open(steps as u32)?;
    for (position, input) in input.iter().enumerate() {
        let group = StepGroup { slot, start: Position::new(position as u32), rows: 1, sample: true };
        let given = match stage.step(&[group], input)? {
            StepOutput::Activations(bytes) => StepInput::Activations(bytes),
            StepOutput::Logits(_) => StepInput::Tokens(vec![0]),
        };
        output.send(given)?;
    }
    Ok(())
}
