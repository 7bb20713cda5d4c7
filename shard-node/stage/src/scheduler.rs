//! Which rows the next step computes.
//!
//! A step holds the decode rows that are ready, as many as the budget has room for, or one prefill chunk; both if the
//! chunk is so short that the rows lose nothing by it. A long chunk is computed in pieces with steps of decode rows
//! between them, so these two take turns: rows that are ready go before a chunk, once, and before its next piece. A
//! prefill then delays a row by one piece, and a prompt of any length can't stop the answers under way. Short chunks of
//! several sessions share a step: most of what one of them takes is the reading of the weights.
//! Where not all fits, sessions take part by their [`Flow`]: start-time fair queueing (Goyal, Vin, Cheng 1996) over
//! rows, twice. Tenants have equal shares, so one with a hundred sessions gets no more than one with a single one. What
//! a tenant gets is divided among its flows by weight: whoever calls all its sessions urgent takes nothing from others.
//! Within a flow prefills take turns, one chunk each, in the order they came. Knows keys and row counts only; what the
//! rows are is the caller's.

use std::collections::VecDeque;

/// Rows of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowBudget {
    /// Rows of a step, decode and prefill together.
    pub rows: u32,
    /// A waiting prefill gets at least this many rows even when the decode rows alone fill the budget; otherwise
    /// many answers under way would starve it for ever. A step may exceed `rows` by it.
    pub prefill_floor: u32,
}

impl RowBudget {
    /// A budget with a floor of a sixteenth of it.
    pub const fn new(rows: u32) -> Self {
        let rows = if rows == 0 { 1 } else { rows };
        Self { rows, prefill_floor: if rows < 16 { 1 } else { rows / 16 } }
    }
}

/// Sessions that share one part of a tenant's share of a stage's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<T> {
    /// Whose they are.
    pub tenant: T,
    /// Their part beside the tenant's others, at least 1.
    pub weight: u32,
}

/// What the next step computes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepPlan<K> {
    /// One row each.
    pub decode: Vec<K>,
    /// So many rows of a prefill.
    pub prefill: Option<(K, u32)>,
    /// Short chunks of other sessions that go with it.
    pub also: Vec<(K, u32)>,
}

/// Most rows of a step, beside the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepCaps {
    /// Decode rows: fewer than are ready, or none, where batches follow each other through the stages.
    pub decode: u32,
    /// Rows of the prefill chunk; 0 while another one is under way.
    pub prefill: u32,
    /// Rows of chunks that may go together with decode rows, or with each other.
    pub beside: u32,
}

impl StepCaps {
    /// The budget alone.
    pub const NONE: Self = Self { decode: u32::MAX, prefill: u32::MAX, beside: u32::MAX };
}

/// Rows that are ready, by whatever names a session and whatever names a tenant.
#[derive(Debug, Clone)]
pub struct Scheduler<K, T> {
    budget: RowBudget,
    // A key stands in it at most once as decode and once as prefill; shares without rows are bounded by MOST_IDLE.
    shares: Vec<Share<K, T>>,
    /// Start of the share that was served last.
    clock: u64,
    /// A chunk has let decode rows go first: the next step is its.
    passed: bool,
}

/// Of one tenant.
#[derive(Debug, Clone)]
struct Share<K, T> {
    tenant: T,
    /// When its next row starts.
    start: u64,
    /// One for each weight in use.
    queues: Vec<Queue<K>>,
    /// Start of the queue that was served last.
    clock: u64,
}

/// Of one flow.
#[derive(Debug, Clone)]
struct Queue<K> {
    weight: u32,
    /// When its next row starts, among the tenant's.
    start: u64,
    decode: VecDeque<K>,
    prefill: VecDeque<Waiting<K>>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting<K> {
    key: K,
    rows: u32,
}

impl<K> Queue<K> {
    fn is_idle(&self) -> bool {
        self.decode.is_empty() && self.prefill.is_empty()
    }

    /// `rows` of it are served.
    fn charge(&mut self, clock: &mut u64, rows: u32) {
        *clock = (*clock).max(self.start);
        self.start += u64::from(rows) * ROW / u64::from(self.weight.max(1));
    }
}

impl<K, T> Share<K, T> {
    fn is_idle(&self) -> bool {
        self.queues.iter().all(Queue::is_idle)
    }

    /// `rows` of it are served.
    fn charge(&mut self, clock: &mut u64, rows: u32) {
        *clock = (*clock).max(self.start);
        self.start += u64::from(rows) * ROW;
    }

