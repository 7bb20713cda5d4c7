//! Which rows the next step computes.
//!
//! A step holds every decode row that is ready plus at most one prefill chunk. So a prefill delays a decode row by
//! one chunk at most, and a prompt of any length can't stop the answers under way. Prefills take turns, one chunk
//! each, in the order they came. Knows keys and row counts only; what the rows are is the caller's.

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

/// What the next step computes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepPlan<K> {
    /// One row each.
    pub decode: Vec<K>,
    /// So many rows of a prefill.
    pub prefill: Option<(K, u32)>,
}

/// Rows that are ready, by whatever names a session.
#[derive(Debug, Clone)]
pub struct Scheduler<K> {
    budget: RowBudget,
    // Both are bounded by the sessions open: a key stands in each at most once.
    decode: VecDeque<K>,
    prefill: VecDeque<Waiting<K>>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting<K> {
    key: K,
    rows: u32,
}

impl<K: Copy + Eq> Scheduler<K> {
    /// Nothing is ready.
    pub const fn new(budget: RowBudget) -> Self {
        Self { budget, decode: VecDeque::new(), prefill: VecDeque::new() }
    }

    /// A decode row of `key` is ready; a session has at most one, so a second one is not counted.
    pub fn push_decode(&mut self, key: K) {
        if !self.decode.contains(&key) {
            self.decode.push_back(key);
        }
    }

    /// `rows` more prefill rows of `key` are ready. They join those that wait, else the end of the queue.
    pub fn push_prefill(&mut self, key: K, rows: u32) {
        match self.prefill.iter_mut().find(|waiting| waiting.key == key) {
            Some(waiting) => waiting.rows = waiting.rows.saturating_add(rows),
            None if rows > 0 => self.prefill.push_back(Waiting { key, rows }),
            None => {}
        }
    }

    /// Forgets all rows of `key`: the next step holds none of them.
    pub fn cancel(&mut self, key: K) {
        self.decode.retain(|&other| other != key);
        self.prefill.retain(|waiting| waiting.key != key);
    }

    /// Takes the rows of the next step; `None` if nothing is ready.
    ///
    /// `longest` is how many of the prefill rows offered to it the caller takes in one piece: a chunk that came over
    /// a hop is not glued to the next one. 0 passes the turn on to the next prefill; the session keeps its place.
    pub fn next(&mut self, mut longest: impl FnMut(K, u32) -> u32) -> Option<StepPlan<K>> {
        let taken = self.decode.len().min(self.budget.rows as usize);
        let decode: Vec<K> = self.decode.drain(..taken).collect();
        let room = self.budget.rows.saturating_sub(decode.len() as u32).max(self.budget.prefill_floor).max(1);
        let mut prefill = None;
        for (place, waiting) in self.prefill.iter().enumerate() {
            let offered = waiting.rows.min(room);
            let rows = longest(waiting.key, offered).min(offered);
            if rows > 0 {
                prefill = Some((place, waiting.key, rows));
                break;
            }
        }
        if let Some((place, key, rows)) = prefill
            && let Some(waiting) = self.prefill.remove(place)
            && waiting.rows > rows
        {
            self.prefill.push_back(Waiting { key, rows: waiting.rows - rows });
        }
        let prefill = prefill.map(|(_, key, rows)| (key, rows));
        (!decode.is_empty() || prefill.is_some()).then_some(StepPlan { decode, prefill })
    }

    /// Whether nothing is ready.
    pub fn is_idle(&self) -> bool {
        self.decode.is_empty() && self.prefill.is_empty()
    }

    /// Rows that are ready.
    pub fn waiting_rows(&self) -> u64 {
        self.decode.len() as u64 + self.prefill.iter().map(|waiting| u64::from(waiting.rows)).sum::<u64>()
    }

