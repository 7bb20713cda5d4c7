//! Does it keep to its memory: one layer of a 70B's shape and a session's KV, predicted against what the device's
//! allocator holds.

use std::path::Path;

use anyhow::{Context, Result};
use proto::LayerSpan;
use proto::tensor::NumericsClass;
use shard_node_engine::{DeviceMemory, device_memory, weight_bytes};

use crate::Sizes;
use crate::model::Llama;
use crate::pipeline::stage;
use crate::report::Report;

pub(crate) fn check(report: &mut Report, sizes: Sizes, scratch: &Path) -> Result<()> {
    let (llama, positions) = match sizes {
        Sizes::Full => (
            Llama {
                layers: 80,
                hidden: 8192,
                ffn: 28_672,
                heads: 64,
                kv_heads: 8,
                head_dim: 128,
                vocab: 128_256,
            },
            2048,
        ),
        Sizes::Small => (
            Llama { layers: 80, hidden: 256, ffn: 896, heads: 8, kv_heads: 1, head_dim: 32, vocab: 512 },
            256,
        ),
    };
    // A middle layer: no embedding, no head, and only its own tensors in the file.
    let folder = llama.write(scratch, "layer", 40..41, false)?;
    for class in [NumericsClass::Bf16, NumericsClass::Int8, NumericsClass::Int4] {
        layer(report, &folder, llama, class, positions)?;
    }
    std::fs::remove_dir_all(&folder).context("remove synthetic weights")
}

fn layer(
    report: &mut Report,
    folder: &Path,
    llama: Llama,
    class: NumericsClass,
    positions: u32,
) -> Result<()> {
    let architecture = shard_node_weights::Checkpoint::open(folder)?.architecture()?;
    let predicted = weight_bytes(&architecture, LayerSpan::new(40, 41)?, class);

    let before = held(report)?;
    let mut loaded = stage(folder, (40, 41), class, report.device())?;
    let with_weights = held(report)?;
    let per_position = loaded.shape().kv_bytes_per_position;
    let kv = per_position * u64::from(positions);
    let slot = loaded.open(positions)?;
    let with_kv = held(report)?;
    match (before, with_weights, with_kv) {
        (Some(before), Some(with_weights), Some(with_kv)) => {
            let weights = with_weights.held.saturating_sub(before.held);
            let (session, peak) = (with_kv.held.saturating_sub(with_weights.held), with_weights.peak);
            report.judge(
                &format!("memory_of_a_70b_layer_{class}"),
                near(weights, predicted) && near(session, kv),
                &[
                    ("weights_predicted_bytes", predicted as f64),
                    ("weights_measured_bytes", weights as f64),
                    ("kv_predicted_bytes", kv as f64),
                    ("kv_measured_bytes", session as f64),
                    ("peak_since_start_bytes", peak as f64),
                    ("kv_positions_that_fit", loaded.shape().kv_positions.unwrap_or(0) as f64),
                ],
            );
        }
        // The CPU has no allocator to ask; that the figures of the stage add up is all there is to see.
        _ => report.judge(
            &format!("memory_as_accounted_{class}"),
            per_position == 4 * u64::from(llama.kv_heads * llama.head_dim) && loaded.kv_bytes() <= kv,
            &[("weights_predicted_bytes", predicted as f64), ("kv_predicted_bytes", kv as f64)],
        ),
    }
    loaded.close(slot);
    Ok(())
}

fn held(report: &Report) -> Result<Option<DeviceMemory>> {
    device_memory(report.device()).context("ask the device for its memory")
}

/// Within 5 % and the allocator's rounding of a handful of blocks; never less than was predicted by more than vectors weigh.
fn near(measured: u64, predicted: u64) -> bool {
    measured <= predicted + predicted / 20 + (16 << 20) && measured >= predicted - predicted / 100
}
