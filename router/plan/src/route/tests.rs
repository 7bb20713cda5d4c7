//! Route choice and its explanation: examples, then properties over random swarms.

use proptest::prelude::*;

use super::*;
use crate::explain::{Verdict, explain};
use crate::measurement::{Load, Measurement};
use crate::testing::{NOW, Shard, model, node};

fn view(shards: &[Shard]) -> View {
    View::of_records(NOW, shards.iter().map(Shard::record))
}

fn request() -> RouteRequest {
    RouteRequest {
        model: model(3),
        n_layers: 30,
        class: None,
        max_positions: 100,
        exclude: BTreeSet::new(),
        prefer: BTreeMap::new(),
        standby: false,
    }
}

fn taken(view: &View) -> Vec<NodeId> {
    choose_route(view, &request()).unwrap().stages.iter().map(|stage| stage.node).collect()
}

#[test]
fn three_spans_make_a_route_in_order() {
    let view = view(&[Shard::new(1, 20, 30), Shard::new(2, 0, 10), Shard::new(3, 10, 20)]);
    assert_eq!(taken(&view), [node(2), node(3), node(1)]);
    let plan = choose_route(&view, &request()).unwrap().to_plan();
    assert!(plan.check().is_ok());
}

#[test]
fn a_gap_is_named() {
    let view = view(&[Shard::new(1, 0, 10), Shard::new(2, 20, 30)]);
    let error = choose_route(&view, &request()).unwrap_err();
    assert!(error.to_string().contains("layers 10..20 are held by nobody"), "{error}");
}

#[test]
fn where_nobody_can_be_used_the_error_names_a_class_that_is_offered_and_all_layers() {
    let mut view = view(&[Shard { class: NumericsClass::Exact, ..Shard::new(1, 0, 30) }]);
    view.mark_unreachable(node(1), "did not answer");
    let error = choose_route(&view, &request()).unwrap_err().to_string();
    assert!(error.contains("in class exact: layers 0..30 are held by nobody"), "{error}");
}

#[test]
fn overlapping_spans_are_cut_where_it_is_fastest() {
    let mut view = view(&[Shard::new(1, 0, 20), Shard::new(2, 10, 30)]);
    let spans = |view: &View| -> Vec<String> {
        choose_route(view, &request()).unwrap().stages.iter().map(|stage| stage.span.to_string()).collect()
    };
    let step = |step_us| Measurement {
        load: Some(Load { sessions: 0, kv_free: 4096, step_us: Some(step_us), draining: false }),
        ..Measurement::default()
    };
    view.measure(node(1), step(1_000));
    view.measure(node(2), step(9_000));
    assert_eq!(spans(&view), ["0..20", "20..30"]);
    view.measure(node(1), step(30_000));
    assert_eq!(spans(&view), ["0..10", "10..30"]);
    // What it costs is that of the parts.
    assert_eq!(choose_route(&view, &request()).unwrap().expected_us, 15_000 + 150 + 9_000);
}

#[test]
fn whoever_holds_rows_for_a_part_keeps_it_and_another_one_takes_what_is_lost() {
    // The one that held 0..15 is gone; nobody's span ends where the other one's part begins.
    let view = view(&[Shard::new(2, 9, 30), Shard::new(3, 0, 22)]);
    let prefer = BTreeMap::from([(node(2), LayerSpan::new(15, 30).unwrap())]);
    let route = choose_route(&view, &RouteRequest { prefer, ..request() }).unwrap();
    let stages: Vec<_> = route.stages.iter().map(|stage| (stage.node, stage.span.to_string())).collect();
    assert_eq!(stages, [(node(3), "0..15".into()), (node(2), "15..30".into())]);
    assert_eq!(route.expected_us, 30_150, "what the rows are worth is no time of a token");
}

#[test]
fn a_node_takes_part_once_even_if_another_one_is_faster_in_the_midst_of_its_layers() {
    let mut view = view(&[Shard::new(1, 0, 30), Shard::new(2, 10, 20)]);
    let slow = Load { sessions: 0, kv_free: 4096, step_us: Some(900_000), draining: false };
    let fast = Load { step_us: Some(1), ..slow };
    view.measure(node(1), Measurement { load: Some(slow), ..Measurement::default() });
    view.measure(node(2), Measurement { load: Some(fast), ..Measurement::default() });
    let route = choose_route(&view, &request()).unwrap();
    assert_eq!(route.stages.len(), 1);
    assert_eq!(route.expected_us, 900_000);
}

#[test]
fn more_odd_spans_than_cuts_are_looked_at_hide_no_route() {
    // More cuts than are looked at, with a single way through.
    let mut shards: Vec<_> = (0..15).map(|at| Shard::new(at as u8 + 1, at * 2, at * 2 + 2)).collect();
    shards.extend((0..200).map(|at| Shard::new(at as u8 + 20, at % 29, at % 29 + 1)));
    shards.retain(|shard| shard.span.start() != 13 || shard.span.len() == 2);
    assert!(choose_route(&view(&shards), &request()).is_ok());
}

#[test]
fn classes_are_never_mixed() {
    let exact = |shard: Shard| Shard { class: NumericsClass::Exact, ..shard };
    let view = view(&[Shard::new(1, 0, 15), exact(Shard::new(2, 15, 30))]);
    assert!(matches!(choose_route(&view, &request()), Err(RouteError::Gap { .. })));
    let other = RouteRequest { class: Some(NumericsClass::Exact), ..request() };
    let explanation = explain(&view, &other);
    assert_eq!(explanation.gaps.to_string(), "layers 0..15 are held by nobody");
    assert!(
        explanation.nodes.iter().any(|v| v.verdict == Verdict::OtherClass { class: NumericsClass::Bf16 })
    );
}

