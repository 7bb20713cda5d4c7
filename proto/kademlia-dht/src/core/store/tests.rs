//! Fairness, deletion, bounds of the store, and its accounts over random histories.

use proptest::prelude::*;
use proto::NodeKey;
use proto::record::NodeRecord;

use super::*;
use crate::core::limits::RECORDS_PER_KEY;
use crate::testing::{announcement, node_key};

const NOW: u64 = 1_000;
const OWN: DhtKey = DhtKey::from_bytes([0; 32]);

fn record(key: &NodeKey, model: &str, millis: u64) -> Arc<VerifiedRecord> {
    let signed = announcement(key, model).sign_at(millis).unwrap();
    Arc::new(signed.verify(millis / 1000).unwrap())
}

fn of(number: u64) -> Arc<VerifiedRecord> {
    record(&node_key(number), "toy", NOW * 1000)
}

fn subnet(number: u8) -> Subnet {
    Subnet::V4([30, 0, number])
}

fn toy() -> DhtKey {
    DhtKey::of_model_name("toy")
}

fn store() -> RecordStore {
    RecordStore::new(OWN, 64 << 20)
}

fn held(store: &RecordStore, key: &DhtKey) -> Vec<Arc<VerifiedRecord>> {
    store.page(key, None, usize::MAX, NOW).0
}

#[test]
fn one_subnet_cannot_keep_others_out_nor_push_them_out() {
    let mut store = store();
    for number in 0..RECORDS_PER_KEY as u64 {
        store.store(toy(), &of(number), subnet(1)).unwrap();
    }
    assert_eq!(store.store(toy(), &of(900), subnet(1)), Err(Rejection::Full));
    for number in 0..40 {
        store.store(toy(), &of(1_000 + number), subnet(2 + number as u8)).unwrap();
    }
    assert_eq!(held(&store, &toy()).len(), RECORDS_PER_KEY);
    // The flood goes on, but only against itself.
    for number in 0..300 {
        assert_eq!(store.store(toy(), &of(2_000 + number), subnet(1)), Err(Rejection::Full));
    }
    for number in 0..40 {
        let node = node_key(1_000 + number).node_id();
        assert!(held(&store, &toy()).iter().any(|record| record.node() == node));
    }
    check(&store);
}

#[test]
fn two_greedy_subnets_end_with_equal_shares() {
    let mut store = store();
    for number in 0..600 {
        let _ = store.store(toy(), &of(number), subnet(if number < 400 { 1 } else { 2 }));
    }
    let from_second: Vec<_> = (400..600).map(|number| node_key(number).node_id()).collect();
    let second = held(&store, &toy()).iter().filter(|record| from_second.contains(&record.node())).count();
    assert!((127..=128).contains(&second), "{second}");
    check(&store);
}

#[test]
fn of_a_crowded_subnet_the_record_that_ends_first_goes_first() {
    let mut store = store();
    let short = record(&node_key(5), "toy", (NOW - 300) * 1000);
    for number in 0..RECORDS_PER_KEY as u64 {
        let next = if number == 5 { Arc::clone(&short) } else { of(number) };
        store.store(toy(), &next, subnet(1)).unwrap();
    }
    store.store(toy(), &of(999), subnet(2)).unwrap();
    assert!(!held(&store, &toy()).contains(&short));
}

#[test]
fn the_newest_sequence_wins_and_a_tombstone_deletes() {
    let mut store = store();
    let key = node_key(1);
    let (first, second) = (record(&key, "toy", NOW * 1000), record(&key, "toy", NOW * 1000 + 1));
    store.store(toy(), &second, subnet(1)).unwrap();
    assert_eq!(store.store(toy(), &first, subnet(1)), Err(Rejection::Older));
    assert_eq!(held(&store, &toy()), [second]);
    let tombstone = announcement(&key, "toy").tombstone_at(NOW * 1000 + 2).unwrap();
    let tombstone = Arc::new(tombstone.verify(NOW).unwrap());
    store.store(toy(), &tombstone, subnet(1)).unwrap();
    assert_eq!(store.store(toy(), &first, subnet(1)), Err(Rejection::Older), "it does not come back");
    assert_eq!(held(&store, &toy()), [tombstone]);
    check(&store);
}

#[test]
fn a_newer_record_ends_the_older_one_under_other_keys() {
    let mut store = store();
    let key = node_key(1);
    let before = record(&key, "toy", NOW * 1000);
    for under in [toy(), DhtKey::of_node(key.node_id()), DhtKey::of_all_models()] {
        store.store(under, &before, subnet(1)).unwrap();
    }
    let other = DhtKey::of_model_name("other");
    store.store(other, &record(&key, "other", NOW * 1000 + 1), subnet(1)).unwrap();
    assert!(held(&store, &toy()).is_empty());
    assert_eq!(store.store(toy(), &before, subnet(1)), Err(Rejection::Older));
    assert_eq!(held(&store, &other).len(), 1);
    check(&store);
}

