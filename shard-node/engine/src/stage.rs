//! `TorchStage`: a span of decoder layers behind the `Stage` seam.
//!
//! Checks everything that comes in, then embeds (first stage), runs the layers, and gives
//! activations or (last stage) logits of the rows to sample. Never panics on input.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use proto::manifest::Architecture;
use proto::{LayerSpan, Position};
use shard_node_stage::{KvSlot, Stage, StageError, StageShape, StepGroup, StepInput, StepOutput};
use tch::{Device, Kind, Tensor};

use crate::ends::{Embedding, Output};
use crate::families::DecoderLayer;
use crate::ffi::{self, InferenceMode, TorchError};
use crate::kernels::attention::Heads;
use crate::kernels::by_shim;
use crate::kernels::rotary::Rotary;
use crate::kernels::rows::rms_norm;
use crate::kv::KvStore;
use crate::numerics::Numerics;
use crate::rows::StepRows;
use crate::threads::Threads;

/// A loaded shard. Lives and dies on the thread that loaded it.
#[derive(Debug)]
pub(crate) struct TorchStage {
    pub(crate) shape: StageShape,
    pub(crate) numerics: Numerics,
    pub(crate) threads: Threads,
    pub(crate) device: Device,
    pub(crate) heads: Heads,
    pub(crate) embedding: Option<Embedding>,
    pub(crate) layers: Vec<Box<dyn DecoderLayer>>,
    pub(crate) head: Option<Head>,
    pub(crate) rotary: Rotary,
    pub(crate) kv: KvStore,
    pub(crate) under_way: Option<UnderWay>,
    /// The rows behind the last logits, `[rows, hidden]`.
    pub(crate) last_rows: Option<Tensor>,
    /// Last, so that it outlives every tensor above.
    pub(crate) _mode: InferenceMode,
}

/// Final norm and output matrix of a last stage.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) norm: Tensor,
    pub(crate) eps: f64,
    pub(crate) output: Output,
}

/// The sizes of an architecture's attention.
pub(crate) fn heads_of(architecture: &Architecture) -> Heads {
    Heads {
        queries: i64::from(architecture.heads),
        keys: i64::from(architecture.kv_heads),
        dim: i64::from(architecture.head_dim),
    }
}

impl Stage for TorchStage {
    fn shape(&self) -> StageShape {
        self.shape
    }

    fn open_part(&mut self, part: LayerSpan, max_positions: u32) -> Result<KvSlot, StageError> {
        let span = self.shape.span;
        if !span.holds(part) {
            return Err(StageError::Part { part, span });
        }
        let context = self.shape.context;
        if max_positions == 0 || max_positions > context {
            return Err(StageError::Memory {
                positions: max_positions,
                why: format!("a session of this model has 1 to {context} positions"),
            });
        }
        self.rotary.reserve(max_positions)?;
        let first = (part.start() - span.start()) as usize;
        self.kv.open(first..first + part.len() as usize, max_positions)
    }

    fn close(&mut self, slot: KvSlot) {
        self.kv.close(slot);
    }

    fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.kv.trim(slot, length)
    }

    fn copy(&mut self, from: KvSlot, to: KvSlot, length: Position) -> Result<(), StageError> {
        self.kv.copy(from, to, length.get())
    }

    fn retain(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.kv.retain(slot, length.get())
    }

    fn step(&mut self, groups: &[StepGroup], input: StepInput) -> Result<StepOutput, StageError> {
        let mut step = self.started(groups, input)?;
        self.run(&mut step, u32::MAX)?;
        self.finish(&step)
    }

    fn begin(&mut self, groups: &[StepGroup], input: StepInput) -> Result<(), StageError> {
        self.under_way = None;
        self.under_way = Some(self.started(groups, input)?);
        Ok(())
    }

    fn resume(&mut self, layers: u32) -> Result<Option<StepOutput>, StageError> {
        let step = self.under_way.take();
        let mut step = step.ok_or_else(|| StageError::Input("no step was begun".into()))?;
        self.run(&mut step, layers.max(1))?;
        if step.layer == step.part.len() {
            return self.finish(&step).map(Some);
        }
        // Else pieces would pile up on the device, and others' steps behind them.
        ffi::synchronise(self.device)?;
        self.under_way = Some(step);
        Ok(None)
    }

    fn give_up(&mut self) {
        self.under_way = None;
    }

    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError> {
        let vocab = self.shape.vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token >= vocab) {
            return Err(StageError::Token { token, vocab });
        }
        let tokens: Vec<i64> = tokens.iter().copied().map(i64::from).collect();
        Ok(to_wire(&self.embedded(&tokens)?)?)
    }

    fn last_rows(&mut self) -> Result<Bytes, StageError> {
        let rows = self.last_rows.as_ref().ok_or_else(|| StageError::Input("no step gave logits".into()))?;
        Ok(to_wire(rows)?)
    }

    fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    fn idle(&mut self, wait: &mut dyn FnMut()) {
        ffi::team_rest();
        wait();
        ffi::team_rouse();
    }
}

