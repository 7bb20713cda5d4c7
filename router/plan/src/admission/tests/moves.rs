//! Sessions that go on at another place.

use proto::tensor::NumericsClass::{Bf16, Int8};

use super::*;

/// Two nodes for each half of the model.
fn pairs() -> View {
    let halves = [(1, 0, 15), (2, 0, 15), (3, 15, 30), (4, 15, 30)];
    View::of_records(NOW, halves.map(|(number, start, end)| Shard::new(number, start, end).record()))
}

fn route(decisions: &[Decision]) -> Vec<NodeId> {
    match decisions {
        [Decision { verdict: Verdict::Placed(route), .. }] => nodes(route),
        other => panic!("{other:?}"),
    }
}

fn nodes(route: &Route) -> Vec<NodeId> {
    route.stages.iter().map(|stage| stage.node).collect()
}

/// What a node says of itself.
fn says(view: &mut View, number: u8, load: Load) {
    view.measure(node(number), Measurement { load: Some(load), ..Measurement::default() });
}

fn load(sessions: u32, draining: bool) -> Load {
    Load { sessions, kv_free: 4096, draining, step_us: None }
}

#[test]
fn after_a_loss_the_nodes_that_hold_its_rows_are_kept_though_others_are_idle() {
    let mut admission = admission(8, pairs());
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 100));
    let before = route(&decisions);
    // Much goes on at the first stage, and nothing at its like.
    let mut view = pairs();
    let number = |of: NodeId| (1..=4).find(|&number| node(number) == of).unwrap();
    says(&mut view, number(before[0]), load(20, false));
    admission.set_view(SECOND, view);
    let after = route(&admission.lost(SECOND, ticket, (before[1], TurnedAway::Failed), 2 * SECOND));
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    // A second loss: of those that held its rows only the one that is left counts.
    let last = route(&admission.lost(SECOND, ticket, (after[0], TurnedAway::Failed), 2 * SECOND));
    assert_eq!(last[1], after[1]);
    assert_ne!(last[0], after[0]);
}

#[test]
fn a_router_that_takes_nothing_new_finishes_what_lost_a_node() {
    let mut admission = admission(8, pairs());
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 100));
    let before = route(&decisions);
    assert_eq!(admission.close(), []);
    let after = route(&admission.lost(SECOND, ticket, (before[1], TurnedAway::Failed), 2 * SECOND));
    assert_eq!(after[0], before[0]);
    let (_, decisions) = admission.submit(SECOND, wanted("a", 100));
    assert!(matches!(decisions[0].verdict, Verdict::Refused(AdmissionRefusal::Closed)), "{decisions:?}");
}

#[test]
fn an_answer_goes_on_in_the_class_it_began_in() {
    let shard = |number, class| Shard { class, ..Shard::new(number, 0, 30) }.record();
    let mut admission = admission(8, View::of_records(NOW, [shard(1, Bf16), shard(2, Int8), shard(3, Bf16)]));
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 100));
    let first = route(&decisions)[0];
    let class = if first == node(2) { Int8 } else { Bf16 };
    match (&admission.lost(SECOND, ticket, (first, TurnedAway::Failed), 2 * SECOND)[0].verdict, class) {
        (Verdict::Placed(route), Bf16) => assert_eq!(route.class, Bf16),
        (Verdict::Refused(_), Int8) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_leaves_a_draining_node_when_there_is_room_and_stays_until_then() {
    let mut admission = admission(8, pairs());
    let (ticket, decisions) = admission.submit(Duration::ZERO, wanted("a", 3000));
    let before = route(&decisions);
    assert_eq!(admission.leaving(ticket), None);
    // The other one of the second half is full of somebody else's sessions.
    let other = if before[1] == node(3) { 4 } else { 3 };
    let mut view = pairs();
    says(&mut view, 7 - other, load(1, true));
    says(&mut view, other, Load { kv_free: 100, ..load(9, false) });
    admission.set_view(SECOND, view.clone());
    assert_eq!(admission.leaving(ticket), Some(before[1]));
    assert_eq!(admission.leave(SECOND, ticket, before[1]), None);
    assert_eq!(admission.leaving(ticket), Some(before[1]), "it has kept its place");
    assert_eq!((admission.placed(), admission.waiting()), (1, 0));
    says(&mut view, other, load(0, false));
    admission.set_view(SECOND, view);
    let route = admission.leave(SECOND, ticket, before[1]).unwrap();
    assert_eq!(nodes(&route), [before[0], node(other)]);
    assert_eq!(admission.leaving(ticket), None);
    assert_eq!(admission.leaving(Ticket(99)), None, "nobody");
    assert_eq!(admission.leave(SECOND, Ticket(99), before[1]), None);
}

#[test]
fn of_two_nodes_that_can_not_reach_each_other_both_are_left_if_that_is_possible_and_else_one() {
    let mut all = admission(8, pairs());
    let (ticket, decisions) = all.submit(Duration::ZERO, wanted("a", 100));
    let before = route(&decisions);
    let parted = (before[1], TurnedAway::Parted { from: before[0] });
    let after = route(&all.lost(SECOND, ticket, parted, 2 * SECOND));
    assert!(after.iter().all(|node| !before.contains(node)), "{before:?}, {after:?}");
    // Only one holds the first half: the other one of the two has to go.
    let halves = [(1, 0, 15), (3, 15, 30), (4, 15, 30)];
    let view =
        View::of_records(NOW, halves.map(|(number, start, end)| Shard::new(number, start, end).record()));
    for (node, from) in [(0, 1), (1, 0)] {
        let mut few = admission(8, view.clone());
        let (ticket, decisions) = few.submit(Duration::ZERO, wanted("a", 100));
        let before = route(&decisions);
        let parted = (before[node], TurnedAway::Parted { from: before[from] });
        let after = route(&few.lost(SECOND, ticket, parted, 2 * SECOND));
        assert_eq!(after[0], before[0]);
        assert_ne!(after[1], before[1]);
    }
}
