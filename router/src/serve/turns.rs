//! Whose turn it is where few may work at once: a line for each tenant, one of each in turn. Pure.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A place in a line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Number(u64);

/// What one is told who wants to work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Now.
    Now,
    /// When its number is called.
    Waits(Number),
    /// Not at all: as many wait as may.
    Full,
}

/// Who works and who waits.
#[derive(Debug)]
pub(super) struct Turns<T> {
    free: usize,
    /// In all, and of one tenant.
    limits: (usize, usize),
    /// No empty ones.
    lines: HashMap<T, VecDeque<Number>>,
    /// Tenants that wait, the next one first.
    order: VecDeque<T>,
    waiting: usize,
    next: u64,
}

impl<T: Clone + Eq + Hash> Turns<T> {
    /// So many work at once; so many wait, and so many of one tenant.
    pub(super) fn new(at_once: usize, waiting: usize, of_one: usize) -> Self {
        let (lines, order) = (HashMap::new(), VecDeque::new());
        Self { free: at_once, limits: (waiting, of_one), lines, order, waiting: 0, next: 0 }
    }

    /// One comes.
    pub(super) fn come(&mut self, tenant: &T) -> Turn {
        if self.free > 0 {
            self.free -= 1;
            return Turn::Now;
        }
        let own = self.lines.get(tenant).map_or(0, VecDeque::len);
        if self.waiting >= self.limits.0 || own >= self.limits.1 {
            return Turn::Full;
        }
        let number = Number(self.next);
        self.next += 1;
        self.waiting += 1;
        self.lines.entry(tenant.clone()).or_default().push_back(number);
        if own == 0 {
            self.order.push_back(tenant.clone());
        }
        Turn::Waits(number)
    }

    /// One that waited goes.
    pub(super) fn leave(&mut self, tenant: &T, number: Number) {
        let Some(line) = self.lines.get_mut(tenant) else { return };
        let before = line.len();
        line.retain(|&other| other != number);
        self.waiting -= before - line.len();
        if line.is_empty() {
            self.lines.remove(tenant);
            self.order.retain(|other| other != tenant);
        }
    }

    /// One has done its work; who works next.
    pub(super) fn done(&mut self) -> Option<Number> {
        let Some(tenant) = self.order.pop_front() else {
            self.free += 1;
            return None;
        };
        let line = self.lines.get_mut(&tenant)?;
        let number = line.pop_front()?;
        self.waiting -= 1;
        if line.is_empty() {
            self.lines.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn waits(turn: Turn) -> Number {
        let Turn::Waits(number) = turn else { panic!("{turn:?}") };
        number
    }

    #[test]
    fn a_tenant_with_many_takes_turns_with_one_that_has_one() {
        let mut turns = Turns::new(1, 100, 50);
        assert_eq!(turns.come(&"many"), Turn::Now);
        let many: Vec<Number> = (0..50).map(|_| waits(turns.come(&"many"))).collect();
        assert_eq!(turns.come(&"many"), Turn::Full);
        let one = waits(turns.come(&"one"));
        assert_eq!([turns.done(), turns.done(), turns.done()], [Some(many[0]), Some(one), Some(many[1])]);
        turns.leave(&"many", many[2]);
        assert_eq!(turns.done(), Some(many[3]));
    }

    proptest! {
        #[test]
        fn each_is_called_once_and_slots_are_never_lost(
            steps in prop::collection::vec((0u8..3, 0u8..4), 0..200), slots in 1usize..4,
        ) {
            let mut turns = Turns::new(slots, 8, 3);
            let (mut working, mut waiting) = (0, Vec::new());
            let mut called = HashSet::new();
            for (what, tenant) in steps {
                match what {
                    0 => match turns.come(&tenant) {
                        Turn::Now => working += 1,
                        Turn::Waits(number) => waiting.push((tenant, number)),
                        Turn::Full => prop_assert!(
                            waiting.len() == 8 || waiting.iter().filter(|other| other.0 == tenant).count() == 3
                        ),
                    },
                    1 if working > 0 => match turns.done() {
                        Some(number) => {
                            prop_assert!(called.insert(number));
                            let place = waiting.iter().position(|other| other.1 == number);
                            prop_assert!(place.is_some(), "it had gone, or never came");
                            waiting.remove(place.unwrap());
                        }
                        None => working -= 1,
                    },
                    2 if !waiting.is_empty() => {
                        let (tenant, number) = waiting.remove(usize::from(tenant) % waiting.len());
                        turns.leave(&tenant, number);
                    }
                    _ => {}
                }
                prop_assert!(working <= slots && (waiting.is_empty() || working == slots));
            }
            // All that work and wait come to an end, and every slot is free again.
            for _ in 0..working + waiting.len() {
                turns.done();
            }
            prop_assert_eq!(turns.free, slots);
            prop_assert!(turns.lines.is_empty() && turns.order.is_empty() && turns.waiting == 0);
        }
    }
}
