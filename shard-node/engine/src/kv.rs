//! The keys and values of open sessions.
//!
//! A session reserves its most positions when it opens and is refused then or never. Its memory
//! is contiguous per layer, doubles as it fills, and never passes the reservation; it is freed on
//! close. On a GPU it is taken whole at open: nothing is held twice, no step can fail for lack of it, and
//! addresses stay, as CUDA graphs need. Whether a reservation fits is the caller's decision: bytes are reported.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::Position;
use proto::tensor::KvFormat;
use shard_node_stage::{KvSlot, StageError};
use tch::Device;

use crate::ffi::TorchError;
use crate::kernels::attention::Heads;
use crate::kernels::by_shim;
use crate::kernels::layer_cache::LayerCache;

/// All sessions of a stage.
#[derive(Debug)]
pub(crate) struct KvStore {
    heads: Heads,
    layers: usize,
    format: KvFormat,
    device: Device,
    next: u32,
    sessions: BTreeMap<KvSlot, SessionKv>,
}

/// One session's part.
#[derive(Debug)]
pub(crate) struct SessionKv {
    /// Layers of the stage before its own first one.
    first: usize,
    layers: Vec<LayerCache>,
    capacity: u32,
    reserved: u32,
    length: u32,
}

impl KvStore {
    pub(crate) fn new(heads: Heads, layers: usize, format: KvFormat, device: Device) -> Self {
        Self { heads, layers, format, device, next: 0, sessions: BTreeMap::new() }
    }

    /// Opens a session of at most `reserved` positions in these layers, counted from the stage's first.
    pub(crate) fn open(&mut self, part: Range<usize>, reserved: u32) -> Result<KvSlot, StageError> {
        let small = by_shim(self.device);
        let capacity = if small { reserved.min(FIRST_POSITIONS) } else { reserved };
        let made = if small {
            part.clone().map(|_| self.cache(capacity)).collect()
        } else {
            LayerCache::block(part.len(), self.heads, capacity, self.format, self.device)
        };
        let layers = made
            .map_err(TorchError::from)
            .map_err(|error| StageError::Memory { positions: reserved, why: error.to_string() })?;
        while self.sessions.contains_key(&KvSlot::new(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let slot = KvSlot::new(self.next);
        self.next = self.next.wrapping_add(1);
        self.sessions.insert(slot, SessionKv { first: part.start, layers, capacity, reserved, length: 0 });
        Ok(slot)
    }

    /// Frees a session's memory.
    pub(crate) fn close(&mut self, slot: KvSlot) {
        self.sessions.remove(&slot);
    }

    /// Forgets positions from `length` on; the memory stays with the session.
    pub(crate) fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        let session = self.session_mut(slot)?;
        session.length = session.length.min(length.get());
        Ok(())
    }

    pub(crate) fn session(&self, slot: KvSlot) -> Result<&SessionKv, StageError> {
        self.sessions.get(&slot).ok_or_else(|| StageError::UnknownSlot(slot.get()))
    }

    pub(crate) fn session_mut(&mut self, slot: KvSlot) -> Result<&mut SessionKv, StageError> {
        self.sessions.get_mut(&slot).ok_or_else(|| StageError::UnknownSlot(slot.get()))
    }

    /// Makes room for positions below `length`, one layer after the other, so that no more than one
    /// layer is held twice.
    pub(crate) fn grow(&mut self, slot: KvSlot, length: u32) -> Result<(), StageError> {
        let session = self.session(slot)?;
        let (held, used, reserved) = (session.capacity, session.length, session.reserved);
        let layers = session.layers.len();
        if length <= held {
            return Ok(());
        }
        let capacity = length.max(held.saturating_mul(2)).min(reserved);
        for layer in 0..layers {
            let grown = self
                .moved(slot, layer, capacity, used)
                .map_err(|error| StageError::Memory { positions: capacity, why: error.to_string() })?;
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.layers[layer] = grown;
            }
        }
        self.session_mut(slot)?.capacity = capacity;
        Ok(())
    }

