//! A stage without a tensor library, whose arithmetic shows every mistake in the answer.
//!
//! Rows are 8 integers below 2^23, which f32 holds exactly. Layer `l` keeps per position a digest of everything it
//! was fed so far and adds to each element a hash of (digest, layer, position, element): a row that is lost, doubled,
//! reordered or of another session, or a layer that is left out or applied twice, changes every logit from there on.
//! [`ToyModel`] computes the same answers in another way, from the tokens alone.

mod model;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};

use crate::{KvSlot, Stage, StageError, StageLoader, StageShape, StepGroup, StepInput, StepOutput};

pub use model::ToyModel;

/// Called at the beginning of each step with its groups: a test may count, block, or make the step fail.
pub type StepHook = Box<dyn FnMut(&[StepGroup]) -> Result<(), StageError> + Send>;

/// A span of a [`ToyModel`].
pub struct ToyStage {
    model: ToyModel,
    span: LayerSpan,
    sessions: HashMap<u32, Kv>,
    next_slot: u32,
    hook: Option<StepHook>,
    under_way: Option<UnderWay>,
    /// The rows behind the last logits.
    last_rows: Bytes,
}

/// A step that is not done.
struct UnderWay {
    part: LayerSpan,
    groups: Vec<StepGroup>,
    /// Of each group its rows, as the layers done so far have left them, and the digests of these layers.
    rows: Vec<Vec<(Row, Vec<u64>)>>,
    /// Layers done.
    layers: u32,
}

/// One session's rows: per position the digest of each layer of its part.
struct Kv {
    part: LayerSpan,
    reserved: u32,
    digests: Vec<Vec<u64>>,
}

impl ToyStage {
    /// The layers `span` of `model`.
    ///
    /// # Panics
    /// When the span ends after the model does: a test's mistake.
    pub fn new(model: ToyModel, span: LayerSpan) -> Self {
        assert!(span.within(model.n_layers).is_ok(), "span {span} of a model with {} layers", model.n_layers);
        Self {
            model,
            span,
            sessions: HashMap::new(),
            next_slot: 0,
            hook: None,
            under_way: None,
            last_rows: Bytes::new(),
        }
    }

