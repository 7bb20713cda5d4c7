//! Admission as a machine: fairness, bounds, turns, and what must hold over any order of events.

mod fairness;
mod moves;

use std::collections::HashMap;

use proptest::prelude::*;

use super::hold::RETRY_SOONEST;
use super::*;
use crate::measurement::Load;
use crate::measurement::Measurement;
use crate::testing::{NOW, Shard, model, node};

const SECOND: Duration = Duration::from_secs(1);
const NO_ROOM: TurnedAway = TurnedAway::NoCapacity { retry_after: None };

/// Two replicas of a whole model with 4,096 positions each, as the records of [`Shard`] say.
fn replicas(count: u8) -> View {
    View::of_records(NOW, (1..=count).map(|number| Shard::new(number, 0, 30).record()))
}

fn admission(queue: usize, view: View) -> Admission {
    let limits = AdmissionLimits { queue, ..AdmissionLimits::default() };
    let mut admission = Admission::new(model(3), 30, limits);
    assert_eq!(admission.set_view(Duration::ZERO, view), []);
    admission
}

fn wanted(tenant: &str, positions: u32) -> Wanted {
    Wanted {
        tenant: tenant.parse().unwrap(),
        priority: Priority::Normal,
        positions,
        class: None,
        until: 10 * SECOND,
    }
}

fn submit(admission: &mut Admission, wanted: Wanted) -> Ticket {
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted);
    assert!(decisions.iter().all(|decision| matches!(decision.verdict, Verdict::Placed(_))), "{decisions:?}");
    ticket
}

/// The tickets that were placed, with the first node of each.
fn placed(decisions: &[Decision]) -> Vec<(Ticket, NodeId)> {
    decisions
        .iter()
        .map(|decision| match &decision.verdict {
            Verdict::Placed(route) => (decision.ticket, route.stages[0].node),
            Verdict::Refused(refusal) => panic!("{refusal}"),
        })
        .collect()
}

#[test]
fn load_spreads_over_replicas_and_waits_when_they_are_full() {
    let mut admission = admission(8, replicas(2));
    let mut nodes = Vec::new();
    for _ in 0..4 {
        let (_, decisions) = admission.submit(Duration::ZERO, wanted("a", 2000));
        nodes.push(placed(&decisions)[0].1);
    }
    nodes.sort();
    assert_eq!(nodes.iter().filter(|&&at| at == node(1)).count(), 2, "{nodes:?}");
    let fifth = submit(&mut admission, wanted("a", 2000));
    assert_eq!((admission.waiting(), admission.placed()), (1, 4));
    let decisions = admission.release(SECOND, Ticket(0));
    assert_eq!(placed(&decisions)[0].0, fifth);
    assert_eq!((admission.waiting(), admission.placed()), (0, 4));
}

#[test]
fn an_answer_whose_node_is_lost_goes_elsewhere_long_after_its_time_to_wait_and_tries_anew() {
    let mut admission = admission(8, replicas(2));
    // Both nodes are full: 4,096 positions each.
    let mut tickets = HashMap::new();
    for _ in 0..4 {
        let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 2000));
        tickets.insert(ticket, placed(&decisions)[0].1);
    }
    let (&lost, &at) = tickets.iter().find(|&(_, &at)| at == node(1)).unwrap();
    let (late, until) = (100 * SECOND, 110 * SECOND);
    assert_eq!(
        admission.lost(late, lost, (at, TurnedAway::Failed), until),
        [],
        "it waits although its own time is over"
    );
    let (&other, _) = tickets.iter().find(|&(_, &at)| at == node(2)).unwrap();
    assert_eq!(placed(&admission.release(late + SECOND, other)), [(lost, node(2))]);
    // The other node too: nobody is left who has not been tried.
    let decisions = admission.lost(late, lost, (node(2), TurnedAway::Failed), until);
    assert!(
        matches!(decisions[0].verdict, Verdict::Refused(AdmissionRefusal::NoRoute { .. })),
        "{decisions:?}"
    );
}