    /// Copies the first `length` positions of `from` into `to`, which holds none.
    pub(crate) fn copy(&mut self, from: KvSlot, to: KvSlot, length: u32) -> Result<(), StageError> {
        let (held, target) = (self.session(from)?.length, self.session(to)?);
        if length > held {
            return Err(StageError::Position { expected: Position::new(held), got: Position::new(length) });
        }
        if target.length > 0 || from == to {
            return Err(StageError::Input("a copy into a slot that holds rows".into()));
        }
        if self.session(from)?.part() != target.part() {
            return Err(StageError::Input("a copy between two parts of the span".into()));
        }
        if length > target.reserved {
            let reserved = target.reserved;
            return Err(StageError::Reservation { position: Position::new(reserved), reserved });
        }
        self.grow(to, length)?;
        // Taken out for the moment, as both are in one map.
        let mut layers = std::mem::take(&mut self.session_mut(to)?.layers);
        let source = self.session(from)?;
        let copied =
            source.layers.iter().zip(&mut layers).try_for_each(|(old, new)| new.copy_from(old, length));
        self.session_mut(to)?.layers = layers;
        copied.map_err(|error| StageError::Memory { positions: length, why: error.to_string() })?;
        self.session_mut(to)?.advance(length);
        Ok(())
    }

    /// Cuts a session to its first `length` positions and to the memory that these need, in whole pieces of
    /// [`FIRST_POSITIONS`] on the CPU: most sessions then keep the memory that they have.
    pub(crate) fn retain(&mut self, slot: KvSlot, length: u32) -> Result<(), StageError> {
        let piece = if by_shim(self.device) { FIRST_POSITIONS } else { 1 };
        let session = self.session_mut(slot)?;
        session.length = session.length.min(length);
        session.reserved = session.length;
        let (used, held, layers) = (session.length, session.capacity, session.layers.len());
        let capacity = used.div_ceil(piece) * piece;
        if capacity >= held {
            return Ok(());
        }
        let smaller: Result<Vec<_>, _> =
            (0..layers).map(|layer| self.moved(slot, layer, capacity, used)).collect();
        let session = self.session_mut(slot)?;
        session.layers =
            smaller.map_err(|error| StageError::Memory { positions: capacity, why: error.to_string() })?;
        session.capacity = capacity;
        Ok(())
    }

    /// Bytes held by all sessions.
    pub(crate) fn bytes(&self) -> u64 {
        let sessions = self.sessions.values();
        let bytes = |session: &SessionKv| {
            u64::from(session.capacity) * session.layers.len() as u64 * self.bytes_per_layer()
        };
        sessions.map(bytes).sum()
    }

    /// Bytes of one position in all layers of the stage.
    pub(crate) fn bytes_per_position(&self) -> u64 {
        self.layers as u64 * self.bytes_per_layer()
    }

    fn bytes_per_layer(&self) -> u64 {
        let Heads { keys, dim, .. } = self.heads;
        2 * keys as u64 * self.format.head_bytes(dim as u32)
    }

    fn moved(&self, slot: KvSlot, layer: usize, capacity: u32, used: u32) -> Result<LayerCache, GrowError> {
        let mut new = self.cache(capacity)?;
        let old =
            self.sessions.get(&slot).and_then(|session| session.layers.get(layer)).ok_or(GrowError::Gone)?;
        new.copy_from(old, used)?;
        Ok(new)
    }

    /// One layer.
    fn cache(&self, capacity: u32) -> Result<LayerCache, tch::TchError> {
        LayerCache::new(self.heads, capacity, self.format, self.device)
    }
}

impl SessionKv {
    /// Positions that are valid.
    pub(crate) fn length(&self) -> u32 {
        self.length
    }

    /// Its layers, counted from the stage's first.
    pub(crate) fn part(&self) -> Range<usize> {
        self.first..self.first + self.layers.len()
    }

    /// Most positions.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Makes positions below `length` valid, after every layer has written them.
    pub(crate) fn advance(&mut self, length: u32) {
        self.length = length;
    }

    /// The cache of a layer, counted from its part's first.
    pub(crate) fn layer(&self, index: usize) -> Result<&LayerCache, TorchError> {
        self.layers.get(index).ok_or_else(no_cache)
    }

    /// The same, to write to.
    pub(crate) fn layer_mut(&mut self, index: usize) -> Result<&mut LayerCache, TorchError> {
        self.layers.get_mut(index).ok_or_else(no_cache)
    }
}

fn no_cache() -> TorchError {
    TorchError("no cache for this layer".into())
}

#[derive(Debug, thiserror::Error)]
enum GrowError {
    #[error("the session is gone")]
    Gone,
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

/// Positions a session starts with: a chat's first question and answer, so most sessions never
/// move. 256 positions of the demo model's 30 layers are 5.9 MB in bf16.
const FIRST_POSITIONS: u32 = 256;
