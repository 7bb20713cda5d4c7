//! Turns and shares by name, then random use against a plain count.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const ONE: Flow<u32> = Flow { tenant: 0, weight: 1 };

fn flow(tenant: u32, weight: u32) -> Flow<u32> {
    Flow { tenant, weight }
}

fn whole(_: u32, offered: u32) -> u32 {
    offered
}

#[test]
fn prefills_take_turns_in_the_order_they_came() {
    let mut scheduler = Scheduler::new(RowBudget::new(4));
    scheduler.push_prefill(1, ONE, 9);
    scheduler.push_prefill(2, ONE, 4);
    scheduler.push_prefill(3, ONE, 1);
    let order: Vec<_> = std::iter::from_fn(|| scheduler.next(StepCaps::NONE, whole))
        .map(|plan| plan.prefill.unwrap())
        .collect();
    assert_eq!(order, [(1, 4), (2, 4), (3, 1), (1, 4), (1, 1)]);
}

#[test]
fn a_prefill_is_not_starved_by_decode_rows() {
    // Together, as far as the budget goes and beyond it by the floor; by turns where the chunk has to go alone.
    for (beside, turns) in [(u32::MAX, [(4, 1), (4, 1)]), (0, [(4, 0), (0, 4)])] {
        let mut scheduler = Scheduler::new(RowBudget::new(4));
        scheduler.push_prefill(99, ONE, 40);
        for round in 0..6 {
            (0..6).for_each(|key| scheduler.push_decode(key, ONE));
            let plan = scheduler.next(StepCaps { beside, ..StepCaps::NONE }, whole).unwrap();
            let rows = plan.prefill.map_or(0, |(_, rows)| rows);
            assert_eq!((plan.decode.len(), rows), turns[round % 2], "{beside}, {round}");
        }
    }
}

#[test]
fn a_long_chunk_goes_alone_after_the_rows_that_are_ready_and_a_short_one_with_them() {
    let caps = StepCaps { beside: 8, ..StepCaps::NONE };
    let mut scheduler = Scheduler::new(RowBudget::new(64));
    scheduler.push_prefill(99, ONE, 128);
    scheduler.push_prefill(98, ONE, 7);
    scheduler.push_decode(1, ONE);
    let plan = scheduler.next(caps, whole).unwrap();
    assert_eq!(
        plan,
        StepPlan { decode: vec![1], prefill: Some((98, 7)), also: vec![] },
        "the short one overtakes"
    );
    scheduler.push_decode(2, ONE);
    let plan = scheduler.next(caps, whole).unwrap();
    assert_eq!(
        plan,
        StepPlan { decode: vec![], prefill: Some((99, 64)), also: vec![] },
        "it has let others go first, once"
    );
    // Under way, it leaves the pauses to the rows, and nothing else begins.
    let pause = StepCaps { prefill: 0, ..caps };
    assert_eq!(
        scheduler.next(pause, whole).unwrap(),
        StepPlan { decode: vec![2], prefill: None, also: vec![] }
    );
    assert_eq!(scheduler.next(pause, whole), None);
    assert_eq!(scheduler.next(caps, whole).unwrap().prefill, Some((99, 64)));
}

#[test]
fn short_chunks_of_several_sessions_share_a_step_and_what_is_longer_is_not_cut_for_it() {
    let caps = StepCaps { beside: 8, ..StepCaps::NONE };
    let mut scheduler = Scheduler::new(RowBudget::new(64));
    for (key, rows) in [(1, 3), (2, 3), (3, 3), (4, 2), (5, 40)] {
        scheduler.push_prefill(key, ONE, rows);
    }
    let plan = scheduler.next(caps, whole).unwrap();
    assert_eq!((plan.prefill, plan.also), (Some((1, 3)), vec![(2, 3), (4, 2)]));
    let plan = scheduler.next(caps, whole).unwrap();
    assert_eq!((plan.prefill, plan.also), (Some((3, 3)), vec![]));
    let plan = scheduler.next(caps, whole).unwrap();
    assert_eq!((plan.prefill, plan.also), (Some((5, 40)), vec![]));
    // Under way beside others' rows they do not go together either.
    scheduler.push_prefill(1, ONE, 3);
    scheduler.push_prefill(2, ONE, 3);
    let plan = scheduler.next(StepCaps { beside: 0, ..caps }, whole).unwrap();
    assert_eq!((plan.prefill, plan.also), (Some((1, 3)), vec![]));
}