#[test]
fn one_that_waits_for_a_class_keeps_only_its_nodes() {
    use proto::tensor::NumericsClass::{Bf16, Int8};
    let shard = |number, class| Shard { class, ..Shard::new(number, 0, 30) }.record();
    let view = View::of_records(NOW, [shard(1, Bf16), shard(2, Int8)]);
    let mut admission = admission(64, view);
    let in_class =
        |tenant: &str, positions, class| Wanted { class: Some(class), ..wanted(tenant, positions) };
    submit(&mut admission, in_class("runs", 2048, Int8));
    let large = submit(&mut admission, in_class("large", 4096, Int8));
    // Others' nodes are none of its business, however often they are taken.
    for _ in 0..3 * OVERTAKEN {
        let ticket = submit(&mut admission, in_class("other", 1024, Bf16));
        assert!(admission.placed.contains_key(&ticket));
        admission.release(SECOND, ticket);
    }
    // Its own may be taken so often.
    for _ in 0..OVERTAKEN {
        let ticket = submit(&mut admission, in_class("small", 1024, Int8));
        assert!(admission.placed.contains_key(&ticket));
        admission.release(SECOND, ticket);
    }
    let held = submit(&mut admission, in_class("small", 1024, Int8));
    assert!(!admission.placed.contains_key(&held));
    // Then they are kept for it, and the others are not.
    let other = submit(&mut admission, in_class("other", 1024, Bf16));
    let any = submit(&mut admission, wanted("any", 1024));
    assert!(admission.placed.contains_key(&other) && admission.placed.contains_key(&any));
    assert!(!admission.placed.contains_key(&large));
}

#[test]
fn a_node_that_turns_a_session_away_loses_it_to_another_a_bounded_number_of_times() {
    let mut admission = admission(8, replicas(2));
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 100));
    let first = placed(&decisions)[0].1;
    let decisions = admission.turned_away(Duration::ZERO, ticket, first, NO_ROOM);
    let second = placed(&decisions)[0].1;
    assert_ne!(first, second);
    // Both are full by their own word: it waits, and a fresh view lets it in.
    assert_eq!(admission.turned_away(Duration::ZERO, ticket, second, NO_ROOM), []);
    assert_eq!(admission.waiting(), 1);
    let third = placed(&admission.set_view(SECOND, replicas(2)))[0].1;
    let decisions = admission.turned_away(SECOND, ticket, third, NO_ROOM);
    assert_eq!(placed(&decisions).len(), 1);
    let decisions = admission.turned_away(SECOND, ticket, first, NO_ROOM);
    assert!(matches!(&decisions[0].verdict, Verdict::Refused(AdmissionRefusal::TurnedAway { tries: 4, .. })));
    assert_eq!((admission.waiting(), admission.placed()), (0, 0));
}

#[test]
fn a_refused_client_is_told_the_longest_time_that_nodes_gave_within_a_bound() {
    for (nodes_say, told) in [([3, 40, 5], 40), ([3, 7, 100_000], 60)] {
        let mut admission = admission(8, replicas(4));
        let (ticket, mut decisions) = admission.submit(Duration::ZERO, wanted("a", 100));
        for seconds in nodes_say.into_iter().map(Some).chain([None]) {
            let at = placed(&decisions)[0].1;
            let retry_after = seconds.map(Duration::from_secs);
            decisions =
                admission.turned_away(Duration::ZERO, ticket, at, TurnedAway::NoCapacity { retry_after });
        }
        let Verdict::Refused(refusal) = &decisions[0].verdict else { panic!("{decisions:?}") };
        assert_eq!(refusal.retry_after(), Some(Duration::from_secs(told)), "{refusal}");
    }
}

#[test]
fn a_failed_node_is_not_tried_again_by_the_same_request() {
    let mut admission = admission(8, replicas(1));
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 100));
    let only = placed(&decisions)[0].1;
    let decisions = admission.turned_away(Duration::ZERO, ticket, only, TurnedAway::Failed);
    assert!(
        matches!(&decisions[0].verdict, Verdict::Refused(AdmissionRefusal::NoRoute { .. })),
        "{decisions:?}"
    );
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut admission = admission(8, replicas(1));
    let (_, decisions) = admission.submit(Duration::ZERO, wanted("a", 5000));
    let refused = Verdict::Refused(AdmissionRefusal::TooLarge { positions: 5000, largest: 4096 });
    assert_eq!(decisions[0].verdict, refused);
    let gap = View::of_records(NOW, [Shard::new(1, 0, 10).record()]);
    admission.set_view(Duration::ZERO, gap);
    let (_, decisions) = admission.submit(Duration::ZERO, wanted("a", 10));
    assert!(matches!(&decisions[0].verdict, Verdict::Refused(AdmissionRefusal::NoRoute { .. })));
}

