//! Loading a shard: from a checkpoint on disk to a stage that is ready to step.
//!
//! [`load`] runs on the compute thread that will own the stage, because tensors, inference mode
//! and the number of compute threads belong to a thread.

use std::path::PathBuf;
use std::sync::Arc;

use proto::LayerSpan;
use proto::manifest::{Architecture, Manifest};
use proto::tensor::{NumericsClass, WeightFormat};
use shard_node::engine::DeviceChoice;
use shard_node_stage::{LoadError, Stage, StageLoader, StageShape};
use shard_node_weights::manifest::SpanCheck;
use shard_node_weights::{Checkpoint, span_tensors};
use tch::Device;

use crate::device;
use crate::ends::{Embedding, Output};
use crate::error::EngineError;
use crate::families::Family;
use crate::ffi::{self, InferenceMode};
use crate::kernels::rotary::Rotary;
use crate::kv::KvStore;
use crate::memory::{Placement, step_bytes, weight_bytes};
use crate::numerics::Numerics;
use crate::span_weights::{Checking, SpanWeights, stored_bytes};
use crate::stage::{Head, TorchStage, heads_of};
use crate::threads::{self, Threads};

/// What to load and how to compute it.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// A GGUF file or an HF directory.
    pub model: PathBuf,
    /// What the file must hold: each tensor is checked against its hash before it is used.
    /// `None` trusts the file.
    pub manifest: Option<Arc<Manifest>>,
    /// The layers of the shard.
    pub span: LayerSpan,
    /// The numerics class.
    pub class: NumericsClass,
    /// Where it computes.
    pub device: DeviceChoice,
    /// Compute threads, by default all cores; class `exact` takes one whatever this says.
    pub threads: Option<usize>,
}

/// How far loading has come, in bytes of the model's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Read so far.
    pub read: u64,
    /// To read in all.
    pub total: u64,
}

/// A loader to run once, on the compute thread. `progress` is called on that thread.
pub fn loader(options: EngineOptions, progress: impl FnMut(LoadProgress) + Send + 'static) -> StageLoader {
    Box::new(move || load(&options, progress).map_err(LoadError::new))
}

/// Loads on the calling thread, which from then on is the stage's compute thread.
pub fn load(
    options: &EngineOptions,
    progress: impl FnMut(LoadProgress),
) -> Result<Box<dyn Stage>, EngineError> {
    Ok(Box::new(load_stage(options, progress)?))
}

