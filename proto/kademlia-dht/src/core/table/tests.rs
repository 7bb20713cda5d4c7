//! The table's rules one by one, and its invariants over random histories.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const OWN: DhtKey = DhtKey::from_bytes([0; 32]);

fn contact(number: u64, subnet: u8) -> Contact {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let host = (number % 250) as u8 + 1;
    Contact { node: NodeId::from_bytes(id), addr: ([20, 0, subnet, host], 7401).into() }
}

fn bucket_of(contact: Contact) -> usize {
    Distance::between(&OWN, &DhtKey::of_node(contact.node)).shared_prefix().unwrap()
}

/// Contacts of bucket 0, each from a subnet of its own.
fn of_bucket_zero() -> impl Iterator<Item = Contact> {
    (0..).map(|number| contact(number, number as u8)).filter(|contact| bucket_of(*contact) == 0)
}

fn full_table() -> (Table, Vec<Contact>, Contact) {
    let mut contacts = of_bucket_zero();
    let mut table = Table::new(OWN);
    let held: Vec<Contact> = contacts.by_ref().take(K).collect();
    for contact in &held {
        assert_eq!(table.verified(*contact, Duration::ZERO), Placement::Inserted);
    }
    (table, held, contacts.next().unwrap())
}

#[test]
fn a_full_bucket_pings_its_oldest_before_anybody_is_evicted() {
    let (mut table, held, newcomer) = full_table();
    let later = PROBE_AFTER;
    assert_eq!(table.verified(newcomer, later), Placement::Waiting(Some(held[0])));
    assert_eq!(table.verified(newcomer, later), Placement::Waiting(None), "one probe at a time");
    assert_eq!(table.len(), K);
    // It answers: it stays, the newcomer goes on waiting.
    assert_eq!(table.verified(held[0], later), Placement::Refreshed);
    assert!(!table.contacts().any(|contact| contact == newcomer));
    // The next oldest does not: the newcomer takes its place.
    assert_eq!(table.verified(newcomer, later), Placement::Waiting(Some(held[1])));
    assert_eq!(table.failed(held[1]), Some(newcomer));
    let now: HashSet<Contact> = table.contacts().collect();
    assert!(now.contains(&newcomer) && now.contains(&held[0]) && !now.contains(&held[1]));
}

#[test]
fn contacts_seen_lately_are_not_probed() {
    let (mut table, _, newcomer) = full_table();
    assert_eq!(table.verified(newcomer, PROBE_AFTER / 2), Placement::Waiting(None));
}

#[test]
fn without_anybody_waiting_a_contact_leaves_after_three_failures_and_is_not_named_after_one() {
    let mut table = Table::new(OWN);
    let only = contact(1, 1);
    table.verified(only, Duration::ZERO);
    table.failed(only);
    assert!(table.closest(&OWN, K, |_| true).is_empty());
    table.verified(only, Duration::ZERO);
    assert_eq!(table.closest(&OWN, K, |_| true), [only]);
    for _ in 0..MAX_FAILURES {
        assert_eq!(table.len(), 1);
        table.failed(only);
    }
    assert!(table.is_empty());
}

#[test]
fn a_crowded_subnet_gives_way_to_a_newcomer_of_another() {
    let mut table = Table::new(OWN);
    let crowd: Vec<Contact> =
        (0..).map(|number| contact(number, 1)).filter(|held| bucket_of(*held) == 0).take(K).collect();
    for contact in &crowd {
        assert_eq!(table.verified(*contact, Duration::ZERO), Placement::Inserted, "places are free");
    }
    let others: Vec<Contact> = (10_000..)
        .map(|number| contact(number, 2 + (number % 200) as u8))
        .filter(|held| bucket_of(*held) == 0)
        .take(K - SUBNET_CAP)
        .collect();
    for contact in &others {
        assert_eq!(table.verified(*contact, Duration::ZERO), Placement::Inserted);
    }
    let left = table.contacts().filter(|contact| crowd.contains(contact)).count();
    assert_eq!(left, SUBNET_CAP);
    let another = contact(77_777, 1);
    if bucket_of(another) == 0 {
        assert!(matches!(table.verified(another, Duration::ZERO), Placement::Waiting(_)));
    }
}

#[test]
fn a_new_address_of_a_known_node_takes_the_old_ones_place() {
    let mut table = Table::new(OWN);
    let before = contact(1, 1);
    let after = Contact { addr: "21.1.1.1:9000".parse().unwrap(), ..before };
    table.verified(before, Duration::ZERO);
    assert_eq!(table.verified(after, Duration::ZERO), Placement::Refreshed);
    assert_eq!(table.contacts().collect::<Vec<_>>(), [after]);
    assert_eq!(table.failed(before), None, "the old address says nothing about the new one");
    assert_eq!(table.closest(&OWN, K, |_| true), [after]);
}

#[test]
fn refresh_targets_lie_in_their_bucket() {
    let own = DhtKey::of_node(NodeId::from_bytes([9; 32]));
    let table = Table::new(own);
    for bucket in 0..256 {
        for fill in [0, 0xff, 0x5a] {
            let target = table.key_in_bucket(bucket, [fill; 32]);
            assert_eq!(Distance::between(&own, &target).shared_prefix(), Some(bucket));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Verified(u64, u8),
    Failed(u64, u8),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..400_u64, 0..6_u8).prop_map(|(number, subnet)| Step::Verified(number, subnet)),
        3 => (0..400_u64, 0..6_u8).prop_map(|(number, subnet)| Step::Failed(number, subnet)),
        1 => (0..60_u64).prop_map(Step::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariants_hold_over_any_history(steps in prop::collection::vec(step(), 1..600)) {
        let mut table = Table::new(OWN);
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Verified(number, subnet) => { table.verified(contact(number, subnet), now); }
                Step::Failed(number, subnet) => { table.failed(contact(number, subnet)); }
                Step::Later(seconds) => now += Duration::from_secs(seconds),
            }
            check(&table);
        }
        let target = DhtKey::from_bytes([0xc3; 32]);
        let named = table.closest(&target, K, |_| true);
        prop_assert!(named.len() <= K);
        let distance = |contact: &Contact| Distance::between(&target, &DhtKey::of_node(contact.node));
        prop_assert!(named.windows(2).all(|pair| distance(&pair[0]) < distance(&pair[1])));
    }
}

fn check(table: &Table) {
    let mut seen = HashSet::new();
    for (index, bucket) in table.buckets.iter().enumerate() {
        assert!(bucket.entries.len() <= K);
        assert!(bucket.waiting.len() <= WAITING_PER_BUCKET);
        assert!(bucket.waiting.is_empty() || bucket.entries.len() == K, "nobody waits for a free place");
        for entry in bucket.entries.iter().chain(&bucket.waiting) {
            assert_eq!(bucket_of(entry.contact), index);
            assert!(seen.insert(entry.contact.node), "a node stands in one place");
        }
        for subnet in bucket.waiting.iter().map(|entry| entry.subnet) {
            let waiting = bucket.waiting.iter().filter(|entry| entry.subnet == subnet).count();
            assert!(waiting <= SUBNET_CAP);
        }
        assert!(bucket.entries.iter().all(|entry| entry.failures < MAX_FAILURES));
        if let Some(probed) = bucket.probing {
            assert!(bucket.entries.iter().any(|entry| entry.contact.node == probed));
        }
    }
}
