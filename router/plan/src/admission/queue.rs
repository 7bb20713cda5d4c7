//! The requests that wait: a line for each tenant, the next one from the tenant that has least.
//!
//! A tenant has one line and one share, whatever priorities it uses: they order its own requests within the line and
//! push nobody aside. Shares count sessions, not what they cost. A tenant is what a request says it is: until keys
//! exist, whoever invents names has a line for each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use proto::{LayerSpan, NodeId};

use super::{Ticket, Wanted};
use crate::route::Route;

/// Whose request it is: an opaque word. The empty one is whoever does not say.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tenant(Arc<str>);

/// Why a text is no tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TenantError {
    /// Too long.
    #[error("a tenant has at most {MAX_TENANT_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// Control characters.
    #[error("a tenant holds no control characters")]
    Control,
}

/// A UUID with room to spare.
const MAX_TENANT_BYTES: usize = 64;

impl Tenant {
    /// Whoever has this key. No request can call itself so: a key's tenant begins with a control character.
    pub fn of_key(id: &str) -> Self {
        Self(Arc::from(format!("\u{1}{id}")))
    }
}

impl FromStr for Tenant {
    type Err = TenantError;

    fn from_str(text: &str) -> Result<Self, TenantError> {
        if text.len() > MAX_TENANT_BYTES {
            return Err(TenantError::Length(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(TenantError::Control);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request's place among those of its tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Priority {
    /// After the others.
    Low,
    /// As it comes.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) wanted: Wanted,
    /// Nodes that failed it.
    pub(super) avoid: BTreeSet<NodeId>,
    /// Nodes that hold its rows.
    pub(super) prefer: BTreeMap<NodeId, LayerSpan>,
    pub(super) tries: u32,
    /// When it was submitted.
    pub(super) since: Duration,
    /// How often another was placed before it though it was its turn.
    pub(super) passed: u32,
    /// The longest time that a node gave it.
    pub(super) hint: Duration,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: BTreeMap<Tenant, Line>,
    len: usize,
    /// Twice the number of placements; orders tenants with equally many.
    served: u64,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Sessions that run.
    running: u32,
    /// When it was last served, or came while it was not here: a name that was never heard has no claim before one that
    /// waits.
    last: u64,
}

impl Line {
    /// What a tenant has of this router, waiting and running.
    fn claims(&self) -> usize {
        self.waiting.len() + self.running as usize
    }
}

impl Queue {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Behind those of the tenant with the same or a higher priority.
    pub(super) fn push_last(&mut self, waiting: Waiting) {
        let line = self.line(&waiting.wanted.tenant);
        let behind = line.waiting.iter().rposition(|other| other.wanted.priority >= waiting.wanted.priority);
        line.waiting.insert(behind.map_or(0, |at| at + 1), waiting);
        self.len += 1;
    }

    /// Back to the head of its tenant's line.
    pub(super) fn push_first(&mut self, waiting: Waiting) {
        self.line(&waiting.wanted.tenant).waiting.push_front(waiting);
        self.len += 1;
    }

    fn line(&mut self, tenant: &Tenant) -> &mut Line {
        // Before whoever was served last, behind all that wait since earlier.
        let last = self.served.saturating_sub(1);
        self.lines.entry(tenant.clone()).or_insert_with(|| Line { last, ..Line::default() })
    }

    /// Each tenant's first, in the order in which they have a claim: fewest running, then served longest ago.
    pub(super) fn heads(&self) -> Vec<Ticket> {
        let mut heads: Vec<_> = self
            .lines
            .values()
            .filter_map(|line| Some((line.running, line.last, line.waiting.front()?.ticket)))
            .collect();
        heads.sort_unstable();
        heads.into_iter().map(|(_, _, ticket)| ticket).collect()
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiting> {
        self.lines.values().flat_map(|line| &line.waiting).find(|waiting| waiting.ticket == ticket)
    }

    /// These did not fit, and another is placed on this route instead. Who could not use any of its nodes has lost
    /// nothing.
    pub(super) fn overtake(&mut self, blocked: &[Ticket], route: &Route) {
        for line in self.lines.values_mut() {
            if let Some(head) = line.waiting.front_mut().filter(|head| blocked.contains(&head.ticket))
                && head.wanted.class.is_none_or(|class| class == route.class)
                && route.stages.iter().any(|stage| !head.avoid.contains(&stage.node))
            {
                head.passed += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        for line in self.lines.values_mut() {
            if let Some(at) = line.waiting.iter().position(|waiting| waiting.ticket == ticket) {
                self.len -= 1;
                let removed = line.waiting.remove(at);
                self.forget_idle();
                return removed;
            }
        }
        None
    }

    /// Whose last request makes room for one of `tenant` in a full queue: the tenant's that has most, running sessions
    /// included, so that nobody fills the queue for all. `None` if `tenant` would have as much then: who waits is not
    /// put out for the sake of an equal.
    fn gives_way(&self, tenant: &Tenant) -> Option<&Tenant> {
        let claims = self.lines.get(tenant).map_or(0, Line::claims);
        let waits = self.lines.iter().filter(|(_, line)| !line.waiting.is_empty());
        let (longest, line) = waits.max_by_key(|(_, line)| line.claims())?;
        (line.claims() > claims + 1 && longest != tenant).then_some(longest)
    }

    /// Whether a full queue takes one more of this tenant, at another's cost.
    pub(super) fn makes_room(&self, tenant: &Tenant) -> bool {
        self.gives_way(tenant).is_some()
    }

    /// Makes room for the last one of `tenant`, which waits already: takes another tenant's out, or else itself.
    pub(super) fn make_room(&mut self, tenant: &Tenant, newest: Ticket) -> Option<Waiting> {
        let dropped = self.remove(newest)?;
        let Some(longest) = self.gives_way(tenant).cloned() else { return Some(dropped) };
        let gone = self.lines.get_mut(&longest).and_then(|line| line.waiting.pop_back());
        self.len -= usize::from(gone.is_some());
        self.push_last(dropped);
        self.forget_idle();
        gone
    }

    pub(super) fn take_late(&mut self, now: Duration) -> Vec<Waiting> {
        let mut late = Vec::new();
        for line in self.lines.values_mut() {
            let (gone, left): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut line.waiting)
                .into_iter()
                .partition(|waiting| waiting.wanted.until <= now);
            line.waiting = left;
            late.extend(gone);
        }
        self.len -= late.len();
        self.forget_idle();
        late
    }

    pub(super) fn take_all(&mut self) -> Vec<Waiting> {
        let all = self.lines.values_mut().flat_map(|line| std::mem::take(&mut line.waiting)).collect();
        self.len = 0;
        self.forget_idle();
        all
    }

    /// A session of this tenant begins.
    pub(super) fn began(&mut self, tenant: &Tenant) {
        self.served += 2;
        let served = self.served;
        let line = self.line(tenant);
        line.running += 1;
        line.last = served;
    }

    /// A session of this tenant has ended.
    pub(super) fn ended(&mut self, tenant: &Tenant) {
        if let Some(line) = self.lines.get_mut(tenant) {
            line.running = line.running.saturating_sub(1);
        }
        self.forget_idle();
    }

    /// Tenants with nothing here are not remembered: their number has no other bound.
    fn forget_idle(&mut self) {
        self.lines.retain(|_, line| line.running > 0 || !line.waiting.is_empty());
    }
}
