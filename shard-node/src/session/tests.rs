//! Whole pipelines of session tables and toy stages in one thread, with a network that delays, doubles and reorders
//! across links, and every rule of order by itself.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use proto::activation::{Activations, RowGroup};
use proto::prefix::{TenantId, reusable_blocks};
use proto::session::{Finish, Open, Plan, PlanStage, ResumeTerms, SamplingParams, TailTerms};
use proto::status::{Refusal, RefusalCode};
use proto::tensor::{NumericsClass, WireDtype};
use proto::{Added, Generation, LayerSpan, ModelId, SessionId};
use shard_node_stage::{RowBudget, Stage, StageShape, StepOutput, ToyModel, ToyStage};

use super::table::{Admitted, Effect, LinkId, Replayed, SessionTable, TableLimits};
use super::*;

mod ends;
mod pipelining;
mod resume;
mod reuse;
mod ring;
mod standby;

use ring::*;

#[derive(Debug, Clone)]
struct Asked {
    prompt: Vec<u32>,
    max_tokens: u32,
}

fn asked() -> impl Strategy<Value = Asked> {
    (prop::collection::vec(0u32..64, 1..40), 1u32..12)
        .prop_map(|(prompt, max_tokens)| Asked { prompt, max_tokens })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the interleaving of steps, deliveries and credit, and with frames doubled, each session's answer is
    /// the model's, and nothing is left behind.
    #[test]
    fn any_interleaving_gives_the_models_answer(
        parts in 1u32..5,
        budget in 1u32..20,
        sessions in prop::collection::vec(asked(), 1..5),
        moves in prop::collection::vec((0u8..6, any::<u8>(), any::<bool>()), 0..400),
    ) {
        let mut ring = Ring::new(parts, budget);
        for (number, asked) in sessions.iter().enumerate() {
            ring.open(number as u64, 0, &asked.prompt, asked.max_tokens).unwrap();
            ring.prompt(number as u64, 0, &asked.prompt);
            if number % 2 == 0 {
                ring.prompt(number as u64, 0, &asked.prompt);
            }
        }
        for (kind, which, twice) in moves {
            let stage = usize::from(which) % ring.stages.len();
            let hop = usize::from(which) % ring.stages.len().saturating_sub(1).max(1);
            match kind {
                0 | 1 => drop(ring.step(stage)),
                2 if parts > 1 => drop(ring.deliver(hop, true, twice)),
                3 if parts > 1 => drop(ring.deliver(hop, false, twice)),
                4 => drop(ring.deliver_return(twice)),
                _ => {
                    let number = usize::from(which) % sessions.len();
                    let end = sessions[number].prompt.len() as u32;
                    ring.credit(number as u64, 0, end + u32::from(which) % 8);
                }
            }
        }
        for number in 0..sessions.len() {
            ring.credit(number as u64, 0, u32::MAX);
        }
        ring.run();
        for (number, asked) in sessions.iter().enumerate() {
            prop_assert_eq!(ring.failures(number as u64), vec![]);
            prop_assert_eq!(ring.tokens(number as u64), MODEL.answer(&asked.prompt, asked.max_tokens as usize));
            for stage in 0..ring.stages.len() {
                ring.control(stage, number as u64, 0, Event::Close(CloseCode::Finished));
            }
        }
        ring.assert_empty();
    }
}

#[test]
fn nothing_runs_beyond_credit() {
    let mut ring = Ring::new(3, 8);
    ring.open(1, 0, &[1, 2, 3], 20).unwrap();
    ring.prompt(1, 0, &[1, 2, 3]);
    ring.run();
    assert_eq!(ring.tokens(1).len(), 1, "the prompt gives one token");
    ring.credit(1, 0, 5);
    ring.run();
    assert_eq!(ring.tokens(1).len(), 3, "rows 3 and 4 ran");
    ring.credit(1, 0, 4);
    ring.run();
    assert_eq!(ring.tokens(1).len(), 3, "credit does not shrink and does not run twice");
    ring.credit(1, 0, 100);
    ring.run();
    assert_eq!(ring.tokens(1), MODEL.answer(&[1, 2, 3], 20));
}

#[test]
fn eos_and_length_end_the_answer() {
    let answer = MODEL.answer(&[7], 8);
    let mut ring = Ring::new(2, 8);
    let eos = answer[3];
    let first = answer.iter().position(|&token| token == eos).unwrap();
    for stage in [1, 0] {
        let mut open = open(2, stage, 1, 0, &[7], 8);
        if let Some(tail) = &mut open.tail {
            tail.eos = vec![eos];
        }
        let terms = ring.stages[stage as usize].0.admit(ring.now, router(), &open).1.unwrap().terms;
        let key = terms.key;
        let slot = ring.stages[stage as usize].1.open(16).unwrap();
        ring.stages[stage as usize].0.insert(ring.now, terms, slot, None);
        ring.stages[stage as usize].0.attach(key, Generation::new(0), LinkId(u64::from(stage)));
    }
    ring.prompt(1, 0, &[7]);
    ring.credit(1, 0, 100);
    ring.run();
    assert_eq!(ring.tokens(1), answer[..=first]);
    let Some(Report::Sampled(last)) = ring.reports[&id(1)].last() else { panic!("a token") };
    assert_eq!(last.finish, Finish::Eos);
}