#[test]
fn fewer_hops_win_and_measured_speed_wins_over_them() {
    let shards = [Shard::new(1, 0, 15), Shard::new(2, 15, 30), Shard::new(3, 0, 30)];
    let mut view = view(&shards);
    assert_eq!(taken(&view), [node(3)]);
    let load = Load { sessions: 0, kv_free: 4096, step_us: Some(90_000), draining: false };
    view.measure(node(3), Measurement { load: Some(load), ..Measurement::default() });
    assert_eq!(taken(&view), [node(1), node(2)]);
    let slower = explain(&view, &request()).nodes.into_iter().find(|v| v.node == node(3)).unwrap();
    assert_eq!(slower.verdict, Verdict::Slower { by_us: 45_000 - 15_000 });
}

#[test]
fn nodes_that_cannot_serve_are_left_out_with_the_reason() {
    let shards = [
        Shard::new(1, 0, 30),
        Shard { issued_unix_s: NOW - 1000, ..Shard::new(2, 0, 30) },
        Shard::new(3, 0, 30),
        Shard::new(4, 0, 30),
        Shard { model: model(9), ..Shard::new(5, 0, 30) },
        Shard { n_layers: 31, ..Shard::new(6, 0, 30) },
        Shard::new(7, 0, 30),
    ];
    let mut view = view(&shards);
    view.mark_unreachable(node(3), "did not answer");
    let full = Load { sessions: 9, kv_free: 7, step_us: None, draining: false };
    view.measure(node(4), Measurement { load: Some(full), ..Measurement::default() });
    view.measure(
        node(7),
        Measurement { load: Some(Load { draining: true, ..full }), ..Measurement::default() },
    );
    let of = |number| {
        explain(&view, &request()).nodes.into_iter().find(|v| v.node == node(number)).unwrap().verdict
    };
    assert_eq!(of(1), Verdict::Taken { stage: 0 });
    assert_eq!(of(2), Verdict::Expired { ago_s: 100 });
    assert_eq!(of(3), Verdict::Unreachable { why: "did not answer".into() });
    assert_eq!(of(4), Verdict::NoRoom { free: 7, wanted: 100 });
    assert_eq!(of(5), Verdict::OtherModel);
    assert_eq!(of(6), Verdict::WrongLayerCount { announced: 31 });
    assert_eq!(of(7), Verdict::Draining);
}

#[test]
fn nobody_in_this_class_says_in_which_it_is_offered() {
    let view = view(&[Shard::new(1, 0, 30)]);
    let wanted = RouteRequest { class: Some(NumericsClass::Exact), ..request() };
    let error = choose_route(&view, &wanted).unwrap_err();
    assert!(error.to_string().contains("it is offered in class bf16"), "{error}");
}

fn swarm() -> impl Strategy<Value = Vec<Shard>> {
    let shard = (0u32..30, 1u32..=30, any::<bool>()).prop_map(|(start, len, exact)| {
        let class = if exact { NumericsClass::Exact } else { NumericsClass::Bf16 };
        Shard { class, ..Shard::new(0, start, (start + len).min(30)) }
    });
    // Boundaries at multiples of five make spans that meet likely.
    let meeting = (0u32..6, 1u32..=6, any::<bool>()).prop_map(|(start, len, exact)| {
        let class = if exact { NumericsClass::Exact } else { NumericsClass::Bf16 };
        Shard { class, ..Shard::new(0, start * 5, ((start + len) * 5).min(30)) }
    });
    prop::collection::vec(prop_oneof![1 => shard, 3 => meeting], 0..10).prop_map(|mut shards| {
        for (number, shard) in (1u8..).zip(&mut shards) {
            shard.number = number;
        }
        shards
    })
}

/// Whether each layer is held in the class.
fn all_are_held(shards: &[Shard], class: NumericsClass) -> bool {
    let held = |layer| {
        shards
            .iter()
            .any(|shard| shard.class == class && (shard.span.start()..shard.span.end()).contains(&layer))
    };
    (0..30).all(held)
}

proptest! {
    #[test]
    fn a_route_tiles_the_model_in_one_class_and_is_found_whenever_one_exists(shards in swarm()) {
        let view = view(&shards);
        let exists = [NumericsClass::Bf16, NumericsClass::Exact].iter().any(|&c| all_are_held(&shards, c));
        match choose_route(&view, &request()) {
            Ok(route) => {
                prop_assert!(exists);
                prop_assert!(route.to_plan().check().is_ok());
                for stage in &route.stages {
                    let offer = view.node(stage.node).unwrap().offer().unwrap();
                    prop_assert_eq!(offer.class, route.class);
                    prop_assert!(offer.span.holds(stage.span));
                }
            }
            Err(error) => {
                prop_assert!(!exists, "{}", error);
                if let RouteError::Gap { class, gaps, .. } = &error {
                    let held = |layer| shards.iter().any(|s| s.class == *class && s.span.contains(layer));
                    prop_assert!(gaps.spans().iter().flat_map(|gap| gap.layers()).all(|layer| !held(layer)));
                    prop_assert!(!gaps.is_empty());
                }
            }
        }
    }

    #[test]
    fn decisions_do_not_depend_on_the_order_of_records(shards in swarm()) {
        let backwards: Vec<_> = shards.iter().rev().cloned().collect();
        prop_assert_eq!(explain(&view(&shards), &request()), explain(&view(&backwards), &request()));
    }

    #[test]
    fn no_verdict_beats_the_chosen_route(shards in swarm()) {
        let explanation = explain(&view(&shards), &request());
        if let Ok(route) = &explanation.route {
            let taken = explanation.nodes.iter().filter(|v| matches!(v.verdict, Verdict::Taken { .. })).count();
            prop_assert_eq!(taken, route.stages.len());
        }
    }
}