#[test]
fn a_chunk_that_is_gone_or_blocked_when_its_turn_comes_holds_nobody_back() {
    let caps = StepCaps { beside: 8, ..StepCaps::NONE };
    for cancelled in [true, false] {
        let mut scheduler = Scheduler::new(RowBudget::new(64));
        scheduler.push_prefill(99, ONE, 128);
        scheduler.push_decode(1, ONE);
        assert_eq!(scheduler.next(caps, whole).unwrap().decode, [1]);
        if cancelled {
            scheduler.cancel(99);
        }
        scheduler.push_decode(2, ONE);
        assert_eq!(scheduler.next(caps, |_, _| 0).unwrap().decode, [2]);
    }
}

#[test]
fn what_a_flow_has_used_is_remembered_while_it_waits_for_its_next_row() {
    let mut scheduler = Scheduler::new(RowBudget::new(16));
    let mut rows = [0; 3];
    for step in 0..90 {
        // Weight 1 is ready every other step and weight 4 always; a third weight comes and goes in between.
        scheduler.push_prefill(1, flow(1, 4), 16);
        if step % 2 == 0 {
            scheduler.push_prefill(0, flow(1, 1), 16);
        } else {
            scheduler.push_decode(2, flow(1, 2));
        }
        if let Some((key, _)) = scheduler.next(StepCaps::NONE, whole).unwrap().prefill {
            rows[key as usize] += 1;
        }
    }
    assert!(rows[0] <= 90 / 5 + 1, "{rows:?}");
}

#[test]
fn a_cancelled_session_has_no_row_in_the_next_step() {
    let mut scheduler = Scheduler::new(RowBudget::new(4));
    scheduler.push_decode(1, ONE);
    scheduler.push_prefill(1, ONE, 3);
    scheduler.push_decode(2, ONE);
    scheduler.cancel(1);
    let next = scheduler.next(StepCaps::NONE, whole);
    assert_eq!(next, Some(StepPlan { decode: vec![2], prefill: None, also: vec![] }));
    assert_eq!(scheduler.next(StepCaps::NONE, whole), None);
    assert!(scheduler.is_idle());
}

#[test]
fn a_prefill_that_must_wait_lets_the_next_one_pass_and_keeps_its_place() {
    let mut scheduler = Scheduler::new(RowBudget::new(4));
    scheduler.push_prefill(1, ONE, 5);
    scheduler.push_prefill(2, ONE, 9);
    let blocked = |key, offered| if key == 1 { 0 } else { offered };
    assert_eq!(scheduler.next(StepCaps::NONE, blocked).unwrap().prefill, Some((2, 4)));
    assert_eq!(scheduler.next(StepCaps::NONE, whole).unwrap().prefill, Some((1, 4)));
    assert_eq!(scheduler.next(StepCaps::NONE, |_, _| 0), None);
    assert_eq!(scheduler.waiting_rows(), 6);
}

#[test]
fn caps_cut_a_step_and_may_hold_back_decode_rows() {
    let mut scheduler = Scheduler::new(RowBudget::new(64));
    (0..8).for_each(|key| scheduler.push_decode(key, ONE));
    scheduler.push_prefill(99, ONE, 60);
    let caps = |decode, prefill| StepCaps { decode, prefill, ..StepCaps::NONE };
    let plan = scheduler.next(caps(3, 16), whole).unwrap();
    assert_eq!((plan.decode, plan.prefill), (vec![0, 1, 2], Some((99, 16))));
    let plan = scheduler.next(caps(0, 1), whole).unwrap();
    assert_eq!((plan.decode, plan.prefill), (vec![], Some((99, 4))), "a prompt is never starved");
}