#[test]
fn waiting_ends_at_its_time_and_at_closing() {
    let mut admission = admission(8, replicas(1));
    submit(&mut admission, wanted("a", 4096));
    submit(&mut admission, wanted("a", 4096));
    assert_eq!(admission.expire(9 * SECOND), []);
    let decisions = admission.expire(10 * SECOND);
    assert!(matches!(&decisions[0].verdict, Verdict::Refused(AdmissionRefusal::Waited { .. })));
    submit(&mut admission, wanted("a", 4096));
    assert_eq!(admission.close().len(), 1);
    let (_, decisions) = admission.submit(Duration::ZERO, wanted("a", 1));
    assert_eq!(decisions[0].verdict, Verdict::Refused(AdmissionRefusal::Closed));
}

#[test]
fn one_that_lost_its_place_takes_another_at_once_and_waits_no_longer_than_it_would_have() {
    let mut admission = admission(8, replicas(2));
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 4096));
    let first = placed(&decisions)[0].1;
    // Its prompt took longer than it may wait; the other replica is free.
    let decisions = admission.turned_away(11 * SECOND, ticket, first, TurnedAway::Failed);
    let second = placed(&decisions)[0].1;
    assert_ne!(first, second);
    let decisions = admission.turned_away(12 * SECOND, ticket, second, NO_ROOM);
    let [Decision { verdict: Verdict::Refused(refusal), .. }] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(refusal.to_string(), "no place became free within 12000 ms");
}

#[test]
fn other_routers_sessions_count_and_own_ones_count_once() {
    let mut admission = admission(8, replicas(1));
    submit(&mut admission, wanted("a", 1000));
    let load = |kv_free| Some(Load { sessions: 2, kv_free, step_us: None, draining: false });
    let mut view = replicas(1);
    // The node has promised 2,000: our 1,000 and 1,000 of another router.
    view.measure(node(1), Measurement { load: load(2096), ..Measurement::default() });
    admission.set_view(SECOND, view);
    submit(&mut admission, wanted("a", 2000));
    assert_eq!(admission.placed(), 2);
    submit(&mut admission, wanted("a", 97));
    assert_eq!((admission.placed(), admission.waiting()), (2, 1));
}

#[test]
fn a_large_request_is_overtaken_a_bounded_number_of_times() {
    let mut admission = admission(64, replicas(1));
    let mut running = vec![submit(&mut admission, wanted("small", 2048))];
    let large = submit(&mut admission, wanted("large", 4096));
    let mut overtook = 0;
    loop {
        let (ticket, decisions) = admission.submit(SECOND, wanted("small", 1024));
        if decisions.is_empty() {
            break;
        }
        assert_eq!(placed(&decisions)[0].0, ticket);
        running.push(ticket);
        overtook += 1;
        if running.len() > 2 {
            admission.release(SECOND, running.remove(1));
        }
        assert!(overtook < 20, "the large request starves");
    }
    assert_eq!(overtook, OVERTAKEN);
    for ticket in running {
        admission.release(SECOND, ticket);
    }
    assert!(admission.placed.contains_key(&large));
}

/// A node with 2,048 positions taken, a large request that was overtaken as often as may be, and a small one behind
/// it that would fit.
fn held_back() -> (Admission, Ticket, Ticket) {
    let mut admission = admission(64, replicas(1));
    submit(&mut admission, wanted("runs", 2048));
    let large = submit(&mut admission, wanted("large", 4096));
    for _ in 0..OVERTAKEN {
        let (ticket, decisions) = admission.submit(SECOND, wanted("small", 1024));
        assert_eq!(placed(&decisions)[0].0, ticket);
        admission.release(SECOND, ticket);
    }
    let (small, decisions) = admission.submit(SECOND, Wanted { until: 60 * SECOND, ..wanted("small", 1024) });
    assert_eq!(decisions, []);
    (admission, large, small)
}

