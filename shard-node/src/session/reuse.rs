//! Which rows of ended sessions are kept and who gets them.
//!
//! Rows are reused only where they would come out the same: same weights, class and stages before, each with the same
//! layers; and only for the same tenant of the same router, so that nobody learns or spoils what others asked. They are
//! kept only from sessions that ended well, so all of them came from the stages that the scope names.

use std::time::{Duration, Instant};

use proto::prefix::BLOCK_TOKENS;
use proto::session::Open;
use proto::status::CloseCode;
use proto::{ContentHash, NodeId, Position};
use shard_node_stage::{KvSlot, PrefixMatch, PrefixScope, PrefixStore};

use super::Session;

/// Everything but the tokens that a stage's rows of `open` depend on, and whose they are.
pub(super) fn scope(router: NodeId, open: &Open) -> PrefixScope {
    let plan = &open.plan;
    let mut bytes = b"layerlane prefix scope 1".to_vec();
    bytes.extend_from_slice(router.as_bytes());
    bytes.extend_from_slice(open.service.tenant.as_bytes());
    bytes.extend_from_slice(plan.model.as_bytes());
    // The names of classes hold no zero byte.
    bytes.extend_from_slice(plan.class.name().as_bytes());
    bytes.push(0);
    // The stages before, and of its own layers the part that is computed.
    for stage in plan.stages.iter().take(usize::from(open.stage) + 1) {
        bytes.extend_from_slice(stage.node.as_bytes());
        bytes.extend_from_slice(&stage.span.start().to_le_bytes());
        bytes.extend_from_slice(&stage.span.end().to_le_bytes());
    }
    PrefixScope::new(ContentHash::of(&bytes))
}

/// What a session that opens gets of them.
#[derive(Debug)]
pub(super) struct Found {
    /// Rows to copy.
    pub(super) rows: Option<PrefixMatch>,
    /// Freed for the reservation, at once.
    pub(super) freed: Vec<KvSlot>,
    /// The rows themselves have to go when they are copied.
    pub(super) freed_after: Option<KvSlot>,
}

/// Finds rows for a session that reserved its positions, and takes from the store what capacity is short of.
pub(super) fn admit(store: &mut PrefixStore, now: Instant, session: &super::Terms, free: u64) -> Found {
    let rows = store.longest(now, session.scope, &session.blocks);
    let spare = rows.map(|rows| rows.slot);
    let short = store.positions().saturating_sub(free);
    let mut freed = if short == 0 { Vec::new() } else { store.evict(short, spare) };
    let last = freed.iter().position(|&slot| Some(slot) == spare);
    let freed_after = last.map(|last| freed.remove(last));
    Found { rows, freed, freed_after }
}

/// Rows of a session that is over, if they are worth keeping: how many, and which slots are freed for them.
pub(super) fn keep(
    store: &mut PrefixStore,
    now: Instant,
    session: &Session,
    code: CloseCode,
) -> Option<(Position, Vec<KvSlot>)> {
    if !matches!(code, CloseCode::Finished | CloseCode::Cancelled) {
        return None;
    }
    let terms = session.terms();
    if terms.mixed {
        return None;
    }
    let whole = (session.applied().get() / BLOCK_TOKENS) as usize;
    let blocks = terms.blocks[..terms.blocks.len().min(whole)].to_vec();
    let length = Position::new(blocks.len() as u32 * BLOCK_TOKENS);
    let freed = store.keep(now, terms.scope, blocks, session.slot())?;
    Some((length, freed))
}

/// Rows that nobody asked for so long are given back: an idle node's memory is of use to others on its machine.
pub(super) const PREFIX_LEASE: Duration = Duration::from_mins(10);
