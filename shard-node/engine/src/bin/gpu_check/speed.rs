//! How fast: decode at batch 1, 8 and 32 and a prefill of 512, beside the device's own read limit of this run.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use proto::LayerSpan;
use proto::tensor::NumericsClass;
use shard_node_engine::DeviceChoice;
use shard_node_stage::{KvSlot, Stage};
use tch::{Device, Kind, Tensor};

use crate::Sizes;
use crate::model::Llama;
use crate::pipeline::{stage, step};
use crate::report::Report;

/// Llama-3.2-1B's shape with a vocabulary of 32,000; and one that any CPU runs in a moment.
fn shape(sizes: Sizes) -> (Llama, Plan) {
    match sizes {
        Sizes::Full => (
            Llama {
                layers: 16,
                hidden: 2048,
                ffn: 8192,
                heads: 32,
                kv_heads: 8,
                head_dim: 64,
                vocab: 32_000,
            },
            Plan { from: 256, steps: 64, prefill: 512, limit_elements: 1 << 28 },
        ),
        Sizes::Small => (
            Llama { layers: 2, hidden: 128, ffn: 256, heads: 4, kv_heads: 2, head_dim: 32, vocab: 512 },
            Plan { from: 16, steps: 4, prefill: 64, limit_elements: 1 << 20 },
        ),
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Positions before the first timed step.
    from: u32,
    steps: u32,
    prefill: u32,
    /// f32 values that the read limit is measured on.
    limit_elements: i64,
}

pub(crate) fn check(report: &mut Report, sizes: Sizes, scratch: &Path) -> Result<()> {
    let (llama, plan) = shape(sizes);
    let limit = read_limit(report, plan.limit_elements)?;
    let folder = llama.write(scratch, "decode", 0..llama.layers, true)?;
    let architecture = shard_node_weights::Checkpoint::open(&folder)?.architecture()?;
    let span = LayerSpan::new(0, llama.layers)?;
    for class in [NumericsClass::Bf16, NumericsClass::Int8, NumericsClass::Int4] {
        let bytes = shard_node_engine::decode_bytes(&architecture, span, class) as f64;
        let begun = Instant::now();
        let mut loaded = stage(&folder, (0, llama.layers), class, report.device())?;
        let seconds = begun.elapsed().as_secs_f64();
        report.figure(
            &format!("load_{class}"),
            &[("seconds", seconds), ("held_bytes", bytes), ("held_bytes_per_second", bytes / seconds)],
        );
        measure(report, loaded.as_mut(), class, plan, bytes, limit)?;
    }
    std::fs::remove_dir_all(&folder).context("remove synthetic weights")
}

fn measure(
    report: &mut Report,
    loaded: &mut dyn Stage,
    class: NumericsClass,
    plan: Plan,
    bytes: f64,
    limit: f64,
) -> Result<()> {
    // Not reported. Seen on an H200: without it the first steps measured took 45 ms each, those after it 5; the
    // clocks were not why.
    decode(loaded, 8, plan)?;
    for batch in [1, 8, 32] {
        let (best, median) = decode(loaded, batch, plan)?;
        report.figure(
            &format!("decode_{class}_batch_{batch}"),
            &[
                ("median_ms", median * 1e3),
                ("best_ms", best * 1e3),
                ("tokens_per_second", f64::from(batch) / median),
                ("weight_bytes_per_second", bytes / median),
                ("share_of_read_limit", bytes / median / limit),
            ],
        );
    }
    // In one chunk, and in four: at full sizes those of a node's default row budget.
    for chunk in [plan.prefill, plan.prefill / 4] {
        let seconds = prefill(loaded, plan.prefill, chunk)?;
        report.figure(
            &format!("prefill_{class}_chunk_{chunk}"),
            &[("rows", f64::from(plan.prefill)), ("tokens_per_second", f64::from(plan.prefill) / seconds)],
        );
    }
    Ok(())
}

/// Seconds of the best and the median step.
fn decode(stage: &mut dyn Stage, batch: u32, plan: Plan) -> Result<(f64, f64)> {
    let slots: Vec<KvSlot> =
        (0..batch).map(|_| stage.open(plan.from + plan.steps)).collect::<Result<_, _>>()?;
    for &slot in &slots {
        step(stage, &[(slot, 0, plan.from)])?;
    }
    let mut times = vec![];
    for position in plan.from..plan.from + plan.steps {
        let groups: Vec<_> = slots.iter().map(|&slot| (slot, position, 1)).collect();
        times.push(step(stage, &groups)?);
    }
    for slot in slots {
        stage.close(slot);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[0], times[times.len() / 2]))
}

/// Best of three.
fn prefill(stage: &mut dyn Stage, rows: u32, chunk: u32) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let slot = stage.open(rows)?;
        let mut seconds = 0.0;
        for start in (0..rows).step_by(chunk as usize) {
            seconds += step(stage, &[(slot, start, chunk.min(rows - start))])?;
        }
        stage.close(slot);
        best = best.min(seconds);
    }
    Ok(best)
}

/// Bytes a second that the device reads: the better of a sum over and a copy of a tensor far larger than its caches.
fn read_limit(report: &mut Report, elements: i64) -> Result<f64> {
    let device = match report.device() {
        DeviceChoice::Cuda(index) => Device::Cuda(index as usize),
        _ => Device::Cpu,
    };
    let source = Tensor::f_ones([elements], (Kind::Float, device))?;
    let mut target = Tensor::f_zeros([elements], (Kind::Float, device))?;
    let bytes = 4.0 * elements as f64;
    // Reading one value back waits for all that was queued before it.
    let wait = |tensor: &Tensor| tensor.f_narrow(0, 0, 1)?.f_double_value(&[0]);
    let (mut sum, mut copy) = (f64::MAX, f64::MAX);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        let total = source.f_sum(Kind::Float)?;
        wait(&total.f_view([1])?)?;
        sum = sum.min(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        target.f_copy_(&source)?;
        wait(&target)?;
        copy = copy.min(begun.elapsed().as_secs_f64());
    }
    // A copy reads and writes each byte.
    let (sum, copy) = (bytes / sum, 2.0 * bytes / copy);
    report.figure("read_limit", &[("sum_bytes_per_second", sum), ("copy_bytes_per_second", copy)]);
    Ok(sum.max(copy))
}

const REPEATS: u32 = 10;