#[test]
fn a_newer_generation_takes_over_and_older_frames_are_dropped() {
    let mut ring = Ring::new(2, 64);
    ring.open(1, 0, &[1, 2, 3], 9).unwrap();
    ring.prompt(1, 0, &[1, 2, 3]);
    ring.step(0);
    assert_eq!(ring.hops[0][1].len(), 1, "a frame of generation 0 is under way");
    ring.open(1, 1, &[1, 2, 3], 9).unwrap();
    ring.prompt(1, 0, &[5, 5, 5]);
    ring.prompt(1, 1, &[1, 2, 3]);
    ring.credit(1, 1, 100);
    ring.run();
    assert_eq!(ring.tokens(1), MODEL.answer(&[1, 2, 3], 9));
    assert_eq!(ring.stages[1].0.late_rows(), 3);
    for generation in [0, 1] {
        let refusal = ring.open(1, generation, &[1], 1).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Stale);
    }
    assert_eq!(ring.stages[0].0.len(), 1);
}

#[test]
fn a_close_that_overtakes_the_open_leaves_a_tombstone() {
    let mut ring = Ring::new(1, 8);
    ring.control(0, 1, 0, Event::Close(CloseCode::Cancelled));
    assert_eq!(ring.open(1, 0, &[1], 1).unwrap_err().code, RefusalCode::Stale);
    ring.open(1, 1, &[1], 1).unwrap();
    ring.now += Duration::from_secs(61);
    let effects = ring.stages[0].0.tick(ring.now);
    ring.carry_out(0, effects);
    assert_eq!(ring.stages[0].0.tombstones(), 1, "the lease ended too: one new tombstone");
    ring.now += Duration::from_secs(2);
    ring.stages[0].0.tick(ring.now);
    assert_eq!(ring.stages[0].0.tombstones(), 0);
}

#[test]
fn a_gap_a_flood_and_a_foreign_frame_end_the_session() {
    let group = |start, rows, prefill| RowGroup {
        session: id(1),
        generation: Generation::new(0),
        start: Position::new(start),
        rows,
        sample: true,
        prefill,
    };
    let cases: [(&str, Vec<RowGroup>); 4] = [
        ("a gap", vec![group(1, 1, true)]),
        ("beyond the reservation", vec![group(0, 11, true)]),
        ("two decode rows", vec![group(0, 1, false), group(1, 1, false)]),
        ("a decode frame of two rows", vec![group(0, 2, false)]),
    ];
    for (what, groups) in cases {
        let mut ring = Ring::new(2, 8);
        ring.open(1, 0, &[1, 2], 8).unwrap();
        let rows = groups.iter().map(|group| group.rows as usize).sum::<usize>();
        let frame = Activations {
            dtype: WireDtype::F32,
            hidden: 8,
            sent_unix_ns: 0,
            groups,
            rows: Bytes::from(vec![0; rows * 32]),
        };
        ring.hops[0][0].push_back(frame);
        ring.deliver(0, false, false);
        assert_eq!(ring.failures(1), [(CloseCode::Protocol, None)], "{what}");
        assert!(ring.stages[1].0.is_empty(), "{what}");
    }
    let mut ring = Ring::new(2, 8);
    ring.open(1, 0, &[1, 2], 8).unwrap();
    ring.prompt(1, 0, &[1, 64]);
    assert_eq!(ring.failures(1), [(CloseCode::Protocol, None)], "a token outside the vocabulary");
    ring.control(1, 1, 0, Event::Tokens { start: Position::new(0), tokens: vec![1] });
    assert_eq!(ring.failures(1).len(), 2, "tokens for a tail");
    ring.assert_empty();
}

#[test]
fn another_router_and_another_feeder_touch_nothing() {
    let mut ring = Ring::new(2, 8);
    ring.open(1, 0, &[1, 2], 4).unwrap();
    let foreign = SessionKey { router: node(201), session: id(1) };
    for event in [
        Event::Close(CloseCode::Cancelled),
        Event::Credit { run_until: Position::new(9) },
        Event::Tokens { start: Position::new(0), tokens: vec![9] },
    ] {
        assert_eq!(ring.stages[0].0.control(ring.now, foreign, Generation::new(0), event), vec![]);
    }
    let sampled = Sampled {
        session: id(1),
        generation: Generation::new(0),
        position: Position::new(2),
        token: 1,
        logprob: 0.0,
        margin: 0.0,
        finish: Finish::No,
        top: Added::default(),
    };
    let arrival = ring.arrival();
    assert_eq!(ring.stages[0].0.sampled(ring.now, node(77), LinkId(5), sampled, arrival), vec![]);
    let refusal = ring.stages[0].0.admit(ring.now, node(202), &open(2, 0, 1, 0, &[1], 1)).1.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::BadPlan, "{refusal}");
    ring.prompt(1, 0, &[1, 2]);
    ring.credit(1, 0, 100);
    ring.run();
    assert_eq!(ring.tokens(1), MODEL.answer(&[1, 2], 4));
}
