//! A lookup against dead, slow and hostile peers.

use std::collections::BTreeMap;

use super::*;

const TARGET: DhtKey = DhtKey::from_bytes([0x77; 32]);
const OWN: NodeId = NodeId::from_bytes([0xee; 32]);

fn node(number: u64) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    NodeId::from_bytes(id)
}

fn contact(number: u64) -> Contact {
    let [a, b, ..] = number.to_le_bytes();
    Contact { node: node(number), addr: ([40, b, a, 1], 7401).into() }
}

fn start(seeds: impl IntoIterator<Item = Contact>) -> Lookup {
    Lookup::new(TARGET, OWN, Pace::FAST, seeds.into_iter().collect(), Duration::ZERO)
}

fn asks(lookup: &mut Lookup, now: Duration) -> Option<Vec<Ask>> {
    match lookup.step(now) {
        Step::Ask { asks, .. } => Some(asks),
        Step::Done => None,
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn with_nobody_to_ask_it_is_over_at_once() {
    assert_eq!(start([]).step(Duration::ZERO), Step::Done);
}

#[test]
fn it_ends_when_the_nearest_have_answered() {
    let mut lookup = start((0..60).map(contact));
    let mut rounds = 0;
    while let Some(asked) = asks(&mut lookup, millis(rounds)) {
        assert!(!asked.is_empty(), "nobody is being waited for");
        for ask in asked {
            lookup.answered_by(ask.to, None);
        }
        rounds += 1;
    }
    let mut all: Vec<Contact> = (0..60).map(contact).collect();
    all.sort_by_key(|contact| Distance::between(&TARGET, &DhtKey::of_node(contact.node)));
    assert_eq!(lookup.closest(), all[..K]);
}

#[test]
fn the_dead_are_passed_over_without_their_timeouts() {
    let mut lookup = start((0..60).map(contact));
    let mut now = Duration::ZERO;
    let mut answered = 0;
    while let Some(asked) = asks(&mut lookup, now) {
        for ask in asked {
            // Every other one never answers.
            if ask.to.addr.ip().to_string().ends_with(".0.1") || answered % 2 == 0 {
                lookup.answered_by(ask.to, None);
            }
            answered += 1;
        }
        now += millis(10);
    }
    assert!(now <= 3 * SLOW, "{now:?}");
    assert_eq!(lookup.closest().len(), K);
}

#[test]
fn an_answer_that_comes_late_still_counts() {
    let mut lookup = start([contact(1)]);
    let asked = asks(&mut lookup, Duration::ZERO).unwrap();
    assert_eq!(lookup.step(SLOW / 2), Step::Ask { asks: Vec::new(), wake: SLOW });
    lookup.answered_by(asked[0].to, None);
    assert_eq!(lookup.closest(), [contact(1)]);
    assert_eq!(lookup.step(SLOW), Step::Done);
}

#[test]
fn pages_are_followed_up_to_the_bound() {
    let mut lookup = start([contact(1)]);
    let mut pages = 0;
    while let Some(asked) = asks(&mut lookup, millis(pages)) {
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].after, (pages > 0).then(|| node(pages - 1)));
        // Promises more for ever.
        lookup.answered_by(asked[0].to, Some(node(pages)));
        pages += 1;
    }
    assert_eq!(pages, MAX_PAGES as u64);
    assert_eq!(lookup.answered(), 1);
}

#[test]
fn endless_naming_makes_it_ask_no_more_than_its_bound() {
    let mut lookup = start((0..K as u64).map(contact));
    let mut next = 1_000;
    let mut now = Duration::ZERO;
    while let Some(asked) = asks(&mut lookup, now) {
        for ask in asked {
            let named: Vec<Contact> = (next..next + 20).map(contact).collect();
            next += 20;
            lookup.named(ask.to, &named);
            lookup.answered_by(ask.to, None);
        }
        assert!(lookup.candidates.len() <= MAX_CANDIDATES + MAX_ASKED);
        assert_eq!(lookup.candidates.len(), lookup.known.len());
        now += millis(1);
    }
    assert!(lookup.asked() <= MAX_ASKED);
    assert!(now < LOOKUP_DEADLINE);
}

