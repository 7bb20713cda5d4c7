//! Decode and prefill speed of one stage, with this machine's memory read limit beside it.
//!
//! `cargo run --release -p shard-node-engine --example decode_speed -- MODEL [THREADS] [CLASS] [A..B] [KV]`
//! prints, for a GGUF file or HF directory: the read limit for as many threads, decode at batch 1, 4
//! and 16 from position KV (256), and a prefill of 512 in chunks of 256.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: prints and reads clocks"
)]

mod read_limit;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_stage::{KvSlot, Stage, StepGroup, StepInput};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = PathBuf::from(arguments.next().context("name a GGUF file or an HF directory")?);
    let threads: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let class: NumericsClass = arguments.next().map_or(Ok(NumericsClass::Bf16), |text| text.parse())?;
    let architecture = shard_node_weights::Checkpoint::open(&model)?.architecture()?;
    let span: LayerSpan =
        arguments.next().map_or_else(|| LayerSpan::new(0, architecture.n_layers), |text| text.parse())?;

    let kv: u32 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let limit = read_limit::read_limit(&read_limit::words(), threads, 8);
    println!("read limit, {threads} thread(s): {:.1} GB/s", limit / 1e9);
    let options = EngineOptions {
        model,
        span,
        class,
        device: DeviceChoice::Cpu,
        threads: Some(threads),
        manifest: None,
    };
    let begun = Instant::now();
    let mut stage = load(&options, |_| ())?;
    println!("load {span} in {class}: {:.2} s", begun.elapsed().as_secs_f64());

    let bytes = shard_node_engine::decode_bytes(&architecture, span, class);
    for batch in [1, 4, 16] {
        let seconds = decode(stage.as_mut(), batch, kv)?;
        println!(
            "decode batch {batch} from {kv}: {:.2} ms/step, {:.1} tok/s, weights {:.1} GB/s = {:.0} % of the read limit",
            seconds * 1e3,
            f64::from(batch) / seconds,
            bytes as f64 / seconds / 1e9,
            bytes as f64 / seconds / limit * 100.0,
        );
    }
    let seconds = prefill(stage.as_mut(), 512, 256)?;
    println!("prefill 512: {:.0} ms, {:.0} tok/s", seconds * 1e3, 512.0 / seconds);
    Ok(())
}

/// Best of many steps from position `kv`, which is reached in chunks of 256.
fn decode(stage: &mut dyn Stage, batch: u32, kv: u32) -> Result<f64> {
    const STEPS: u32 = 40;
    let slots = (0..batch).map(|_| stage.open(kv + STEPS)).collect::<Result<Vec<_>, _>>()?;
    for &slot in &slots {
        for start in (0..kv).step_by(256) {
            run(stage, &[group(slot, start, 256.min(kv - start))])?;
        }
    }
    let mut best = f64::MAX;
    for step in 0..STEPS {
        let groups: Vec<_> = slots.iter().map(|&slot| group(slot, kv + step, 1)).collect();
        best = best.min(run(stage, &groups)?);
    }
    for slot in slots {
        stage.close(slot);
    }
    Ok(best)
}

/// Best of three.
fn prefill(stage: &mut dyn Stage, rows: u32, chunk: u32) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let slot = stage.open(rows)?;
        let mut seconds = 0.0;
        for start in (0..rows).step_by(chunk as usize) {
            seconds += run(stage, &[group(slot, start, chunk)])?;
        }
        stage.close(slot);
        best = best.min(seconds);
    }
    Ok(best)
}

fn group(slot: KvSlot, start: u32, rows: u32) -> StepGroup {
    StepGroup { slot, start: Position::new(start), rows, sample: true }
}

/// Seconds of one step.
fn run(stage: &mut dyn Stage, groups: &[StepGroup]) -> Result<f64> {
    let shape = stage.shape();
    let rows: u32 = groups.iter().map(|group| group.rows).sum();
    let input = if shape.is_first() {
        StepInput::Tokens((0..rows).map(|row| row * 7919 % shape.vocab).collect())
    } else {
        StepInput::Activations(Bytes::from(vec![0x3c; rows as usize * shape.row_bytes()]))
    };
    let begun = Instant::now();
    black_box(stage.step(groups, input)?);
    Ok(begun.elapsed().as_secs_f64())
}