    /// With a closure that is called at the beginning of each step.
    #[must_use]
    pub fn with_hook(mut self, hook: StepHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// A loader that gives this stage to the compute thread.
    pub fn into_loader(self) -> StageLoader {
        Box::new(move || Ok(Box::new(self)))
    }

    /// Checks a step and takes in its rows.
    fn start(&mut self, groups: &[StepGroup], input: &StepInput) -> Result<UnderWay, StageError> {
        let part = self.check(groups, input)?;
        if let Some(hook) = &mut self.hook {
            hook(groups)?;
        }
        let mut at = 0;
        let rows = groups.iter().map(|group| {
            let from = at;
            at += group.rows as usize;
            let row = |index: usize| match input {
                StepInput::Tokens(tokens) => embed(tokens[index]),
                StepInput::Activations(bytes) => row_from(&bytes[index * HIDDEN * 4..]),
            };
            (from..at).map(|index| (row(index), Vec::new())).collect()
        });
        Ok(UnderWay { part, rows: rows.collect(), groups: groups.to_vec(), layers: 0 })
    }

    /// Goes on by so many layers; gives the step back unless it is done.
    fn run(&mut self, mut step: UnderWay, layers: u32) -> Result<Result<StepOutput, UnderWay>, StageError> {
        // What was begun may have lost its slots since.
        for group in &step.groups {
            let slot = group.slot.get();
            let held = self.sessions.get(&slot).ok_or(StageError::UnknownSlot(slot))?.digests.len() as u32;
            if held != group.start.get() {
                return Err(StageError::Position { expected: Position::new(held), got: group.start });
            }
        }
        let all = step.part.layers().enumerate();
        for (index, layer) in all.skip(step.layers as usize).take(layers as usize) {
            for (group, rows) in step.groups.iter().zip(&mut step.rows) {
                let kv = self.sessions.get(&group.slot.get());
                let mut before = kv.and_then(|kv| kv.digests.last()).map_or(0, |previous| previous[index]);
                for (offset, (row, digests)) in (0u32..).zip(rows) {
                    before = apply_layer(row, layer.get(), group.start.plus(offset).get(), before);
                    digests.push(before);
                }
            }
        }
        step.layers = step.layers.saturating_add(layers).min(step.part.len());
        if step.layers < step.part.len() { Ok(Err(step)) } else { Ok(Ok(self.done(step))) }
    }

    /// The rows are in the KV now.
    fn done(&mut self, step: UnderWay) -> StepOutput {
        let last = step.part.end() == self.model.n_layers;
        let rows: usize = step.rows.iter().map(Vec::len).sum();
        let mut activations = BytesMut::with_capacity(rows * HIDDEN * 4);
        let mut logits = Vec::new();
        for (group, rows) in step.groups.iter().zip(step.rows) {
            if let Some((row, _)) = rows.last().filter(|_| last && group.sample) {
                logits.extend((0..self.model.vocab).map(|token| logit(row, token)));
            }
            rows.iter().flat_map(|(row, _)| row).for_each(|&element| activations.put_f32_le(element as f32));
            if let Some(kv) = self.sessions.get_mut(&group.slot.get()) {
                kv.digests.extend(rows.into_iter().map(|(_, digests)| digests));
            }
        }
        let activations = activations.freeze();
        if last {
            self.last_rows = activations;
            StepOutput::Logits(logits)
        } else {
            StepOutput::Activations(activations)
        }
    }

    /// The part that the groups have in common, if all is as it should be.
    fn check(&self, groups: &[StepGroup], input: &StepInput) -> Result<LayerSpan, StageError> {
        let (mut rows, mut part) = (0, None);
        for (index, group) in groups.iter().enumerate() {
            let slot = group.slot.get();
            let kv = self.sessions.get(&slot).ok_or(StageError::UnknownSlot(slot))?;
            if *part.get_or_insert(kv.part) != kv.part {
                return Err(StageError::Input("slots of two parts of the span".into()));
            }
            let expected = Position::new(kv.digests.len() as u32);
            if group.start != expected {
                return Err(StageError::Position { expected, got: group.start });
            }
            if group.start.get() + group.rows > kv.reserved {
                let position = Position::new(kv.reserved);
                return Err(StageError::Reservation { position, reserved: kv.reserved });
            }
            if group.rows == 0 || groups[..index].iter().any(|other| other.slot == group.slot) {
                return Err(StageError::Input("an empty group, or two groups of one slot".into()));
            }
            rows += group.rows;
        }
        let part = part.ok_or_else(|| StageError::Input("a step without rows".into()))?;
        let first = part.start() == 0;
        match input {
            StepInput::Tokens(tokens) if first && tokens.len() == rows as usize => {
                let vocab = self.model.vocab;
                match tokens.iter().find(|&&token| token >= vocab) {
                    Some(&token) => Err(StageError::Token { token, vocab }),
                    None => Ok(part),
                }
            }
            StepInput::Activations(bytes)
                if !first && bytes.len() == rows as usize * self.shape().row_bytes() =>
            {
                Ok(part)
            }
            StepInput::Tokens(tokens) => Err(StageError::Input(format!(
                "{} tokens for {rows} rows, first stage: {first}",
                tokens.len()
            ))),
            StepInput::Activations(bytes) => {
                Err(StageError::Input(format!("{} bytes for {rows} rows, first stage: {first}", bytes.len())))
            }
        }
    }
}

impl Stage for ToyStage {
    fn shape(&self) -> StageShape {
        StageShape {
            span: self.span,
            n_layers: self.model.n_layers,
            hidden: HIDDEN as u32,
            vocab: self.model.vocab,
            context: self.model.context,
            class: NumericsClass::Exact,
            kv_bytes_per_position: u64::from(self.span.len()) * 8,
            kv_positions: None,
        }
    }

    fn open_part(&mut self, part: LayerSpan, max_positions: u32) -> Result<KvSlot, StageError> {
        if !self.span.holds(part) {
            return Err(StageError::Part { part, span: self.span });
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        self.sessions.insert(slot, Kv { part, reserved: max_positions, digests: Vec::new() });
        Ok(KvSlot::new(slot))
    }

    fn close(&mut self, slot: KvSlot) {
        self.sessions.remove(&slot.get());
    }

    fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        let kv = self.sessions.get_mut(&slot.get()).ok_or_else(|| StageError::UnknownSlot(slot.get()))?;
        kv.digests.truncate(length.get() as usize);
        Ok(())
    }