pub(crate) fn load_stage(
    options: &EngineOptions,
    mut progress: impl FnMut(LoadProgress),
) -> Result<TorchStage, EngineError> {
    let checkpoint = Arc::new(Checkpoint::open(&options.model)?);
    let architecture = checkpoint.architecture()?;
    let span = options.span.within(architecture.n_layers)?;
    let family = Family::of(&architecture)?;
    if i64::from(architecture.head_dim) > ffi::MAX_HEAD_DIM {
        return Err(EngineError::HeadDim { dim: architecture.head_dim, most: ffi::MAX_HEAD_DIM });
    }
    let total = stored_bytes(&checkpoint, &architecture, span)?;

    let device = device::open(options.device)?;
    let numerics = Numerics::choose(options.class, device)?;
    let threads = Threads::fixed(numerics.threads(options.threads))?;
    let mode = InferenceMode::enter()?;
    let placement = placement(options, device)?;
    if let Some(placement) = &placement {
        placement.admit_weights(weight_bytes(&architecture, span, options.class))?;
    }

    let manifest = options.manifest.as_ref();
    let checking = manifest
        .map(|manifest| SpanCheck::new(manifest, &checkpoint, &span_tensors(&architecture, span)))
        .transpose()?
        .map(Checking::start);
    let manifest = manifest.map(|manifest| &**manifest);
    let weights =
        SpanWeights::new(&checkpoint, &architecture, manifest, checking.as_ref(), numerics.linear, device);
    let first = span.start() == 0;
    let last = span.end() == architecture.n_layers;
    let hidden = u64::from(architecture.hidden);
    progress(LoadProgress { read: 0, total });
    let scale = family.embedding_scale(&architecture);
    let embedding =
        if first { Some(Embedding::load(&weights, numerics, &architecture, scale, last)?) } else { None };
    let mut layers = Vec::with_capacity(span.len() as usize);
    for layer in span.layers() {
        layers.push(family.load(&weights, &architecture, layer)?);
        progress(LoadProgress { read: total * layers.len() as u64 / (u64::from(span.len()) + 1), total });
    }
    let head = if last {
        let output = Output::load(&weights, numerics, &architecture, embedding.as_ref(), device)?;
        Some(Head { norm: weights.norm("model.norm.weight", hidden)?, eps: architecture.norm_eps, output })
    } else {
        None
    };
    // Nothing computes with weights that are not the manifest's.
    checking.map_or(Ok(()), Checking::finish)?;
    progress(LoadProgress { read: total, total });

    let heads = heads_of(&architecture);
    let kv = KvStore::new(heads, layers.len(), options.class.kv(), device);
    let kv_positions = match (placement, device) {
        (Some(placement), Device::Cuda(index)) => {
            let free = device::memory(index)?.free;
            let step = step_bytes(&architecture, last);
            Some(placement.kv_positions(free, step, kv.bytes_per_position())?)
        }
        _ => None,
    };
    let shape = StageShape {
        span,
        n_layers: architecture.n_layers,
        hidden: architecture.hidden,
        vocab: architecture.vocab,
        context: architecture.context,
        class: options.class,
        kv_bytes_per_position: kv.bytes_per_position(),
        kv_positions,
    };
    let rotary = Rotary::new(&architecture, device)?;
    let mut stage = TorchStage {
        shape,
        numerics,
        threads,
        device,
        heads,
        embedding,
        layers,
        head,
        rotary,
        kv,
        under_way: None,
        last_rows: None,
        _mode: mode,
    };
    if device != Device::Cpu {
        // All of them were for packing. Later ones would spin beside the one that feeds the device.
        stage.threads = Threads::fixed(1)?;
    } else if options.threads.is_none() {
        stage.threads = threads::measured(&mut stage).map_err(EngineError::Threads)?;
    }
    tracing::info!(%span, threads = stage.threads.most(), matrix_bytes = stage.held_bytes(), "shard loaded");
    Ok(stage)
}

/// The shard and what is free on its GPU; `None` on the CPU, whose memory the user grants by `--kv-positions`.
fn placement(options: &EngineOptions, device: Device) -> Result<Option<Placement>, EngineError> {
    let Device::Cuda(index) = device else { return Ok(None) };
    let free = device::memory(index)?.free;
    let (span, class) = (options.span, options.class);
    Ok(Some(Placement { device: format!("cuda:{index}"), span, class, free }))
}

/// Bytes of the matrices that one decode step of one row reads in a numerics class, without the scales of int8's
/// rows; in int4, of a model that is not stored in 4 bits. Of a layer's experts those that a row uses: more rows read
/// more of them, at most all.
pub fn decode_bytes(architecture: &Architecture, span: LayerSpan, class: NumericsClass) -> u64 {
    let a = architecture;
    let [hidden, ffn, vocab] = [a.hidden, a.ffn, a.vocab].map(u64::from);
    let [queries, keys] = [a.heads, a.kv_heads].map(|heads| u64::from(heads) * u64::from(a.head_dim));
    let (ffn, router) = a.experts.map_or((ffn, 0), |experts| {
        let [count, used, ffn] = [experts.count, experts.used, experts.ffn].map(u64::from);
        (used * ffn, count * hidden * size_of::<f32>() as u64)
    });
    let layer = hidden * (2 * queries + 2 * keys + 3 * ffn);
    let head = if span.end() == a.n_layers { vocab * hidden } else { 0 };
    let layers = layer * u64::from(span.len());
    let routers = router * u64::from(span.len());
    routers
        + match class.weights() {
            WeightFormat::Exact => 4 * (layers + head),
            WeightFormat::Bf16 => 2 * (layers + head),
            WeightFormat::Int8 => layers + head,
            // A nibble, and 4 bytes for each 32.
            WeightFormat::Int4 => layers * 5 / 8 + head,
        }
}

#[cfg(test)]
mod tests;
