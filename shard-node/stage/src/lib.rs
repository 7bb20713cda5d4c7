//! The seam between a node and its tensor library.
//!
//! [`Stage`] is what a tensor library implements; everything above it (scheduling, KV accounting, sessions) knows frames
//! and numbers only. A `Stage` lives and dies on one compute thread, hence it need not be `Send`.
//! [`ToyStage`] is a stage without a tensor library whose arithmetic shows a lost, doubled, reordered or
//! crossed row or layer in the answer.

mod batches;
mod ledger;
mod pacer;
mod prefix;
mod scheduler;
mod toy;

use bytes::Bytes;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};

pub use batches::Batches;
pub use ledger::{KvLedger, ReserveError};
pub use pacer::ChunkPacer;
pub use prefix::{PrefixCounts, PrefixMatch, PrefixScope, PrefixStore};
pub use scheduler::{Flow, RowBudget, Scheduler, StepCaps, StepPlan};
pub use toy::{StepHook, ToyModel, ToyStage};

/// What a stage is, fixed when it is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageShape {
    /// Layers held.
    pub span: LayerSpan,
    /// Layers of the model.
    pub n_layers: u32,
    /// Elements of an activation row.
    pub hidden: u32,
    /// Entries of a row of logits.
    pub vocab: u32,
    /// Most positions of a session.
    pub context: u32,
    /// How it computes, and with that the element type of activations.
    pub class: NumericsClass,
    /// Bytes of KV that one position takes in this stage.
    pub kv_bytes_per_position: u64,
    /// Positions of KV that the device has memory for; `None` where the stage does not know, as on a CPU.
    pub kv_positions: Option<u64>,
}

impl StageShape {
    /// Embeds tokens.
    pub const fn is_first(&self) -> bool {
        self.span.start() == 0
    }

    /// Has norm, head and sampler.
    pub const fn is_last(&self) -> bool {
        self.span.end() == self.n_layers
    }

    /// Bytes of one activation row on the wire.
    pub const fn row_bytes(&self) -> usize {
        self.hidden as usize * self.class.wire_dtype().bytes()
    }
}

/// The KV of one session in a stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KvSlot(u32);

impl KvSlot {
    /// Wraps a stage's own number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The stage's own number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Rows of one session in a step: consecutive positions from `start`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepGroup {
    /// Whose KV.
    pub slot: KvSlot,
    /// Position of the first row; must be the slot's length.
    pub start: Position,
    /// Number of rows, at least 1.
    pub rows: u32,
    /// The tail returns logits of the last row.
    pub sample: bool,
}

/// The rows of a step, all groups in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepInput {
    /// Token ids, for a first stage.
    Tokens(Vec<u32>),
    /// `rows x hidden` elements of the class's wire type, little-endian, for the others.
    Activations(Bytes),
}

/// What a step gives.
#[derive(Clone, PartialEq, Debug)]
pub enum StepOutput {
    /// `rows x hidden` elements of the class's wire type, little-endian.
    Activations(Bytes),
    /// One row of `vocab` logits for each group with `sample`, in order; from a last stage.
    Logits(Vec<f32>),
}

/// Why a stage could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// No KV slot of that number is open.
    #[error("KV slot {0} is not open")]
    UnknownSlot(u32),
    /// A group does not start where its session's KV ends.
    #[error("rows start at position {got}, but the session's KV ends at {expected}")]
    Position {
        /// Length of the KV.
        expected: Position,
        /// Start of the group.
        got: Position,
    },
    /// More positions than were reserved.
    #[error("position {position} is beyond the {reserved} reserved")]
    Reservation {
        /// First position beyond.
        position: Position,
        /// Positions reserved.
        reserved: u32,
    },
    /// Tokens to a middle stage, activations to a first one, or the wrong number of bytes.
    #[error("step input does not fit: {0}")]
    Input(String),
    /// A token id outside the vocabulary.
    #[error("token id {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// Layers that the stage does not hold.
    #[error("layers {part} are not within {span}, which this stage holds")]
    Part {
        /// Asked for.
        part: LayerSpan,
        /// Held.
        span: LayerSpan,
    },
    /// The tensor library failed.
    #[error("compute failed: {0}")]
    Compute(String),
    /// Memory for the KV can't be had.
    #[error("no memory for {positions} positions of KV: {why}")]
    Memory {
        /// Positions asked for.
        positions: u32,
        /// The library's words.
        why: String,
    },
}