    /// The budget.
    pub const fn budget(&self) -> RowBudget {
        self.budget
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn whole(_: u32, offered: u32) -> u32 {
        offered
    }

    #[test]
    fn prefills_take_turns_in_the_order_they_came() {
        let mut scheduler = Scheduler::new(RowBudget::new(4));
        scheduler.push_prefill(1, 9);
        scheduler.push_prefill(2, 4);
        scheduler.push_prefill(3, 1);
        let order: Vec<_> =
            std::iter::from_fn(|| scheduler.next(whole)).map(|plan| plan.prefill.unwrap()).collect();
        assert_eq!(order, [(1, 4), (2, 4), (3, 1), (1, 4), (1, 1)]);
    }

    #[test]
    fn a_prefill_is_not_starved_by_decode_rows() {
        let mut scheduler = Scheduler::new(RowBudget::new(4));
        scheduler.push_prefill(99, 2);
        for _ in 0..2 {
            (0..6).for_each(|key| scheduler.push_decode(key));
            let plan = scheduler.next(whole).unwrap();
            assert_eq!(plan.decode.len(), 4);
            assert_eq!(plan.prefill, Some((99, 1)));
        }
    }

    #[test]
    fn a_cancelled_session_has_no_row_in_the_next_step() {
        let mut scheduler = Scheduler::new(RowBudget::new(4));
        scheduler.push_decode(1);
        scheduler.push_prefill(1, 3);
        scheduler.push_decode(2);
        scheduler.cancel(1);
        assert_eq!(scheduler.next(whole), Some(StepPlan { decode: vec![2], prefill: None }));
        assert_eq!(scheduler.next(whole), None);
        assert!(scheduler.is_idle());
    }

    #[test]
    fn a_prefill_that_must_wait_lets_the_next_one_pass_and_keeps_its_place() {
        let mut scheduler = Scheduler::new(RowBudget::new(4));
        scheduler.push_prefill(1, 5);
        scheduler.push_prefill(2, 9);
        let blocked = |key, offered| if key == 1 { 0 } else { offered };
        assert_eq!(scheduler.next(blocked).unwrap().prefill, Some((2, 4)));
        assert_eq!(scheduler.next(whole).unwrap().prefill, Some((1, 4)));
        assert_eq!(scheduler.next(|_, _| 0), None);
        assert_eq!(scheduler.waiting_rows(), 6);
    }

    #[derive(Debug, Clone)]
    enum Move {
        Decode(u32),
        Prefill(u32, u32),
        Cancel(u32),
        Step(u32),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let key = 0u32..6;
        prop::collection::vec(
            prop_oneof![
                key.clone().prop_map(Move::Decode),
                (key.clone(), 1u32..40).prop_map(|(k, rows)| Move::Prefill(k, rows)),
                key.prop_map(Move::Cancel),
                (1u32..40).prop_map(Move::Step),
            ],
            0..200,
        )
    }

    proptest! {
        /// Every row pushed and not cancelled is computed exactly once, all decode rows that fit go into the next
        /// step, and no step is over its budget by more than the floor.
        #[test]
        fn rows_are_neither_lost_nor_doubled(rows in 1u32..20, moves in moves()) {
            let budget = RowBudget::new(rows);
            let mut scheduler = Scheduler::new(budget);
            let mut decode: Vec<u32> = Vec::new();
            let mut prefill: HashMap<u32, u32> = HashMap::new();
            for step in moves.into_iter().chain((0..8_200).map(|_| Move::Step(u32::MAX))) {
                match step {
                    Move::Decode(key) => {
                        scheduler.push_decode(key);
                        if !decode.contains(&key) {
                            decode.push(key);
                        }
                    }
                    Move::Prefill(key, rows) => {
                        scheduler.push_prefill(key, rows);
                        *prefill.entry(key).or_default() += rows;
                    }
                    Move::Cancel(key) => {
                        scheduler.cancel(key);
                        decode.retain(|&k| k != key);
                        prefill.remove(&key);
                    }
                    Move::Step(longest) => {
                        let Some(plan) = scheduler.next(|_, _| longest) else {
                            prop_assert!(decode.is_empty() && prefill.is_empty());
                            continue;
                        };
                        let fits = decode.len().min(budget.rows as usize);
                        prop_assert_eq!(&plan.decode[..], &decode[..fits]);
                        decode.drain(..fits);
                        prop_assert_eq!(plan.prefill.is_none(), prefill.is_empty());
                        let mut total = plan.decode.len() as u32;
                        if let Some((key, rows)) = plan.prefill {
                            prop_assert!(rows >= 1 && rows <= longest);
                            let left = prefill.get_mut(&key).unwrap();
                            prop_assert!(*left >= rows);
                            *left -= rows;
                            if *left == 0 {
                                prefill.remove(&key);
                            }
                            total += rows;
                        }
                        prop_assert!(total <= budget.rows + budget.prefill_floor);
                    }
                }
            }
            prop_assert!(scheduler.is_idle() && scheduler.waiting_rows() == 0);
        }
    }
}