    fn copy(&mut self, from: KvSlot, to: KvSlot, length: Position) -> Result<(), StageError> {
        let (from, to, length) = (from.get(), to.get(), length.get());
        let source = self.sessions.get(&from).ok_or(StageError::UnknownSlot(from))?;
        let held = Position::new(source.digests.len() as u32);
        let digests = source.digests.get(..length as usize);
        let beyond = || StageError::Position { expected: held, got: Position::new(length) };
        let digests = digests.ok_or_else(beyond)?;
        let digests = digests.to_vec();
        let part = source.part;
        let target = self.sessions.get_mut(&to).ok_or(StageError::UnknownSlot(to))?;
        if target.part != part {
            return Err(StageError::Input("a copy between two parts of the span".into()));
        }
        if !target.digests.is_empty() {
            return Err(StageError::Input("a copy into a slot that holds rows".into()));
        }
        if length > target.reserved {
            let position = Position::new(target.reserved);
            return Err(StageError::Reservation { position, reserved: target.reserved });
        }
        target.digests = digests;
        Ok(())
    }

    fn retain(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.trim(slot, length)?;
        if let Some(kv) = self.sessions.get_mut(&slot.get()) {
            kv.digests.shrink_to_fit();
            kv.reserved = kv.digests.len() as u32;
        }
        Ok(())
    }

    fn step(&mut self, groups: &[StepGroup], input: StepInput) -> Result<StepOutput, StageError> {
        let under_way = self.start(groups, &input)?;
        self.run(under_way, u32::MAX)?.map_err(|_| StageError::Compute("a step that does not end".into()))
    }

    fn begin(&mut self, groups: &[StepGroup], input: StepInput) -> Result<(), StageError> {
        self.under_way = None;
        self.under_way = Some(self.start(groups, &input)?);
        Ok(())
    }

    fn resume(&mut self, layers: u32) -> Result<Option<StepOutput>, StageError> {
        let under_way = self.under_way.take();
        let under_way = under_way.ok_or_else(|| StageError::Input("no step was begun".into()))?;
        match self.run(under_way, layers.max(1))? {
            Ok(output) => Ok(Some(output)),
            Err(under_way) => {
                self.under_way = Some(under_way);
                Ok(None)
            }
        }
    }

    fn give_up(&mut self) {
        self.under_way = None;
    }

    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError> {
        let mut rows = BytesMut::with_capacity(tokens.len() * HIDDEN * 4);
        tokens.iter().flat_map(|&token| embed(token)).for_each(|element| rows.put_f32_le(element as f32));
        Ok(rows.freeze())
    }

    fn last_rows(&mut self) -> Result<Bytes, StageError> {
        Ok(self.last_rows.clone())
    }

    fn kv_bytes(&self) -> u64 {
        self.sessions.values().map(|kv| kv.digests.len() as u64 * u64::from(kv.part.len()) * 8).sum()
    }
}

impl fmt::Debug for ToyStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToyStage")
            .field("span", &self.span)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

/// Elements of a row.
const HIDDEN: usize = 8;
/// Elements stay below this, so that f32 holds them exactly.
const MODULUS: u32 = 1 << 23;

type Row = [u32; HIDDEN];

fn embed(token: u32) -> Row {
    std::array::from_fn(|element| reduce(mix(&[0x656d, u64::from(token), element as u64])))
}

/// Applies one layer to a row in place and returns the layer's digest of all rows up to this one.
fn apply_layer(row: &mut Row, layer: u32, position: u32, before: u64) -> u64 {
    let words = row.map(u64::from);
    let own = mix(&words);
    let digest = mix(&[before, own, u64::from(layer), u64::from(position)]);
    for (element, value) in row.iter_mut().enumerate() {
        let added = reduce(mix(&[digest, u64::from(layer), u64::from(position), element as u64]));
        *value = (*value + added) % MODULUS;
    }
    digest
}

/// Logits have 16 bits, so that ties of the two largest are rare and differences are exact.
fn logit(row: &Row, token: u32) -> f32 {
    let hash = mix(&[mix(&row.map(u64::from)), u64::from(token)]);
    (hash >> 48) as f32 / 4096.0
}

fn row_from(bytes: &[u8]) -> Row {
    // `check` has made sure of the length. Anything that is not one of our integers becomes another one.
    let mut row = [0; HIDDEN];
    for (element, bytes) in row.iter_mut().zip(bytes.chunks_exact(4)) {
        *element = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as u32 % MODULUS;
    }
    row
}

fn reduce(hash: u64) -> u32 {
    (hash >> 41) as u32
}

/// Folds words by splitmix64's finaliser (Steele, Lea, Flood 2014).
fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |state, word| {
        let mut z = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