/// A step between two layers.
#[derive(Debug)]
pub(crate) struct UnderWay {
    groups: Vec<StepGroup>,
    /// The layers that compute them, counted from the stage's first.
    part: Range<usize>,
    rows: usize,
    /// The layer that comes next, counted from the part's first.
    layer: usize,
    x: Rows,
}

/// Rows as a layer takes them.
#[derive(Debug)]
enum Rows {
    Tokens(Vec<i64>),
    Frame(Bytes),
    Computed(Tensor),
}

impl TorchStage {
    /// Bytes of its matrices. A decode step reads all of them, but of experts only those that its rows chose.
    pub(crate) fn weight_bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(|layer| layer.bytes()).sum();
        layers + self.head.as_ref().map_or(0, |head| head.output.bytes())
    }

    /// Bytes of all matrices it holds, the embedding among them; one that is tied counts once.
    pub(crate) fn held_bytes(&self) -> usize {
        let shared =
            |embedding: &&Embedding| self.head.as_ref().is_some_and(|head| head.output.shares(embedding));
        self.weight_bytes() + self.embedding.as_ref().filter(|e| !shared(e)).map_or(0, Embedding::bytes)
    }

    /// Every group continues an open session within its reservation, in the same layers; gives the number of rows.
    fn check_groups(&self, groups: &[StepGroup]) -> Result<(usize, Range<usize>), StageError> {
        let Some(first) = groups.first() else {
            return Err(StageError::Input("a step without rows".into()));
        };
        let part = self.kv.session(first.slot)?.part();
        let mut seen = BTreeSet::new();
        let mut total = 0usize;
        for group in groups {
            let session = self.kv.session(group.slot)?;
            if !seen.insert(group.slot) {
                return Err(StageError::Input(format!("KV slot {} occurs twice", group.slot.get())));
            }
            if session.part() != part {
                return Err(StageError::Input("slots of two parts of the span".into()));
            }
            if group.rows == 0 {
                return Err(StageError::Input("a group without rows".into()));
            }
            let (expected, reserved) = (session.length(), session.reserved());
            if group.start.get() != expected {
                return Err(StageError::Position { expected: Position::new(expected), got: group.start });
            }
            if group.start.get().checked_add(group.rows).is_none_or(|end| end > reserved) {
                return Err(StageError::Reservation { position: Position::new(reserved), reserved });
            }
            total += group.rows as usize;
        }
        Ok((total, part))
    }

    /// A step that may be computed: everything is checked, and there is room in the KV.
    fn started(&mut self, groups: &[StepGroup], input: StepInput) -> Result<UnderWay, StageError> {
        let (rows, part) = self.check_groups(groups)?;
        let x = self.checked(rows, self.shape.is_first() && part.start == 0, input)?;
        for group in groups {
            self.kv.grow(group.slot, group.start.get() + group.rows)?;
        }
        Ok(UnderWay { groups: groups.to_vec(), part, rows, layer: 0, x })
    }

    /// The input fits the layers and the rows.
    fn checked(&self, rows: usize, embeds: bool, input: StepInput) -> Result<Rows, StageError> {
        match input {
            StepInput::Tokens(tokens) if embeds => {
                if tokens.len() != rows {
                    return Err(StageError::Input(format!("{} tokens for {rows} rows", tokens.len())));
                }
                let vocab = self.shape.vocab;
                match tokens.iter().find(|&&token| token >= vocab) {
                    Some(&token) => Err(StageError::Token { token, vocab }),
                    None => Ok(Rows::Tokens(tokens.into_iter().map(i64::from).collect())),
                }
            }
            StepInput::Activations(bytes) if !embeds => {
                let expected = rows * self.shape.row_bytes();
                if bytes.len() == expected {
                    Ok(Rows::Frame(bytes))
                } else {
                    let got = bytes.len();
                    Err(StageError::Input(format!("{got} bytes for {rows} rows, expected {expected}")))
                }
            }
            StepInput::Tokens(_) => Err(StageError::Input("tokens to a stage that does not embed".into())),
            StepInput::Activations(_) => Err(StageError::Input("activations to a stage that embeds".into())),
        }
    }

    /// Computes so many more layers of a step, as far as there are any.
    fn run(&mut self, step: &mut UnderWay, layers: u32) -> Result<(), StageError> {
        self.threads.set_for(step.rows)?;
        let from = step.layer;
        let to = from.saturating_add(layers as usize).min(step.part.len());
        let first = step.part.start;
        let x = match &step.x {
            Rows::Tokens(tokens) => {
                let x = self.embedded(tokens)?;
                self.run_layers(&step.groups, first, from..to, &x)
            }
            Rows::Frame(bytes) => {
                let shape = [step.rows as i64, i64::from(self.shape.hidden)];
                let kind = self.numerics.linear.activation_kind();
                self.with_rows(bytes, shape, kind, |stage, x| {
                    stage.run_layers(&step.groups, first, from..to, x)
                })?
            }
            Rows::Computed(x) => self.run_layers(&step.groups, first, from..to, x),
        }?;
        step.x = Rows::Computed(x);
        step.layer = to;
        Ok(())
    }

    /// What comes out of a step whose layers are all computed. Its rows are in the KV from now on.
    fn finish(&mut self, step: &UnderWay) -> Result<StepOutput, StageError> {
        let Rows::Computed(x) = &step.x else {
            return Err(StageError::Compute("a step without layers".into()));
        };
        // Each of the two waits once for the device; nothing before does.
        let output = match self.head.as_ref().filter(|_| step.part.end == self.layers.len()) {
            None => to_wire(x).map(StepOutput::Activations),
            Some(head) => logits(head, &step.groups, x).map(StepOutput::Logits),
        }?;
        self.last_rows = matches!(output, StepOutput::Logits(_)).then(|| x.shallow_clone());
        for group in &step.groups {
            self.kv.session_mut(group.slot)?.advance(group.start.get() + group.rows);
        }
        Ok(output)
    }

    fn embedded(&self, tokens: &[i64]) -> Result<Tensor, TorchError> {
        let embedding =
            self.embedding.as_ref().ok_or_else(|| TorchError("this stage has no embedding".into()))?;
        embedding.rows(tokens, self.numerics.linear.activation_kind(), self.device)
    }

    /// The layers of `range`, at least one, counted from the stage's layer `first`.
    fn run_layers(
        &mut self,
        groups: &[StepGroup],
        first: usize,
        range: Range<usize>,
        x: &Tensor,
    ) -> Result<Tensor, TorchError> {
        let mut rows = StepRows::new(
            groups,
            range.start,
            &mut self.kv,
            &self.rotary,
            self.heads,
            self.numerics.row_by_row(),
        );
        let layers = self.layers.get(first + range.start..first + range.end).unwrap_or_default();
        // The first layer reads `x`, which may lie in a frame; from its output on, tensors own their memory.
        let (first, others) =
            layers.split_first().ok_or_else(|| TorchError("a span without layers".into()))?;
        let mut x = first.forward(x, &mut rows)?;
        for layer in others {
            rows.next_layer();
            x = layer.forward(&x, &mut rows)?;
        }
        Ok(x)
    }

    /// Runs `f` on the rows of a frame, without a copy where the CPU computes and the bytes are aligned; on the
    /// way to a GPU through page-locked memory, without waiting.
    fn with_rows<R>(
        &mut self,
        bytes: &Bytes,
        shape: [i64; 2],
        kind: Kind,
        f: impl FnOnce(&mut Self, &Tensor) -> R,
    ) -> Result<R, StageError> {
        let aligned = bytes.as_ptr().align_offset(kind.elt_size_in_bytes()) == 0;
        let misfit = || StageError::Input("bytes do not fit the rows".into());
        if by_shim(self.device) && aligned {
            return ffi::with_borrowed(bytes, &shape, kind, |x| f(self, x)).ok_or_else(misfit);
        }
        let copy = if aligned {
            ffi::with_borrowed(bytes, &shape, kind, |x| ffi::to_device(x, self.device)).ok_or_else(misfit)?
        } else {
            let copy = Tensor::f_from_data_size(bytes, &shape, kind).map_err(TorchError::from)?;
            if by_shim(self.device) { Ok(copy) } else { ffi::to_device(&copy, self.device) }
        };
        Ok(f(self, &copy?))
    }
}