/// Serves what always waits for `steps` steps, and gives the rows of each key.
fn served(flows: &[(u32, Flow<u32>)], prefill: bool, steps: u32) -> HashMap<u32, u32> {
    let mut scheduler = Scheduler::new(RowBudget::new(16));
    let mut rows = HashMap::new();
    for _ in 0..steps {
        for &(key, flow) in flows {
            if prefill { scheduler.push_prefill(key, flow, 64) } else { scheduler.push_decode(key, flow) }
        }
        let plan = scheduler.next(StepCaps::NONE, whole).unwrap();
        plan.decode.into_iter().for_each(|key| *rows.entry(key).or_default() += 1);
        if let Some((key, chunk)) = plan.prefill {
            *rows.entry(key).or_default() += chunk;
        }
    }
    rows
}

#[test]
fn a_tenant_with_many_sessions_gets_no_more_than_one_with_few() {
    // 60 decode rows of one tenant and 20 of another one for 16 places.
    let flows: Vec<_> = (0..80).map(|key| (key, flow(u32::from(key >= 60), 1))).collect();
    let rows = served(&flows, false, 100);
    let first: u32 = (0..60).map(|key| rows[&key]).sum();
    assert!((799..=801).contains(&first), "{first} of 1600");
    // 9 prefills of one tenant and 1 of another one.
    let flows: Vec<_> = (0..10).map(|key| (key, flow(u32::from(key == 9), 1))).collect();
    let rows = served(&flows, true, 100);
    assert_eq!(rows[&9], 800);
}

#[test]
fn weights_divide_a_tenants_share_and_nobody_is_starved() {
    let flows = [(1, flow(1, 16)), (2, flow(1, 4)), (3, flow(1, 1))];
    let rows = served(&flows, true, 210);
    assert_eq!((rows[&1], rows[&2], rows[&3]), (2560, 640, 160));
    // Decode rows: 40 of each for 16 places.
    let flows: Vec<_> = (0..120).map(|key| (key, flow(1, [16, 4, 1][key as usize / 40]))).collect();
    let rows = served(&flows, false, 105);
    let of = |priority: u32| (0..40).map(|key| rows[&(priority * 40 + key)]).sum::<u32>();
    assert!(of(0).abs_diff(1280) <= 2 && of(1).abs_diff(320) <= 2 && of(2).abs_diff(80) <= 2);
}

#[test]
fn a_tenant_that_uses_every_priority_gets_one_share() {
    let flows = [(1, flow(1, 16)), (2, flow(1, 4)), (3, flow(1, 1)), (4, flow(2, 1))];
    let rows = served(&flows, true, 200);
    assert_eq!(rows[&4], 1600, "{rows:?}");
    let flows: Vec<_> = (0..80).map(|key| (key, flow(key / 60, [16, 4, 1, 1][key as usize / 20]))).collect();
    let rows = served(&flows, false, 100);
    let second: u32 = (60..80).map(|key| rows[&key]).sum();
    assert!((799..=801).contains(&second), "{second} of 1600");
}

#[test]
fn idle_time_is_not_saved_up() {
    let mut scheduler = Scheduler::new(RowBudget::new(16));
    for _ in 0..50 {
        scheduler.push_prefill(1, flow(1, 1), 16);
        scheduler.next(StepCaps::NONE, whole).unwrap();
    }
    let mut turns = Vec::new();
    for _ in 0..6 {
        scheduler.push_prefill(1, flow(1, 1), 16);
        scheduler.push_prefill(2, flow(2, 1), 16);
        turns.push(scheduler.next(StepCaps::NONE, whole).unwrap().prefill.unwrap().0);
    }
    assert_eq!(turns.iter().filter(|&&key| key == 2).count(), 3, "{turns:?}");
}

