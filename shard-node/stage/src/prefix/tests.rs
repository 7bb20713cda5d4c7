//! Examples by name, then random use against a list of what should be there.

use proptest::prelude::*;
use proto::prefix::{TenantId, block_hashes};

use super::*;

fn scope(number: u8) -> PrefixScope {
    PrefixScope::new(ContentHash::from_bytes([number; 32]))
}

/// Blocks of equal tokens: two sequences agree as far as their letters do.
fn blocks(letters: &[u32]) -> Vec<BlockHash> {
    let tokens: Vec<u32> = letters.iter().flat_map(|&letter| [letter; BLOCK_TOKENS as usize]).collect();
    block_hashes(&TenantId::default(), &tokens)
}

fn slot(number: u32) -> KvSlot {
    KvSlot::new(number)
}

#[expect(clippy::disallowed_methods, reason = "the origin of the test's own time")]
fn now() -> Instant {
    Instant::now()
}

fn found(store: &mut PrefixStore, scope: PrefixScope, letters: &[u32]) -> Option<(u32, u32)> {
    store.longest(now(), scope, &blocks(letters)).map(|found| (found.slot.get(), found.positions))
}

#[test]
fn the_longest_common_beginning_is_found_in_its_own_scope_only() {
    let mut store = PrefixStore::new(10_000);
    assert_eq!(store.keep(now(), scope(1), blocks(&[1, 2, 3]), slot(7)), Some(vec![]));
    assert_eq!(found(&mut store, scope(1), &[1, 2, 3, 4]), Some((7, 192)));
    assert_eq!(found(&mut store, scope(1), &[1, 2, 9]), Some((7, 128)));
    assert_eq!(found(&mut store, scope(1), &[2, 3]), None);
    assert_eq!(found(&mut store, scope(2), &[1, 2, 3]), None);
    assert_eq!(store.counts(), PrefixCounts { lookups: 4, hits: 2, evictions: 0 });
}

#[test]
fn a_list_whose_blocks_stand_elsewhere_finds_nothing() {
    let mut store = PrefixStore::new(10_000);
    let honest = blocks(&[1, 2, 3]);
    store.keep(now(), scope(1), honest.clone(), slot(7)).unwrap();
    let junk = [honest[0], honest[0], honest[1], honest[0], honest[2]];
    assert_eq!(store.longest(now(), scope(1), &junk), Some(PrefixMatch { slot: slot(7), positions: 64 }));
    assert_eq!(store.longest(now(), scope(1), &junk[2..4]), None);
    assert_eq!(store.longest(now(), scope(1), &honest[1..]), None);
    assert!(!store.holds(now(), scope(1), &junk));
    // Kept lists of that kind are found as they are and go without a trace.
    assert_eq!(store.keep(now(), scope(1), junk.to_vec(), slot(8)), Some(vec![]));
    let found = store.longest(now(), scope(1), &junk);
    assert_eq!(found, Some(PrefixMatch { slot: slot(8), positions: 320 }));
    store.forget(slot(8));
    assert_eq!(store.longest(now(), scope(1), &honest).map(|found| found.slot), Some(slot(7)));
}

#[test]
fn one_that_goes_on_takes_the_place_of_its_beginning_and_a_beginning_is_not_kept_twice() {
    let mut store = PrefixStore::new(10_000);
    store.keep(now(), scope(1), blocks(&[1, 2]), slot(1)).unwrap();
    assert_eq!(store.keep(now(), scope(1), blocks(&[1, 2]), slot(2)), None);
    assert_eq!(store.keep(now(), scope(1), blocks(&[1]), slot(2)), None);
    assert_eq!(store.keep(now(), scope(1), blocks(&[1, 2, 3]), slot(3)), Some(vec![slot(1)]));
    assert_eq!((store.len(), store.positions()), (1, 192));
    assert_eq!(store.counts().evictions, 0);
}

#[test]
fn the_least_recently_used_goes_first_and_the_spared_one_last() {
    let mut store = PrefixStore::new(3 * 64);
    for letter in 1..=3 {
        store.keep(now(), scope(1), blocks(&[letter]), slot(letter)).unwrap();
    }
    assert_eq!(found(&mut store, scope(1), &[1]), Some((1, 64)));
    assert_eq!(store.keep(now(), scope(1), blocks(&[4]), slot(4)), Some(vec![slot(2)]));
    assert_eq!(store.evict(65, Some(slot(3))), [slot(1), slot(4)]);
    assert_eq!(store.evict(1, Some(slot(3))), [slot(3)]);
    assert_eq!(store.keep(now(), scope(1), blocks(&[1, 2, 3, 4]), slot(5)), None, "over the limit");
    assert!(store.is_empty() && store.positions() == 0);
}

#[test]
fn what_nobody_uses_expires() {
    let mut store = PrefixStore::new(1000);
    let begin = now();
    let lease = Duration::from_secs(10);
    store.keep(begin, scope(1), blocks(&[1]), slot(1)).unwrap();
    store.keep(begin, scope(1), blocks(&[2]), slot(2)).unwrap();
    store.longest(begin + Duration::from_secs(5), scope(1), &blocks(&[1])).unwrap();
    assert_eq!(store.expire(begin + lease, lease), [slot(2)]);
    assert_eq!(store.expire(begin + lease + Duration::from_secs(5), lease), [slot(1)]);
}

proptest! {
    /// What is found is what was kept and not given back, as long as any of it agrees; and the count of positions is
    /// that of what is kept.
    #[test]
    fn the_store_agrees_with_a_plain_list(
        limit in 64u64..1500,
        moves in prop::collection::vec((0u8..4, 1u8..3, prop::collection::vec(0u32..3, 1..6)), 0..120),
    ) {
        let mut store = PrefixStore::new(limit);
        let mut list: Vec<(KvSlot, u8, Vec<u32>)> = Vec::new();
        let mut next = 0;
        for (kind, number, letters) in moves {
            match kind {
                0 | 1 => {
                    next += 1;
                    let kept = store.keep(now(), scope(number), blocks(&letters), slot(next));
                    if let Some(freed) = kept {
                        list.retain(|(slot, ..)| !freed.contains(slot));
                        list.push((slot(next), number, letters));
                    }
                }
                2 => {
                    let freed = store.evict(u64::from(number) * 64, None);
                    list.retain(|(slot, ..)| !freed.contains(slot));
                }
                _ => {
                    let common = |other: &[u32]| other.iter().zip(&letters).take_while(|(a, b)| a == b).count();
                    let best = list.iter().filter(|&&(_, n, _)| n == number).map(|(.., l)| common(l)).max();
                    let best = best.filter(|&best| best > 0).map(|best| best as u32 * 64);
                    let found = store.longest(now(), scope(number), &blocks(&letters));
                    prop_assert_eq!(found.map(|found| found.positions), best);
                    if let Some(found) = found {
                        let (.., held) = list.iter().find(|(slot, ..)| *slot == found.slot).unwrap();
                        prop_assert_eq!(common(held) as u32 * 64, found.positions);
                    }
                }
            }
            let positions: usize = list.iter().map(|(.., letters)| letters.len() * 64).sum();
            prop_assert_eq!(store.positions(), positions as u64);
            prop_assert!(store.positions() <= limit);
            prop_assert_eq!(store.len(), list.len());
        }
        for (slot, ..) in list {
            store.forget(slot);
        }
        prop_assert!(store.is_empty() && store.by_block.is_empty() && store.positions() == 0);
    }
}