/// Norm and head over the last row of each group that samples.
fn logits(head: &Head, groups: &[StepGroup], x: &Tensor) -> Result<Vec<f32>, TorchError> {
    let mut end = 0i64;
    let ends = groups.iter().map(|group| {
        end += i64::from(group.rows);
        (group.sample, end - 1)
    });
    let wanted: Vec<i64> = ends.filter_map(|(sample, last)| sample.then_some(last)).collect();
    if wanted.is_empty() {
        // Else steps would pile up on the device, and a step's time would not be its own.
        ffi::synchronise(x.device())?;
        return Ok(Vec::new());
    }
    let x = if wanted.len() as i64 == x.size2()?.0 {
        x.shallow_clone()
    } else {
        x.f_index_select(0, &ffi::to_device(&Tensor::f_from_slice(&wanted)?, x.device())?)?
    };
    let logits = on_host(&head.output.logits(&rms_norm(&x, &head.norm, head.eps)?)?)?;
    let values = ffi::contiguous_f32(&logits).ok_or_else(|| TorchError("logits are not dense".into()))?;
    Ok(values.to_vec())
}

/// The tensor where its memory can be read; from a GPU by one copy into page-locked memory, which waits for the step.
fn on_host(x: &Tensor) -> Result<Tensor, TorchError> {
    if by_shim(x.device()) { Ok(x.f_contiguous()?) } else { ffi::to_host(x) }
}

/// One copy out of the tensor into the frame.
fn to_wire(x: &Tensor) -> Result<Bytes, TorchError> {
    let x = on_host(x)?;
    let bytes = ffi::contiguous_bytes(&x).ok_or_else(|| TorchError("activations are not dense".into()))?;
    Ok(Bytes::copy_from_slice(bytes))
}

#[cfg(test)]
mod tests;

impl From<TorchError> for StageError {
    fn from(error: TorchError) -> Self {
        Self::Compute(error.to_string())
    }
}
