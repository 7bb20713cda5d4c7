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

use proto::NodeId;

use super::{Ticket, Wanted};

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
    /// Counts placements; orders tenants with equally many.
    served: u64,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Sessions that run.
    running: u32,
    /// When it was last served.
    last: u64,
}

impl Queue {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Behind those of the tenant with the same or a higher priority.
    pub(super) fn push_last(&mut self, waiting: Waiting) {
        let line = self.lines.entry(waiting.wanted.tenant.clone()).or_default();
        let behind = line.waiting.iter().rposition(|other| other.wanted.priority >= waiting.wanted.priority);
        line.waiting.insert(behind.map_or(0, |at| at + 1), waiting);
        self.len += 1;
    }

    /// Back to the head of its tenant's line.
    pub(super) fn push_first(&mut self, waiting: Waiting) {
        self.lines.entry(waiting.wanted.tenant.clone()).or_default().waiting.push_front(waiting);
        self.len += 1;
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

    /// These did not fit, and another is placed instead.
    pub(super) fn overtake(&mut self, blocked: &[Ticket]) {
        for line in self.lines.values_mut() {
            if let Some(head) = line.waiting.front_mut().filter(|head| blocked.contains(&head.ticket)) {
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

    /// Makes room: the last of the tenant that has most, running sessions included, so that nobody fills the queue for
    /// all.
    pub(super) fn drop_from_longest(&mut self) -> Option<Waiting> {
        let longest = self
            .lines
            .values_mut()
            .filter(|line| !line.waiting.is_empty())
            .max_by_key(|line| (line.waiting.len(), line.running))?;
        let dropped = longest.waiting.pop_back()?;
        self.len -= 1;
        self.forget_idle();
        Some(dropped)
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
        self.served += 1;
        let line = self.lines.entry(tenant.clone()).or_default();
        line.running += 1;
        line.last = self.served;
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