#[test]
fn two_records_of_one_sequence_do_not_share_a_store() {
    let mut store = store();
    let key = node_key(1);
    store.store(toy(), &record(&key, "toy", NOW * 1000), subnet(1)).unwrap();
    for number in 0..20 {
        let model = format!("model {number}");
        let twin = record(&key, &model, NOW * 1000);
        let refused = store.store(DhtKey::of_model_name(&model), &twin, subnet(1));
        assert_eq!(refused, Err(Rejection::Older));
    }
    assert_eq!(store.records(), 1);
}

#[test]
fn a_record_stands_under_its_own_keys_only() {
    let mut store = store();
    let stray = DhtKey::of_model_name("other");
    assert_eq!(store.store(stray, &of(1), subnet(1)), Err(Rejection::WrongKey));
    assert_eq!(store.records(), 0);
    check(&store);
}

#[test]
fn expired_records_are_neither_told_nor_kept() {
    let mut store = store();
    store.store(toy(), &of(1), subnet(1)).unwrap();
    assert_eq!(store.page(&toy(), None, 16, NOW + 900).0.len(), 1);
    assert!(store.page(&toy(), None, 16, NOW + 901).0.is_empty());
    store.expire(NOW + 901);
    assert_eq!((store.records(), store.bytes()), (0, 0));
    assert!(store.sets.is_empty() && store.signers.is_empty());
}

#[test]
fn a_full_store_keeps_the_keys_nearest_to_itself() {
    let size = cost(&of(0));
    let mut store = RecordStore::new(OWN, 10 * size);
    let mut keys: Vec<(Distance, u64)> = (0..30)
        .map(|number| {
            let key = DhtKey::of_node(node_key(number).node_id());
            (Distance::between(&OWN, &key), number)
        })
        .collect();
    for (_, number) in &keys {
        let key = DhtKey::of_node(node_key(*number).node_id());
        let _ = store.store(key, &of(*number), subnet(1));
        assert!(store.bytes() <= 10 * size);
    }
    keys.sort_unstable();
    for (_, number) in &keys[..10] {
        assert_eq!(held(&store, &DhtKey::of_node(node_key(*number).node_id())).len(), 1);
    }
    check(&store);
}

#[test]
fn pages_are_in_order_and_complete() {
    let mut store = store();
    for number in 0..50 {
        store.store(toy(), &of(number), subnet(number as u8)).unwrap();
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let (page, more) = store.page(&toy(), after, 16, NOW);
        assert!(page.len() <= 16);
        seen.extend(page.iter().map(|record| record.node()));
        after = seen.last().copied();
        if !more {
            break;
        }
    }
    assert_eq!(seen.len(), 50);
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_accounts_are_right_over_any_history(
        steps in prop::collection::vec((0..24_u64, 0..3_u64, 0..4_usize, any::<bool>()), 1..120),
        capacity in 4_000..60_000_usize,
    ) {
        let mut store = RecordStore::new(OWN, capacity);
        for (signer, model, under, expire) in steps {
            let model = format!("model {model}");
            let key = node_key(signer);
            let record = record(&key, &model, NOW * 1000 + signer % 5 * 1000);
            let facts: &NodeRecord = record.record();
            let keys = DhtKey::of_offer(facts.node, facts.offer.as_ref());
            let _ = store.store(keys[under], &record, subnet(signer as u8 % 3));
            if expire {
                store.expire(NOW + 902);
            }
            check(&store);
        }
    }
}

/// What the store says of itself is what it holds.
fn check(store: &RecordStore) {
    let all: Vec<_> =
        store.sets.values().flat_map(|(key, set)| set.records().map(move |r| (key, r))).collect();
    assert_eq!(store.records, all.len());
    assert_eq!(store.bytes, all.iter().map(|(_, record)| cost(record)).sum::<usize>());
    assert!(store.bytes <= store.capacity_bytes);
    for (distance, (key, set)) in &store.sets {
        assert_eq!(*distance, Distance::between(&store.own, key));
        assert!(!set.is_empty() && set.len() <= RECORDS_PER_KEY);
    }
    for (key, record) in &all {
        assert!(belongs(record, key));
        assert!(store.signers[&record.node()].keys.contains(key));
    }
    let places: usize = store.signers.values().map(|signer| signer.keys.len()).sum();
    assert_eq!(places, all.len());
    assert!(store.signers.values().all(|signer| (1..=4).contains(&signer.keys.len())));
}