#[test]
fn named_peers_that_do_not_exist_end_it_by_its_deadline() {
    let mut lookup = start((0..K as u64).map(contact));
    let mut next = 1_000;
    let mut now = Duration::ZERO;
    while let Some(asked) = asks(&mut lookup, now) {
        for ask in asked {
            if u64::from_le_bytes(ask.to.node.as_bytes()[..8].try_into().unwrap()) < K as u64 {
                let named: Vec<Contact> = (next..next + 20).map(contact).collect();
                next += 20;
                lookup.named(ask.to, &named);
                lookup.answered_by(ask.to, None);
            }
        }
        now += millis(10);
    }
    assert!(now <= LOOKUP_DEADLINE + millis(10));
    assert!(!lookup.closest().is_empty(), "the honest ones count");
}

#[test]
fn a_peer_cannot_send_us_elsewhere() {
    let mut lookup = start([contact(1)]);
    let asked = asks(&mut lookup, Duration::ZERO).unwrap();
    let bad = ["127.0.0.1:7401", "10.0.0.1:7401", "9.9.9.9:53", "0.0.0.0:7401", "224.0.0.1:7401"];
    let mut named: Vec<Contact> = bad
        .iter()
        .zip(100..)
        .map(|(addr, number)| Contact { node: node(number), addr: addr.parse().unwrap() })
        .collect();
    // A port scan of somebody's host, and ourselves.
    named.extend(
        (0..30).map(|at| Contact { node: node(200 + at), addr: ([50, 0, 0, 1], 2000 + at as u16).into() }),
    );
    named.push(Contact { node: OWN, ..contact(300) });
    assert_eq!(lookup.named(asked[0].to, &named), bad.len());
    lookup.answered_by(asked[0].to, None);
    let next = asks(&mut lookup, millis(1)).unwrap();
    assert_eq!(next.len(), MAX_PER_ADDRESS);
    assert!(next.iter().all(|ask| ask.to.addr.ip().to_string() == "50.0.0.1"));
}

#[test]
fn a_wrong_address_told_first_does_not_hide_a_node() {
    let mut lookup = start([contact(1), contact(2)]);
    let asked = asks(&mut lookup, Duration::ZERO).unwrap();
    let right = contact(9);
    let wrong = Contact { addr: "60.0.0.1:7401".parse().unwrap(), ..right };
    lookup.named(asked[0].to, &[wrong]);
    lookup.named(asked[1].to, &[right]);
    for ask in &asked {
        lookup.answered_by(ask.to, None);
    }
    let next = asks(&mut lookup, millis(1)).unwrap();
    assert_eq!(next.len(), 2);
    lookup.answered_by(right, None);
    assert_eq!(lookup.step(millis(2)), Step::Done, "the other address is not waited for");
    assert!(lookup.closest().contains(&right));
}

#[test]
fn nobody_is_asked_twice_and_few_of_one_subnet_while_others_are_left() {
    // 100 contacts of one /24 nearer than everybody else would be.
    let crowd: Vec<Contact> = (0..100)
        .map(|number| Contact {
            node: node(number),
            addr: ([70, 0, 0, (number % 50) as u8 + 1], 7401).into(),
        })
        .collect();
    let honest: Vec<Contact> = (1_000..1_040).map(contact).collect();
    let mut lookup = start(crowd.iter().take(10).copied().chain(honest.iter().copied()));
    let mut times: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut now = Duration::ZERO;
    while let Some(asked) = asks(&mut lookup, now) {
        for ask in asked {
            *times.entry(ask.to.node).or_default() += 1;
            if crowd.contains(&ask.to) {
                lookup.named(ask.to, &crowd[..20]);
            }
            lookup.answered_by(ask.to, None);
        }
        now += millis(1);
    }
    assert!(times.values().all(|times| *times == 1));
    let holders = lookup.closest();
    assert_eq!(holders.iter().filter(|holder| crowd.contains(holder)).count(), SUBNET_CAP);
}
