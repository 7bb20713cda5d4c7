//! Rows that are sent on are sent to a node that stands by for the next stage, too: in the background, in portions, and
//! out of what is held in case the next stage is lost. So whoever stands by may lag behind by a portion; what it lacks
//! when it takes over it is sent once more like any new node (`resume`), and nothing here needs an answer.

use proto::activation::RowGroup;
use proto::{Generation, Position};

use super::{LinkId, Replayed, SessionTable};
use crate::session::SessionKey;

/// A node that stands by for the stage after a session's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standby {
    link: LinkId,
    /// The first row that it was not sent.
    next: u32,
}

impl SessionTable {
    /// Sends what goes to the session's next stage by this link, too, from position `from` on. `false` if the session is
    /// over, or sends to no next stage.
    pub fn follow(&mut self, key: SessionKey, generation: Generation, link: LinkId, from: Position) -> bool {
        let Some(entry) = self.entry(key, generation) else { return false };
        if entry.session.terms().downstream.is_none() {
            return false;
        }
        if entry.standby.is_some() {
            // One is enough, and asking again must not send it all once more.
            return false;
        }
        entry.standby = Some(Standby { link, next: from.get() });
        if !self.copying.contains(&key) {
            self.copying.push(key);
        }
        true
    }

    /// The next portion for somebody that stands by, if its link takes another bulk frame.
    pub fn next_copy(&mut self, has_room: impl Fn(LinkId) -> bool) -> Option<Replayed> {
        let most = self.most_chunk_rows();
        let mut gone = Vec::new();
        let mut found = None;
        for &key in &self.copying {
            let Some(entry) = self.sessions.get_mut(&key) else { continue };
            let Some(Standby { link, next }) = entry.standby else { continue };
            match self.boundaries.held(key) {
                // Without its beginning the rest is of no use.
                Some(held) if held.start > next => gone.push(key),
                Some(held) if held.end.saturating_sub(next) >= PORTION && has_room(link) => {
                    let Some((rows, count)) = self.boundaries.read(key, Position::new(next), most) else {
                        continue;
                    };
                    let terms = entry.session.terms();
                    let (session, generation) = (terms.key.session, terms.generation);
                    let start = Position::new(next);
                    let row =
                        RowGroup { session, generation, start, rows: count, sample: false, prefill: true };
                    entry.standby = Some(Standby { link, next: next + count });
                    self.copied_rows += u64::from(count);
                    found = Some((key, Replayed { link, key, attested: false, row, rows }));
                    break;
                }
                Some(_) => {}
                None => gone.push(key),
            }
        }
        for key in gone {
            self.forget_standby(key);
        }
        let (key, copy) = found?;
        // Its turn comes again after all others'.
        self.copying.retain(|&other| other != key);
        self.copying.push(key);
        Some(copy)
    }

    /// Whoever is reached by this link stands by no more.
    pub(super) fn standby_lost(&mut self, link: LinkId) {
        let by_it = |key: &SessionKey| {
            let entry = self.sessions.get(key);
            entry.and_then(|entry| entry.standby).is_some_and(|standby| standby.link == link)
        };
        let lost: Vec<SessionKey> = self.copying.iter().copied().filter(by_it).collect();
        for key in lost {
            self.forget_standby(key);
        }
    }

    fn forget_standby(&mut self, key: SessionKey) {
        self.copying.retain(|&other| other != key);
        if let Some(entry) = self.sessions.get_mut(&key) {
            entry.standby = None;
        }
    }
}

/// Rows that are sent together: reading the weights once for so many makes standing by cheap beside answering, and what
/// several sessions lack when they move together, less than this each, is computed in a step or two.
pub(super) const PORTION: u32 = 8;