    fn decode_rows(&self) -> usize {
        self.queues.iter().map(|queue| queue.decode.len()).sum()
    }
}

impl<K: Copy + Eq, T: Copy + Eq> Scheduler<K, T> {
    /// Nothing is ready.
    pub const fn new(budget: RowBudget) -> Self {
        Self { budget, shares: Vec::new(), clock: 0, passed: false }
    }

    /// A decode row of `key` is ready; a session has at most one, so a second one is not counted.
    pub fn push_decode(&mut self, key: K, flow: Flow<T>) {
        let queue = self.queue(flow);
        if !queue.decode.contains(&key) {
            queue.decode.push_back(key);
        }
    }

    /// `rows` more prefill rows of `key` are ready. They join those that wait, else the end of the queue.
    pub fn push_prefill(&mut self, key: K, flow: Flow<T>, rows: u32) {
        let queue = self.queue(flow);
        match queue.prefill.iter_mut().find(|waiting| waiting.key == key) {
            Some(waiting) => waiting.rows = waiting.rows.saturating_add(rows),
            None if rows > 0 => queue.prefill.push_back(Waiting { key, rows }),
            None => {}
        }
    }

    /// Forgets all rows of `key`: the next step holds none of them.
    pub fn cancel(&mut self, key: K) {
        for queue in self.shares.iter_mut().flat_map(|share| &mut share.queues) {
            queue.decode.retain(|&ready| ready != key);
            queue.prefill.retain(|waiting| waiting.key != key);
        }
    }

    /// Takes the rows of the next step; `None` if nothing is ready.
    ///
    /// `longest` is how many of the prefill rows offered to it the caller takes in one piece: a chunk that came over
    /// a hop is not glued to the next one. 0 passes the turn on to the next prefill; the session keeps its place.
    pub fn next(&mut self, caps: StepCaps, mut longest: impl FnMut(K, u32) -> u32) -> Option<StepPlan<K>> {
        if caps.prefill == 0 {
            let decode = self.take_decode(self.budget.rows.min(caps.decode));
            return (!decode.is_empty()).then_some(StepPlan { decode, prefill: None, also: Vec::new() });
        }
        if std::mem::take(&mut self.passed)
            && let Some(chunk) = self.take_prefill(self.room(caps, 0), false, &mut longest)
        {
            let also = self.take_short(caps, chunk, 0, &mut longest);
            return Some(StepPlan { decode: Vec::new(), prefill: Some(chunk), also });
        }
        let decode = self.take_decode(self.budget.rows.min(caps.decode));
        let mut passed = false;
        let prefill = self.take_prefill(self.room(caps, decode.len()), false, |key, offered| {
            let rows = longest(key, offered);
            let alone = !decode.is_empty() && rows > caps.beside;
            passed |= alone;
            if alone { 0 } else { rows }
        });
        self.passed = passed;
        let also = prefill.map(|chunk| self.take_short(caps, chunk, decode.len() as u32, &mut longest));
        let also = also.unwrap_or_default();
        (!decode.is_empty() || prefill.is_some()).then_some(StepPlan { decode, prefill, also })
    }

    /// Prefills that `chunk` has room for beside it, whole.
    fn take_short(
        &mut self,
        caps: StepCaps,
        chunk: (K, u32),
        decode: u32,
        longest: &mut impl FnMut(K, u32) -> u32,
    ) -> Vec<(K, u32)> {
        let most = caps.beside.min(caps.prefill).min(self.budget.rows.saturating_sub(decode));
        let (mut taken, mut rows) = (vec![chunk], chunk.1);
        while rows < most {
            let short = self.take_prefill(most - rows, true, |key, offered| {
                // A session takes part in a step once.
                if taken.iter().any(|&(other, _)| other == key) { 0 } else { longest(key, offered) }
            });
            let Some(short) = short else { break };
            rows += short.1;
            taken.push(short);
        }
        taken.split_off(1)
    }

    /// Rows of a chunk in a step with so many decode rows.
    fn room(&self, caps: StepCaps, decode: usize) -> u32 {
        let room = self.budget.rows.saturating_sub(decode as u32);
        room.min(caps.prefill).max(self.budget.prefill_floor).max(1)
    }