#[derive(Debug, Clone)]
enum Move {
    Decode(u32),
    Prefill(u32, u32),
    Cancel(u32),
    Step { longest: u32, cap: u32, beside: u32 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let key = 0u32..6;
    prop::collection::vec(
        prop_oneof![
            key.clone().prop_map(Move::Decode),
            (key.clone(), 1u32..40).prop_map(|(k, rows)| Move::Prefill(k, rows)),
            key.prop_map(Move::Cancel),
            (1u32..40, 1u32..10, 0u32..10).prop_map(|(longest, cap, beside)| Move::Step {
                longest,
                cap,
                beside
            }),
        ],
        0..200,
    )
}

proptest! {
    /// Every row pushed and not cancelled is computed exactly once; as many decode rows as fit go into a step, unless
    /// it is a chunk's turn, which comes after each step that it let pass; and no step is over its budget by more than
    /// the floor.
    #[test]
    fn rows_are_neither_lost_nor_doubled(rows in 1u32..20, tenants in 1u32..4, moves in moves()) {
        let budget = RowBudget::new(rows);
        let of = |key: u32| flow(key % tenants, 1 + key % 3);
        let mut scheduler = Scheduler::new(budget);
        let mut decode: Vec<u32> = Vec::new();
        let mut prefill: HashMap<u32, u32> = HashMap::new();
        let mut without = 0;
        let all = Move::Step { longest: u32::MAX, cap: u32::MAX, beside: u32::MAX };
        for step in moves.into_iter().chain((0..8_200).map(|_| all.clone())) {
            match step {
                Move::Decode(key) => {
                    scheduler.push_decode(key, of(key));
                    if !decode.contains(&key) {
                        decode.push(key);
                    }
                }
                Move::Prefill(key, rows) => {
                    scheduler.push_prefill(key, of(key), rows);
                    *prefill.entry(key).or_default() += rows;
                }
                Move::Cancel(key) => {
                    scheduler.cancel(key);
                    decode.retain(|&k| k != key);
                    prefill.remove(&key);
                }
                Move::Step { longest, cap, beside } => {
                    let caps = StepCaps { decode: cap, prefill: cap, beside };
                    let Some(plan) = scheduler.next(caps, |_, _| longest) else {
                        prop_assert!(decode.is_empty() && prefill.is_empty());
                        without = 0;
                        continue;
                    };
                    let fits = decode.len().min(budget.rows.min(cap) as usize);
                    let turn = plan.decode.is_empty() && plan.prefill.is_some() && without > 0;
                    prop_assert!(plan.decode.len() == fits || turn, "{:?} of {}", plan, fits);
                    for key in &plan.decode {
                        let place = decode.iter().position(|k| k == key);
                        prop_assert!(place.is_some(), "a row that was not ready, or twice");
                        decode.remove(place.unwrap());
                    }
                    // A chunk lets no more than one step pass.
                    without = if plan.prefill.is_none() && !prefill.is_empty() { without + 1 } else { 0 };
                    prop_assert!(without <= 1);
                    let mut total = plan.decode.len() as u32;
                    let first = plan.prefill.map_or(0, |(_, rows)| rows);
                    let short: u32 = plan.also.iter().map(|&(_, rows)| rows).sum();
                    prop_assert!(short == 0 || first + short <= beside.min(cap), "{:?}", plan);
                    let mut keys: Vec<u32> = plan.prefill.iter().chain(&plan.also).map(|&(key, _)| key).collect();
                    let members = keys.len();
                    keys.sort_unstable();
                    keys.dedup();
                    prop_assert_eq!(keys.len(), members, "a session takes part once");
                    for (key, rows) in plan.prefill.into_iter().chain(plan.also) {
                        prop_assert!(rows >= 1 && rows <= longest && rows <= cap.max(budget.prefill_floor));
                        prop_assert!(plan.decode.is_empty() || rows <= beside);
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