#[test]
fn one_that_gives_up_waiting_lets_those_behind_it_pass() {
    let (mut admission, large, small) = held_back();
    assert_eq!(placed(&admission.release(SECOND, large))[0].0, small);
}

#[test]
fn one_that_waited_too_long_lets_those_behind_it_pass() {
    let (mut admission, large, small) = held_back();
    let decisions = admission.expire(10 * SECOND);
    assert!(matches!(decisions[0].verdict, Verdict::Refused(AdmissionRefusal::Waited { .. })));
    assert_eq!((decisions[0].ticket, placed(&decisions[1..])[0].0), (large, small));
}

#[test]
fn however_many_tenants_wait_a_bounded_number_of_routes_is_looked_for() {
    let mut admission = admission(1000, replicas(1));
    submit(&mut admission, wanted("runs", 2048));
    // Each smaller than the one before, so that none is refused for another's sake.
    for tenant in 0..SCANNED as u32 {
        submit(&mut admission, wanted(&format!("t{tenant}"), 4096 - tenant));
    }
    // It would fit, and waits for the next change: the others have a claim before it.
    submit(&mut admission, wanted("u", 1024));
    assert_eq!((admission.placed(), admission.waiting()), (1, SCANNED + 1));
    // With equal ones in front it is found.
    let mut admission = self::admission(1000, replicas(1));
    submit(&mut admission, wanted("runs", 2048));
    for tenant in 0..200 {
        submit(&mut admission, wanted(&format!("t{tenant}"), 4096));
    }
    let (small_too, decisions) = admission.submit(SECOND, wanted("u", 1024));
    assert_eq!(placed(&decisions)[0].0, small_too);
}

proptest! {
    #[test]
    fn every_request_gets_one_verdict_and_nodes_are_never_overbooked(
        steps in prop::collection::vec((0u8..6, 0u32..4, 1u32..3000), 1..120),
    ) {
        let mut admission = admission(5, replicas(3));
        let (mut now, mut turned_away) = (Duration::ZERO, 0);
        let (mut waiting, mut running, mut over) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for (what, tenant, positions) in steps {
            now += SECOND;
            let decisions = match what {
                0..=2 => {
                    let asked = Wanted { until: now + 20 * SECOND, ..wanted(&format!("t{tenant}"), positions) };
                    let (ticket, decisions) = admission.submit(now, asked);
                    waiting.insert(ticket);
                    decisions
                }
                3 if !running.is_empty() => {
                    let (ticket, _): (Ticket, NodeId) = running.remove(tenant as usize % running.len());
                    over.insert(ticket);
                    admission.release(now, ticket)
                }
                4 if !running.is_empty() => {
                    let (ticket, at) = running.remove(tenant as usize % running.len());
                    waiting.insert(ticket);
                    turned_away += 1;
                    admission.turned_away(now, ticket, at, NO_ROOM)
                }
                5 => admission.expire(now),
                _ => admission.set_view(now, admission.ledger.empty_view().clone()),
            };
            for Decision { ticket, verdict } in decisions {
                prop_assert!(waiting.remove(&ticket), "{ticket:?} was decided twice");
                match verdict {
                    Verdict::Placed(route) => running.push((ticket, route.stages[0].node)),
                    Verdict::Refused(_) => drop(over.insert(ticket)),
                }
            }
            prop_assert_eq!(admission.waiting(), waiting.len());
            prop_assert_eq!(admission.placed(), running.len());
            // Those that nodes turned away come on top: they had a place.
            prop_assert!(admission.waiting() <= 5 + turned_away);
            let mut taken = BTreeMap::<NodeId, u64>::new();
            for placed in admission.placed.values() {
                *taken.entry(placed.on.stages[0].0).or_default() += u64::from(placed.wanted.positions);
            }
            prop_assert!(taken.values().all(|&taken| taken <= 4096), "{:?}", taken);
        }
    }
}