    fn take_decode(&mut self, most: u32) -> Vec<K> {
        let ready = self.decode_rows();
        let mut taken = Vec::with_capacity(ready.min(most as usize));
        if ready <= most as usize {
            // Who is served nothing is charged nothing, and does not move the clock by what it owes.
            for share in &mut self.shares {
                let rows = share.decode_rows();
                if rows == 0 {
                    continue;
                }
                share.charge(&mut self.clock, rows as u32);
                for queue in share.queues.iter_mut().filter(|queue| !queue.decode.is_empty()) {
                    queue.charge(&mut share.clock, queue.decode.len() as u32);
                    taken.extend(queue.decode.drain(..));
                }
            }
            return taken;
        }
        while taken.len() < most as usize {
            let waiting = self.shares.iter_mut().filter(|share| share.decode_rows() > 0);
            let Some(share) = waiting.min_by_key(|share| share.start) else { break };
            share.charge(&mut self.clock, 1);
            let waiting = share.queues.iter_mut().filter(|queue| !queue.decode.is_empty());
            let Some(queue) = waiting.min_by_key(|queue| queue.start) else { break };
            queue.charge(&mut share.clock, 1);
            taken.extend(queue.decode.pop_front());
        }
        taken
    }

    /// The next chunk of up to `room` rows; only where all rows that wait have room if it is to be `whole`.
    fn take_prefill(
        &mut self,
        room: u32,
        whole: bool,
        mut longest: impl FnMut(K, u32) -> u32,
    ) -> Option<(K, u32)> {
        let waiting = |queue: &&mut Queue<K>| !queue.prefill.is_empty();
        let mut shares: Vec<_> = self.shares.iter_mut().filter(|share| !share.is_idle()).collect();
        shares.sort_by_key(|share| share.start);
        for share in shares {
            let mut queues: Vec<_> = share.queues.iter_mut().filter(waiting).collect();
            queues.sort_by_key(|queue| queue.start);
            for queue in queues {
                let chosen = queue.prefill.iter().enumerate().find_map(|(place, waiting)| {
                    if whole && waiting.rows > room {
                        return None;
                    }
                    let offered = waiting.rows.min(room);
                    let rows = longest(waiting.key, offered).min(offered);
                    (rows > 0).then_some((place, rows))
                });
                let Some((place, rows)) = chosen else { continue };
                let Some(served) = queue.prefill.remove(place) else { continue };
                if served.rows > rows {
                    queue.prefill.push_back(Waiting { key: served.key, rows: served.rows - rows });
                }
                queue.charge(&mut share.clock, rows);
                share.charge(&mut self.clock, rows);
                return Some((served.key, rows));
            }
        }
        None
    }

    fn decode_rows(&self) -> usize {
        self.shares.iter().map(Share::decode_rows).sum()
    }

    /// Whether nothing is ready.
    pub fn is_idle(&self) -> bool {
        self.shares.iter().all(Share::is_idle)
    }

    /// Rows that are ready.
    pub fn waiting_rows(&self) -> u64 {
        let prefill = |queue: &Queue<K>| queue.prefill.iter().map(|w| u64::from(w.rows)).sum::<u64>();
        let queues = self.shares.iter().flat_map(|share| &share.queues);
        queues.map(|queue| queue.decode.len() as u64 + prefill(queue)).sum()
    }

    /// The budget.
    pub const fn budget(&self) -> RowBudget {
        self.budget
    }

    fn queue(&mut self, flow: Flow<T>) -> &mut Queue<K> {
        let clock = self.clock;
        let place = self.shares.iter().position(|share| share.tenant == flow.tenant).unwrap_or_else(|| {
            if self.shares.len() >= MOST_IDLE {
                self.shares.retain(|share| !share.is_idle());
            }
            self.shares.push(Share { tenant: flow.tenant, start: clock, queues: Vec::new(), clock: 0 });
            self.shares.len() - 1
        });
        let share = &mut self.shares[place];
        if share.is_idle() {
            // What a tenant did not ask for while it was idle is not saved up.
            share.start = share.start.max(clock);
        }
        let clock = share.clock;
        let place = share.queues.iter().position(|queue| queue.weight == flow.weight).unwrap_or_else(|| {
            if share.queues.len() >= MOST_WEIGHTS {
                share.queues.retain(|queue| !queue.is_idle());
            }
            let (decode, prefill) = (VecDeque::new(), VecDeque::new());
            share.queues.push(Queue { weight: flow.weight, start: clock, decode, prefill });
            share.queues.len() - 1
        });
        let queue = &mut share.queues[place];
        if queue.is_idle() {
            queue.start = queue.start.max(clock);
        }
        queue
    }
}

/// A row of weight 1, so that the largest weights divide it well.
const ROW: u64 = 1 << 16;
/// A share is remembered while its tenant waits for its next row, so that it can't begin anew with each. As many as sessions.
const MOST_IDLE: usize = 1024;
/// As for shares: a queue is remembered with what it has used. More than there are priorities.
const MOST_WEIGHTS: usize = 8;

#[cfg(test)]
mod tests;