/// A shard loaded at its position in a pipeline.
pub trait Stage {
    /// What it is.
    fn shape(&self) -> StageShape;

    /// Reserves KV for a session of at most `max_positions` positions in the layers `part` of the span, and only these are
    /// computed for it: rows of a part that begins at layer 0 are tokens, of one that ends with the model logits, all
    /// others activations. A later step can't fail for lack of room.
    fn open_part(&mut self, part: LayerSpan, max_positions: u32) -> Result<KvSlot, StageError>;

    /// As [`Self::open_part`], with the whole span.
    fn open(&mut self, max_positions: u32) -> Result<KvSlot, StageError> {
        self.open_part(self.shape().span, max_positions)
    }

    /// Frees a session's KV. Unknown slots are ignored.
    fn close(&mut self, slot: KvSlot);

    /// Cuts a session's KV to its first `length` positions.
    fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError>;

    /// Copies the first `length` positions of `from` into `to`, which holds none: bit for bit what computing them again
    /// would give in class `exact`. On an error `to` still holds none.
    fn copy(&mut self, from: KvSlot, to: KvSlot, length: Position) -> Result<(), StageError>;

    /// Cuts a session's KV to its first `length` positions and gives back the memory beyond them: from now on the slot
    /// is read only.
    fn retain(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError>;

    /// Computes one micro-batch. Each slot occurs in at most one group, and all have the same part of the span. On an error
    /// no KV has changed.
    fn step(&mut self, groups: &[StepGroup], input: StepInput) -> Result<StepOutput, StageError>;

    /// Begins a micro-batch that is computed in pieces, with steps of other sessions between them; one that was begun
    /// before and is not done is given up. Until it is done or given up its slots must not be closed, cut or used.
    fn begin(&mut self, groups: &[StepGroup], input: StepInput) -> Result<(), StageError>;

    /// Computes the next `layers` layers, at least one, of the micro-batch that was begun: what [`Self::step`] would
    /// give, once it is done. On an error it is given up, and no KV has changed.
    fn resume(&mut self, layers: u32) -> Result<Option<StepOutput>, StageError>;

    /// Forgets the micro-batch that was begun, if any: no KV has changed.
    fn give_up(&mut self);

    /// Embeddings of tokens, in the class's wire type: what the layers of a first stage begin with. For auditors.
    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError>;

    /// The rows behind the logits that the last step or [`Self::resume`] gave, as its layers left them: `rows x hidden`
    /// elements of the class's wire type, little-endian, all rows in order. Asked for where they are to be signed for,
    /// as nobody is sent them.
    fn last_rows(&mut self) -> Result<Bytes, StageError>;

    /// Bytes of KV in use at the moment.
    fn kv_bytes(&self) -> u64;

    /// Calls `wait`, which returns when there may be something to do; a stage with threads of its own lets them sleep
    /// until then.
    fn idle(&mut self, wait: &mut dyn FnMut()) {
        wait();
    }
}

/// Builds a stage on the compute thread that will own it.
pub type StageLoader = Box<dyn FnOnce() -> Result<Box<dyn Stage>, LoadError> + Send>;

/// Why a stage could not be loaded; says what is wrong and what cures it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl LoadError {
    /// From an error of the loading library.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { message: error.to_string(), source: Some(Box::new(error)) }
    }

    /// From a sentence that names the thing and the cure.
    pub fn message(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }
}
