//! Which nodes a route is tried without, and when they are tried again.

use std::collections::{BTreeMap, BTreeSet};

use proto::record::{NodeRecord, ShardOffer, VerifiedRecord};
use proto::session::PlanStage;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeKey};

use super::*;
use crate::session::StageLabel;

const NOW: u64 = 10_000;

fn key(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

fn span(number: u8) -> LayerSpan {
    if number < 10 { LayerSpan::new(0, 5).unwrap() } else { LayerSpan::new(5, 12).unwrap() }
}

fn record(number: u8) -> VerifiedRecord {
    let record = NodeRecord {
        node: key(number).node_id(),
        addresses: vec![([127, 0, 0, 1], 7000 + u16::from(number)).into()],
        offer: Some(ShardOffer {
            model: ModelId::from_bytes([3; 32]),
            model_name: "toy".into(),
            n_layers: 12,
            span: span(number),
            class: NumericsClass::Exact,
            kv_capacity: 4096,
        }),
        version: "test".into(),
        sequence: 1,
        issued_unix_s: NOW,
        lease_s: 900,
        withdrawn: false,
    };
    record.sign(&key(number)).unwrap().verify(NOW).unwrap()
}

/// Nodes below ten hold the first layers, the others the rest.
fn view(nodes: &[u8]) -> View {
    View::of_records(NOW, nodes.iter().map(|&number| record(number)))
}

fn label(number: u8) -> StageLabel {
    let addr = ([127, 0, 0, 1], 7000 + u16::from(number)).into();
    StageLabel { stage: 0, at: PlanStage { node: key(number).node_id(), addr, span: span(number) } }
}

fn lost(number: u8) -> SessionError {
    SessionError::Lost { stage: label(number), why: "the peer fell silent".into() }
}

fn parted(number: u8, by: u8) -> SessionError {
    SessionError::Parted { stage: label(number), by: Box::new(label(by)), why: "no answer".into() }
}

/// The route's nodes by number.
fn without(avoided: &mut Avoided, lost: &SessionError, view: &View, now: Instant) -> Result<Vec<u8>, String> {
    let wanted = RouteRequest {
        model: ModelId::from_bytes([3; 32]),
        n_layers: 12,
        class: None,
        max_positions: 10,
        exclude: BTreeSet::new(),
        prefer: BTreeMap::new(),
        standby: false,
    };
    let route = avoided.without((lost.avoid().unwrap(), lost), (view, &wanted), now)?;
    let number = |node| (0..30).find(|&number| key(number).node_id() == node).unwrap();
    Ok(route.stages.iter().map(|stage| number(stage.node)).collect())
}

#[test]
fn of_two_that_can_not_reach_each_other_neither_is_used_where_others_have_their_layers() {
    let now = Instant::now();
    let route = |nodes: &[u8]| without(&mut Avoided::default(), &parted(10, 1), &view(nodes), now).unwrap();
    assert_eq!(route(&[1, 2, 10, 11]), [2, 11]);
    assert_eq!(route(&[1, 10, 11]), [1, 11]);
    assert_eq!(route(&[1, 2, 10]), [2, 10]);
}

#[test]
fn a_suspect_is_asked_again_at_once_where_the_only_other_one_is_lost() {
    let (now, view, mut avoided) = (Instant::now(), view(&[1, 2, 10, 11]), Avoided::default());
    assert_eq!(without(&mut avoided, &parted(10, 1), &view, now).unwrap(), [2, 11]);
    assert_eq!(without(&mut avoided, &lost(11), &view, now).unwrap()[1], 10);
}

#[test]
fn a_lost_node_is_asked_again_after_a_while_and_with_nobody_left_the_layers_are_named() {
    let (now, view, mut avoided) = (Instant::now(), view(&[1, 10, 11]), Avoided::default());
    assert_eq!(without(&mut avoided, &lost(10), &view, now).unwrap(), [1, 11]);
    let soon = without(&mut avoided, &lost(11), &view, now + BACK_AFTER / 2).unwrap_err();
    assert!(soon.contains("layers 5..12 are held by nobody"), "{soon}");
    assert_eq!(without(&mut avoided, &lost(11), &view, now + BACK_AFTER).unwrap(), [1, 10]);
}

#[test]
fn who_had_not_answered_yet_comes_last_and_who_can_not_be_reached_never() {
    let (now, mut view) = (Instant::now(), view(&[1, 10, 11, 12]));
    view.mark_unreachable(key(10).node_id(), "refused");
    view.mark_late(key(11).node_id(), "it did not answer within 200 ms");
    let mut avoided = Avoided::default();
    assert_eq!(without(&mut avoided, &lost(12), &view, now).unwrap(), [1, 11]);
    assert!(without(&mut avoided, &lost(11), &view, now).is_err());
}
