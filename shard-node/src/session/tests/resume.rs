//! Sessions that go on when stages die: what comes is what the model says, and only the lost layers are computed again.

use super::*;

/// What the router has of a session: each generation's tokens stand behind those of the one before.
fn came(ring: &Ring, session: u64, generations: u32) -> Vec<u32> {
    (0..generations).flat_map(|generation| ring.tokens_of(session, generation)).collect()
}

/// The router gives up the generation on all stages but the one that died.
fn broken(ring: &mut Ring, session: u64, generation: u32, dead: usize) {
    for stage in (0..ring.stages.len()).filter(|&stage| stage != dead) {
        ring.control(stage, session, generation, Event::Close(CloseCode::HopLost));
    }
}

fn close(ring: &mut Ring, session: u64, generation: u32) -> Vec<Ended> {
    let before = ring.ended(session).len();
    for stage in 0..ring.stages.len() {
        ring.control(stage, session, generation, Event::Close(CloseCode::Finished));
    }
    ring.ended(session).split_off(before)
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|at| (at * 7 + 3) % 64).collect()
}

/// An answer of 20 tokens during which `dead` dies after five; the rows that each stage computes for it from then on.
fn rows_computed(ring: &mut Ring, dead: usize) -> Vec<u32> {
    let prompt = prompt(100);
    ring.open(1, 0, &prompt, 20).unwrap();
    ring.prompt(1, 0, &prompt);
    ring.credit(1, 0, 104);
    ring.run();
    assert_eq!(came(ring, 1, 1).len(), 5);
    ring.replace(dead, 32);
    broken(ring, 1, 0, dead);
    let tokens = came(ring, 1, 1);
    ring.resume(1, 1, (&prompt, &tokens), 20).unwrap();
    ring.credit(1, 1, u32::MAX);
    ring.run();
    assert_eq!(came(ring, 1, 2), MODEL.answer(&prompt, 20));
    let accounts = close(ring, 1, 1);
    ring.assert_empty();
    accounts.iter().map(|account| account.prefill_rows).collect()
}

#[test]
fn only_the_lost_layers_are_computed_again() {
    // 105 tokens are known; the rows of all but the last two were computed before, that of the 104th by the tail only
    // if it got there.
    for dead in 0..4 {
        let mut ring = Ring::new(4, 32);
        let rows = rows_computed(&mut ring, dead);
        for (stage, &rows) in rows.iter().enumerate() {
            assert_eq!(rows, if stage == dead { 105 } else { 1 }, "stage {stage} after the loss of {dead}");
        }
    }
}

#[test]
fn without_what_was_sent_on_the_stages_before_compute_again_and_those_behind_do_not() {
    let mut ring = Ring::new(4, 32);
    ring.stages.iter_mut().enumerate().for_each(|(stage, (table, toy))| {
        *table = bounded(stage, toy.shape(), 0);
    });
    assert_eq!(rows_computed(&mut ring, 2), [105, 105, 105, 1]);
}

/// A table that holds so many bytes of rows sent on.
fn bounded(stage: usize, shape: StageShape, boundary_bytes: u64) -> SessionTable {
    let admission = Admission { own: node(stage as u8), model: ModelId::from_bytes([9; 32]), shape };
    let limits = TableLimits { boundary_bytes, ..limits(32) };
    SessionTable::new(admission, limits)
}

#[test]
fn what_is_kept_of_a_broken_session_goes_to_whoever_needs_the_room() {
    let mut ring = Ring::new(2, 32);
    for session in 0..8 {
        ring.open(session, 0, &[1, 2, 3], 509).unwrap();
        ring.prompt(session, 0, &[1, 2, 3]);
    }
    ring.run();
    for session in 0..8 {
        broken(&mut ring, session, 0, 9);
    }
    for (table, _) in &ring.stages {
        assert_eq!((table.reserved(), table.recovered().parked_positions), (0, 4096));
    }
    ring.open(20, 0, &[1], 511).unwrap();
    for (table, _) in &ring.stages {
        assert_eq!((table.reserved(), table.recovered().parked_positions), (512, 7 * 512));
    }
    let tokens = came(&ring, 7, 1);
    ring.resume(7, 1, (&[1, 2, 3], &tokens), 509).unwrap();
    assert!(ring.stages.iter().all(|(table, _)| table.recovered().resumed == 1));
    ring.credit(7, 1, 20);
    ring.run();
    assert_eq!(came(&ring, 7, 2), MODEL.answer(&[1, 2, 3], came(&ring, 7, 2).len()));
    for (session, generation) in [(20, 0), (7, 1)] {
        close(&mut ring, session, generation);
    }
    ring.assert_empty();
}

