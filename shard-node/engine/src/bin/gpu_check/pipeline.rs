//! A model as a row of stages on one device, and timed steps of them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_stage::{KvSlot, Stage, StepGroup, StepInput, StepOutput};

/// Loads the layers `start..end` on a device.
pub(crate) fn stage(
    model: &Path,
    (start, end): (u32, u32),
    class: NumericsClass,
    device: DeviceChoice,
) -> Result<Box<dyn Stage>> {
    let span = LayerSpan::new(start, end)?;
    // Said, not measured: stages that split sums over other numbers of threads could give other bits.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let options = EngineOptions {
        model: model.to_owned(),
        manifest: None,
        span,
        class,
        device,
        threads: Some(threads),
    };
    load(&options, |_| ()).with_context(|| format!("load layers {span} in {class} on {device}"))
}

/// Logits after each of `tokens`, of one session that is fed `chunk` rows at a time: a row for each chunk's end.
pub(crate) fn logits(stages: &mut [Box<dyn Stage>], tokens: &[u32], chunk: usize) -> Result<Vec<Vec<f32>>> {
    let slots: Vec<KvSlot> =
        stages.iter_mut().map(|stage| stage.open(tokens.len() as u32)).collect::<Result<_, _>>()?;
    let mut given = vec![];
    for (index, part) in tokens.chunks(chunk).enumerate() {
        let mut input = StepInput::Tokens(part.to_vec());
        for (stage, &slot) in stages.iter_mut().zip(&slots) {
            let start = Position::new((index * chunk) as u32);
            let group = StepGroup { slot, start, rows: part.len() as u32, sample: true };
            match stage.step(&[group], input)? {
                StepOutput::Activations(bytes) => input = StepInput::Activations(bytes),
                StepOutput::Logits(logits) => {
                    given.push(logits);
                    input = StepInput::Tokens(vec![]);
                }
            }
        }
    }
    for (stage, slot) in stages.iter_mut().zip(slots) {
        stage.close(slot);
    }
    if given.len() != tokens.len().div_ceil(chunk) {
        bail!("{} rows of logits for {} chunks", given.len(), tokens.len().div_ceil(chunk));
    }
    Ok(given)
}

/// Seconds of one step of a stage that embeds and samples; `groups` are (slot, first position, rows).
pub(crate) fn step(stage: &mut dyn Stage, groups: &[(KvSlot, u32, u32)]) -> Result<f64> {
    let vocab = stage.shape().vocab;
    let rows: u32 = groups.iter().map(|group| group.2).sum();
    let input = StepInput::Tokens((0..rows).map(|row| row * 7919 % vocab).collect());
    let groups: Vec<StepGroup> = groups
        .iter()
        .map(|&(slot, start, rows)| StepGroup { slot, start: Position::new(start), rows, sample: true })
        .collect();
    let begun = Instant::now();
    // It returns when the logits are on the host, so the device has done the whole step.
    let output = stage.step(&groups, input)?;
    let seconds = begun.elapsed().as_secs_f64();
    match output {
        StepOutput::Logits(logits) if logits.iter().all(|value| value.is_finite()) => Ok(seconds),
        _ => bail!("a step gave no logits, or some that are not numbers"),
    }
}
