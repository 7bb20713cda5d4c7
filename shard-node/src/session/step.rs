//! One step: which rows of which sessions go in, and where what comes out goes to.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::activation::RowGroup;
use proto::{LayerSpan, Position};
use shard_node_stage::{StepGroup, StepInput};

use super::inbox::{ChunkRows, Hold};
use super::terms::SessionKey;
use super::{Session, Taken};
use crate::session::table::LinkId;

/// Rows chosen for a step.
#[derive(Debug)]
pub struct Step {
    /// The layers that compute it.
    pub part: LayerSpan,
    /// For the stage.
    pub groups: Vec<StepGroup>,
    /// For the stage.
    pub input: StepInput,
    /// Whose rows, in the order of `groups`.
    pub members: Vec<Member>,
    /// The holds of the rows' frames; dropped with the step.
    pub holds: Vec<Hold>,
}

/// Rows of one session in a step.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Whose.
    pub key: SessionKey,
    /// As it will stand in the frame to the next stage.
    pub row: RowGroup,
    /// Where it goes to; `None` where nobody needs what comes of it.
    pub link: Option<LinkId>,
    /// The rows are signed for.
    pub attested: bool,
    /// The next stage needs what comes of it, or there is none.
    pub wanted: bool,
    /// From the end of upstream's compute to the beginning of the step, decode only, if known.
    pub hop: Option<Duration>,
    /// From the arrival here to the beginning of the step, decode only, if known.
    pub waited: Option<Duration>,
}

/// Rows of a step's output that go to one neighbour in one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub link: LinkId,
    /// By the bulk connection.
    pub bulk: bool,
    /// Whose rows.
    pub groups: Vec<RowGroup>,
    /// Which rows of the output.
    pub rows: Range<usize>,
}

impl Step {
    /// Rows of prefill.
    pub fn prefill_rows(&self) -> u32 {
        self.members.iter().filter(|member| member.row.prefill).map(|member| member.row.rows).sum()
    }

    /// Whether rows of it are signed for.
    pub fn is_attested(&self) -> bool {
        self.members.iter().any(|member| member.attested)
    }

    /// All rows.
    pub fn rows(&self) -> u32 {
        self.members.iter().map(|member| member.row.rows).sum()
    }

    /// The step that holds only member `index`, for when the whole of it could not be computed.
    #[must_use]
    pub fn single(&self, index: usize) -> Self {
        let before: usize = self.members[..index].iter().map(|member| member.row.rows as usize).sum();
        let rows = self.members[index].row.rows as usize;
        let input = match &self.input {
            StepInput::Tokens(tokens) => StepInput::Tokens(tokens[before..before + rows].to_vec()),
            StepInput::Activations(bytes) => {
                let row_bytes = bytes.len() / self.rows() as usize;
                StepInput::Activations(bytes.slice(before * row_bytes..(before + rows) * row_bytes))
            }
        };
        Self {
            part: self.part,
            groups: vec![self.groups[index]],
            input,
            members: vec![self.members[index]],
            holds: Vec::new(),
        }
    }

    /// The frames that carry the output on: one for each neighbour and connection class. Members of one frame
    /// stand side by side, so that its rows are one slice.
    pub fn outgoing(&self) -> Vec<Outgoing> {
        let mut frames: Vec<Outgoing> = Vec::new();
        let mut at = 0;
        for member in &self.members {
            let rows = at..at + member.row.rows as usize;
            at = rows.end;
            let Some(link) = member.link else { continue };
            let bulk = member.row.prefill;
            match frames.last_mut() {
                Some(frame) if frame.link == link && frame.bulk == bulk && frame.rows.end == rows.start => {
                    frame.groups.push(member.row);
                    frame.rows.end = rows.end;
                }
                _ => frames.push(Outgoing { link, bulk, groups: vec![member.row], rows }),
            }
        }
        frames
    }
}

/// A step in the making. Members of one link must be added one after the other.
#[derive(Debug)]
pub(super) struct StepBuilder {
    part: LayerSpan,
    groups: Vec<StepGroup>,
    members: Vec<Member>,
    holds: Vec<Hold>,
    tokens: Vec<u32>,
    activations: Vec<Bytes>,
}

impl StepBuilder {
    pub(super) const fn new(part: LayerSpan) -> Self {
        Self {
            part,
            groups: Vec::new(),
            members: Vec::new(),
            holds: Vec::new(),
            tokens: Vec::new(),
            activations: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: SessionKey, session: &Session, link: Option<LinkId>, taken: Taken) {
        let Taken { start, chunk, hop, waited } = taken;
        let (rows, sample, prefill) = (chunk.count, chunk.sample, chunk.prefill);
        self.groups.push(StepGroup { slot: session.slot(), start, rows, sample });
        // The next stage holds its own of these.
        let wanted = start >= session.terms().sent_from();
        let link = link.filter(|_| wanted);
        self.members.push(Member {
            key,
            row: row_group(session, start, rows, sample, prefill),
            link,
            attested: session.terms().attested,
            wanted,
            hop,
            waited,
        });
        self.holds.extend(chunk.hold);
        match chunk.rows {
            ChunkRows::Tokens(tokens) => self.tokens.extend(tokens),
            ChunkRows::Activations(bytes) => self.activations.push(bytes),
        }
    }

    /// `None` if nothing was added.
    pub(super) fn finish(mut self) -> Option<Step> {
        if self.groups.is_empty() {
            return None;
        }
        let input = match self.activations.len() {
            0 => StepInput::Tokens(self.tokens),
            // The usual case, a chunk or a single decode row, is passed on as it came.
            1 => StepInput::Activations(self.activations.remove(0)),
            _ => {
                let mut all = BytesMut::with_capacity(self.activations.iter().map(Bytes::len).sum());
                self.activations.iter().for_each(|bytes| all.extend_from_slice(bytes));
                StepInput::Activations(all.freeze())
            }
        };
        Some(Step { part: self.part, groups: self.groups, input, members: self.members, holds: self.holds })
    }
}

fn row_group(session: &Session, start: Position, rows: u32, sample: bool, prefill: bool) -> RowGroup {
    let terms = session.terms();
    RowGroup { session: terms.key.session, generation: terms.generation, start, rows, sample, prefill }
}