/// A session of two stages, broken after five tokens, and what was known of it then.
fn broken_after_five(ring: &mut Ring) -> (Vec<u32>, Vec<u32>) {
    let prompt = prompt(100);
    ring.open(1, 0, &prompt, 20).unwrap();
    ring.prompt(1, 0, &prompt);
    ring.credit(1, 0, 104);
    ring.run();
    broken(ring, 1, 0, 9);
    let tokens = came(ring, 1, 1);
    (prompt, tokens)
}

#[test]
fn a_slot_is_not_kept_for_fewer_positions_than_it_was_made_for() {
    let mut ring = Ring::new(1, 32);
    let (prompt, tokens) = broken_after_five(&mut ring);
    ring.resume(1, 1, (&prompt, &tokens), 10).unwrap();
    assert_eq!(ring.stages[0].0.recovered().resumed, 0);
    ring.control(0, 1, 1, Event::Close(CloseCode::Cancelled));
    ring.assert_empty();
}

#[test]
fn what_a_router_calls_a_breach_or_cancels_is_not_kept_though_the_stage_ended_it_first() {
    for code in [CloseCode::Protocol, CloseCode::Cancelled] {
        let mut ring = Ring::new(2, 32);
        broken_after_five(&mut ring);
        for stage in 0..2 {
            assert!(ring.stages[stage].0.recovered().parked_positions > 0);
            ring.control(stage, 1, 0, Event::Close(code));
            assert_eq!(ring.stages[stage].0.recovered().parked_positions, 0);
            assert_eq!(ring.stages[stage].1.kv_bytes(), 0);
        }
    }
}

#[test]
fn rows_of_a_generation_before_the_last_that_gave_a_token_are_not_used() {
    let mut ring = Ring::new(2, 32);
    let (prompt, tokens) = broken_after_five(&mut ring);
    // Another node had stage 0 in generation 1, and gave tokens; what this one holds may be of others.
    let mut open = open(2, 0, 1, 2, &prompt, 20);
    let rows = (prompt.len() + tokens.len()) as u32 - 1;
    for (since, resumed) in [(1, 0), (0, 1)] {
        open.generation = Generation::new(3 - since);
        open.service.0.further.0.resume =
            Added(ResumeTerms { rows, downstream: rows, since, role: Added::default() });
        let mut fresh = Ring::new(2, 32);
        broken_after_five(&mut fresh);
        let (effects, admitted) = fresh.stages[0].0.admit(fresh.now, router(), &open);
        fresh.carry_out(0, effects);
        assert!(admitted.is_ok());
        assert_eq!(fresh.stages[0].0.recovered().resumed, resumed, "since {since}");
    }
}

#[test]
fn rows_that_went_on_behind_another_stage_are_nobody_elses() {
    let mut ring = Ring { reuse: true, ..Ring::new(2, 32) };
    let (prompt, tokens) = broken_after_five(&mut ring);
    // The same route once more: its rows are as good as any.
    ring.resume(1, 1, (&prompt, &tokens), 20).unwrap();
    ring.credit(1, 1, u32::MAX);
    ring.run();
    close(&mut ring, 1, 1);
    assert!(ring.stages.iter().all(|(table, _)| table.prefixes().positions() == 64));
    // Stage 0 is another node now: what stage 1 holds came from the one before.
    let mut ring = Ring { reuse: true, ..Ring::new(2, 32) };
    let (prompt, tokens) = broken_after_five(&mut ring);
    let rows = (prompt.len() + tokens.len()) as u32 - 1;
    let mut open = open(2, 1, 1, 1, &prompt, 20);
    open.plan.stages[0].node = node(77);
    if let Some(tail) = &mut open.tail {
        (tail.history, tail.generated) = ([&prompt[..], &tokens].concat(), tokens.len() as u32);
    }
    open.service.0.prefix = reusable_blocks(&TenantId::default(), &prompt);
    open.service.0.further.0.resume =
        Added(ResumeTerms { rows, downstream: rows, since: 0, role: Added::default() });
    let (effects, admitted) = ring.stages[1].0.admit(ring.now, router(), &open);
    ring.carry_out(1, effects);
    assert!(admitted.unwrap().terms.mixed);
}

#[test]
fn an_answer_that_has_not_begun_leaves_nothing() {
    let mut ring = Ring::new(2, 4);
    ring.open(1, 0, &prompt(40), 4).unwrap();
    ring.prompt(1, 0, &prompt(40));
    ring.step(0);
    broken(&mut ring, 1, 0, 9);
    assert!(ring.stages.iter().all(|(table, toy)| table.ledger().is_empty() && toy.kv_bytes() == 0));
    assert_eq!(ring.stages[0].0.recovered().boundary_bytes, 0);
}

#[test]
fn a_route_that_can_not_be_opened_leaves_the_rows_for_the_next_one() {
    let mut ring = Ring::new(3, 32);
    let prompt = prompt(50);
    ring.open(1, 0, &prompt, 20).unwrap();
    ring.prompt(1, 0, &prompt);
    ring.credit(1, 0, 54);
    ring.run();
    ring.replace(1, 32);
    broken(&mut ring, 1, 0, 1);
    let tokens = came(&ring, 1, 1);
    // The new stage 1 leaves at once: the tail had opened.
    ring.stages[1].0.drain();
    let refusal = ring.resume(1, 1, (&prompt, &tokens), 20).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Draining);
    ring.control(2, 1, 1, Event::Close(CloseCode::HopLost));
    ring.replace(1, 32);
    ring.resume(1, 2, (&prompt, &tokens), 20).unwrap();
    ring.credit(1, 2, u32::MAX);
    ring.run();
    assert_eq!(came(&ring, 1, 3), MODEL.answer(&prompt, 20));
    let rows: Vec<_> = close(&mut ring, 1, 2).iter().map(|account| account.prefill_rows).collect();
    assert_eq!(rows, [1, 55, 1]);
    ring.assert_empty();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Stages die at any moment, one after the other or two at once, with much, little or no room for what was sent on:
    /// every answer is the model's, nothing fails but by a loss, and nothing is left behind.
    #[test]
    fn answers_outlive_any_deaths(
        parts in 1u32..5,
        budget in 1u32..20,
        boundary in prop::sample::select(vec![0u64, 600, 1 << 20]),
        reuse in any::<bool>(),
        sessions in prop::collection::vec((1u32..150, 1u32..12), 1..4),
        deaths in prop::collection::vec((any::<u8>(), any::<bool>(), prop::collection::vec((0u8..6, any::<u8>()), 0..150)), 0..4),
    ) {
        let mut ring = Ring { reuse, ..Ring::new(parts, budget) };
        for (stage, (table, toy)) in ring.stages.iter_mut().enumerate() {
            *table = bounded(stage, toy.shape(), boundary);
        }
        let prompts: Vec<_> = sessions.iter().map(|&(length, _)| prompt(length)).collect();
        for (number, &(_, max_tokens)) in sessions.iter().enumerate() {
            ring.open(number as u64, 0, &prompts[number], max_tokens).unwrap();
            ring.prompt(number as u64, 0, &prompts[number]);
        }
        let mut generations = vec![0u32; sessions.len()];
        for (dead, two, moves) in deaths {
            for (kind, which) in moves {
                let stage = usize::from(which) % ring.stages.len();
                let hop = usize::from(which) % ring.stages.len().saturating_sub(1).max(1);
                match kind {
                    0 | 1 => drop(ring.step(stage)),
                    2 if parts > 1 => drop(ring.deliver(hop, true, which > 200)),
                    3 if parts > 1 => drop(ring.deliver(hop, false, which > 200)),
                    4 => drop(ring.deliver_return(which > 200)),
                    _ => {
                        let number = usize::from(which) % sessions.len();
                        let end = sessions[number].0 + u32::from(which) % 12;
                        ring.credit(number as u64, generations[number], end);
                    }
                }
            }
            let dead = usize::from(dead) % ring.stages.len();
            let also = (dead + 1) % ring.stages.len();
            ring.replace(dead, budget);
            if two {
                ring.replace(also, budget);
            }
            for number in 0..sessions.len() {
                let (session, generation) = (number as u64, generations[number]);
                let tokens = came(&ring, session, generation + 1);
                broken(&mut ring, session, generation, dead);
                if tokens.len() < sessions[number].1 as usize {
                    generations[number] += 1;
                    let known = (&prompts[number][..], &tokens[..]);
                    ring.resume(session, generation + 1, known, sessions[number].1).unwrap();
                }
            }
        }
        for (number, &generation) in generations.iter().enumerate() {
            ring.credit(number as u64, generation, u32::MAX);
        }
        ring.run();
        for (number, &(_, max_tokens)) in sessions.iter().enumerate() {
            let session = number as u64;
            let answer = MODEL.answer(&prompts[number], max_tokens as usize);
            prop_assert_eq!(came(&ring, session, generations[number] + 1), answer);
            prop_assert!(ring.failures(session).iter().all(|&(code, _)| code == CloseCode::HopLost));
            close(&mut ring, session, generations[number]);
        }
        ring.assert_empty();
    }
}
