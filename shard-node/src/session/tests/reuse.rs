//! Rows of sessions that are over: they change how much is computed and nothing else.

use super::*;

/// A prompt of `blocks` blocks that begin like any other of the same `family`, and some tokens of its own.
fn prompt(family: u32, blocks: u32, own: &[u32]) -> Vec<u32> {
    (0..blocks * 64).map(|at| (at * 7 + at / 64 + family) % 64).chain(own.iter().copied()).collect()
}

fn answered(ring: &mut Ring, session: u64, prompt: &[u32], code: CloseCode) -> Vec<Ended> {
    ring.open(session, 0, prompt, 4).unwrap();
    ring.prompt(session, 0, prompt);
    ring.credit(session, 0, u32::MAX);
    ring.run();
    assert_eq!(ring.tokens(session), MODEL.answer(prompt, 4));
    for stage in 0..ring.stages.len() {
        ring.control(stage, session, 0, Event::Close(code));
    }
    ring.ended(session)
}

fn ring(parts: u32) -> Ring {
    Ring { reuse: true, ..Ring::new(parts, 32) }
}

#[test]
fn a_second_question_with_the_same_beginning_computes_only_its_own_rows() {
    let mut ring = ring(3);
    let (first, second) = (prompt(1, 3, &[1, 2, 3]), prompt(1, 3, &[9]));
    for account in answered(&mut ring, 1, &first, CloseCode::Finished) {
        assert_eq!((account.prefill_rows, *account.skipped_rows), (195, 0));
    }
    let accounts = answered(&mut ring, 2, &second, CloseCode::Cancelled);
    assert_eq!(accounts.len(), 3);
    for account in accounts {
        assert_eq!((account.prefill_rows, *account.skipped_rows), (1, 192));
    }
    for (table, _) in &ring.stages {
        assert_eq!((table.skipped_rows(), table.prefixes().positions()), (192, 192), "kept once");
    }
    ring.assert_empty();
}

#[test]
fn a_stage_that_holds_more_than_the_others_forgets_the_rest() {
    let mut ring = ring(3);
    answered(&mut ring, 1, &prompt(1, 3, &[1]), CloseCode::Finished);
    // Stage 1 lost what it kept and learns a shorter beginning.
    let freed = ring.stages[1].0.give_up_prefixes();
    ring.carry_out(1, freed);
    answered(&mut ring, 2, &prompt(1, 1, &[1]), CloseCode::Finished);
    let accounts = answered(&mut ring, 3, &prompt(1, 3, &[5]), CloseCode::Finished);
    for account in accounts {
        assert_eq!((account.prefill_rows, *account.skipped_rows), (129, 64));
    }
    ring.assert_empty();
}

#[test]
fn nothing_is_kept_of_a_session_that_ended_badly() {
    for code in [CloseCode::Protocol, CloseCode::HopLost, CloseCode::Other, CloseCode::ShuttingDown] {
        let mut ring = ring(2);
        answered(&mut ring, 1, &prompt(1, 2, &[1]), code);
        ring.expire();
        assert!(ring.stages.iter().all(|(table, toy)| table.prefixes().is_empty() && toy.kv_bytes() == 0));
    }
}

#[test]
fn only_rows_that_were_computed_are_kept() {
    let mut ring = ring(2);
    let asked = prompt(1, 3, &[1]);
    ring.open(1, 0, &asked, 4).unwrap();
    ring.prompt(1, 0, &asked);
    // Chunks of 7 rows: 98 on stage 0, 70 on stage 1.
    for _ in 0..14 {
        ring.step(0);
    }
    for _ in 0..10 {
        ring.deliver(0, true, false);
        ring.step(1);
    }
    for stage in 0..2 {
        ring.control(stage, 1, 0, Event::Close(CloseCode::Cancelled));
        assert_eq!(ring.stages[stage].0.prefixes().positions(), 64);
    }
    ring.hops[0][1].clear();
    let accounts = answered(&mut ring, 2, &asked, CloseCode::Finished);
    assert!(accounts.iter().all(|account| *account.skipped_rows == 64));
}

type Change = fn(&mut Open);

#[test]
fn other_routers_tenants_and_upstreams_find_nothing() {
    let mut ring = ring(2);
    let asked = prompt(1, 2, &[1]);
    answered(&mut ring, 1, &asked, CloseCode::Finished);
    let changes: [(&str, Change); 4] = [
        ("nothing", |_| ()),
        ("tenant", |o| o.service.0.tenant = TenantId::from_bytes([1; 16])),
        ("upstream node", |o| o.plan.stages[0].node = node(77)),
        ("model's beginning", |o| o.service.0.prefix = reusable_blocks(&TenantId::default(), &[3; 200])),
    ];
    for (number, (what, change)) in (10..).zip(changes) {
        let mut open = open(2, 1, number, 0, &asked, 4);
        open.service.0.prefix = reusable_blocks(&TenantId::default(), &asked);
        change(&mut open);
        let admitted = ring.stages[1].0.admit(ring.now, router(), &open).1.unwrap();
        assert_eq!(admitted.rows.is_some(), what == "nothing", "{what}");
        let other = ring.stages[1].0.admit(ring.now, node(201), &open).1.unwrap();
        assert!(other.rows.is_none(), "another router");
    }
}

#[test]
fn what_is_kept_is_free_for_who_opens_and_goes_after_a_while() {
    let mut ring = ring(1);
    for family in 0..4 {
        answered(&mut ring, u64::from(family), &prompt(family, 3, &[1]), CloseCode::Finished);
    }
    let kept = |ring: &Ring| ring.stages[0].0.prefixes().positions();
    assert_eq!(kept(&ring), 4 * 192);
    // All of the capacity: seven sessions fit beside what is kept, the eighth takes its place.
    for number in 10..18 {
        ring.open(number, 0, &[1; 500], 12).unwrap();
    }
    assert_eq!(kept(&ring), 0);
    assert_eq!(ring.stages[0].0.prefixes().counts().evictions, 4);
    assert_eq!(ring.open(20, 0, &[1], 1).unwrap_err().code, RefusalCode::NoCapacity);
    for number in 10..18 {
        ring.control(0, number, 0, Event::Close(CloseCode::Cancelled));
    }
    answered(&mut ring, 30, &prompt(1, 3, &[1]), CloseCode::Finished);
    assert_eq!(kept(&ring), 192);
    ring.now += Duration::from_mins(10);
    let effects = ring.stages[0].0.tick(ring.now);
    ring.carry_out(0, effects);
    assert_eq!(kept(&ring), 0);
    ring.assert_empty();
}

#[test]
fn rows_that_have_to_go_for_their_own_session_are_used_first() {
    let mut ring = ring(1);
    let asked = prompt(1, 7, &[1; 40]);
    answered(&mut ring, 1, &asked, CloseCode::Finished);
    for number in 10..17 {
        ring.open(number, 0, &[1; 500], 12).unwrap();
    }
    let accounts = answered(&mut ring, 2, &asked, CloseCode::Finished);
    assert_eq!(*accounts[0].skipped_rows, 448);
}

#[test]
fn a_prompt_that_begins_beyond_what_is_held_is_a_gap() {
    let mut ring = ring(1);
    answered(&mut ring, 1, &prompt(1, 2, &[1]), CloseCode::Finished);
    let asked = prompt(1, 3, &[1]);
    ring.open(2, 0, &asked, 4).unwrap();
    ring.starts.insert(2, 192);
    ring.prompt(2, 0, &asked);
    assert_eq!(ring.failures(2), [(CloseCode::Protocol, None)]);
    assert_eq!(ring.stages[0].0.prefixes().positions(), 128, "what was kept before is not touched");
    ring.assert_empty();
}

#[test]
fn a_session_whose_deadline_passed_is_ended_and_not_computed() {
    let mut ring = ring(1);
    let mut open = open(1, 0, 1, 0, &[1, 2], 4);
    open.service.0.deadline_ms = 50;
    let terms = ring.stages[0].0.admit(ring.now, router(), &open).1.unwrap().terms;
    let slot = ring.stages[0].1.open(16).unwrap();
    ring.stages[0].0.insert(ring.now, terms, slot, None);
    ring.prompt(1, 0, &[1, 2]);
    ring.now += Duration::from_millis(49);
    assert_eq!(ring.stages[0].0.overdue(ring.now), []);
    ring.now += Duration::from_millis(1);
    let effects = ring.stages[0].0.overdue(ring.now);
    ring.carry_out(0, effects);
    assert_eq!(ring.failures(1), [(CloseCode::Deadline, None)]);
    assert!(!ring.step(0));
    ring.assert_empty();
}

#[derive(Debug, Clone)]
struct Asked {
    family: u32,
    blocks: u32,
    own: Vec<u32>,
    max_tokens: u32,
    /// Given up after so many moves.
    cancel: Option<usize>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let own = prop::collection::vec(0u32..64, 1..30);
    (0u32..2, 0u32..4, own, 1u32..8, prop::option::weighted(0.2, 0usize..60)).prop_map(
        |(family, blocks, own, max_tokens, cancel)| Asked { family, blocks, own, max_tokens, cancel },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Rounds of sessions side by side, some given up, on stages that keep more or less of what they had: with reuse
    /// and without it, each answer is the model's.
    #[test]
    fn reuse_changes_no_token(
        parts in 1u32..4,
        budget in 1u32..50,
        reuse in prop::bool::weighted(0.8),
        rounds in prop::collection::vec(prop::collection::vec(asked(), 1..4), 1..5),
        moves in prop::collection::vec((0u8..5, any::<u8>(), any::<bool>()), 60..120),
        forgetful in any::<u8>(),
    ) {
        let mut ring = Ring { reuse, ..Ring::new(parts, budget) };
        let mut number = 0;
        for (round, sessions) in rounds.iter().enumerate() {
            let first = number;
            for asked in sessions {
                let prompt = prompt(asked.family, asked.blocks, &asked.own);
                ring.open(number, 0, &prompt, asked.max_tokens).unwrap();
                ring.prompt(number, 0, &prompt);
                ring.credit(number, 0, u32::MAX);
                number += 1;
            }
            for (at, &(kind, which, twice)) in moves.iter().enumerate() {
                for (index, _) in sessions.iter().enumerate().filter(|(_, asked)| asked.cancel == Some(at)) {
                    for stage in 0..ring.stages.len() {
                        ring.control(stage, first + index as u64, 0, Event::Close(CloseCode::Cancelled));
                    }
                }
                let stage = usize::from(which) % ring.stages.len();
                match kind {
                    0 | 1 => drop(ring.step(stage)),
                    2 if stage > 0 => drop(ring.deliver(stage - 1, true, twice)),
                    3 if stage > 0 => drop(ring.deliver(stage - 1, false, twice)),
                    _ => drop(ring.deliver_return(twice)),
                }
            }
            ring.run();
            for (index, asked) in sessions.iter().enumerate() {
                let session = first + index as u64;
                prop_assert_eq!(ring.failures(session), vec![]);
                let expected = MODEL.answer(&prompt(asked.family, asked.blocks, &asked.own), asked.max_tokens as usize);
                let tokens = ring.tokens(session);
                let whole = asked.cancel.is_none_or(|cancel| cancel >= moves.len());
                prop_assert!(expected.starts_with(&tokens) && (!whole || tokens == expected));
                for stage in 0..ring.stages.len() {
                    ring.control(stage, session, 0, Event::Close(CloseCode::Finished));
                }
            }
            ring.assert_empty();
            if usize::from(forgetful) % 4 == round {
                let stage = usize::from(forgetful) % ring.stages.len();
                let slots = ring.stages[stage].0.give_up_prefixes();
                ring.carry_out(stage, slots);
            }
        }
        if !reuse {
            prop_assert!(ring.stages.iter().all(|(table, _)| table.skipped_rows() == 0));
        }
    }

    /// A stage dies under many sessions and is replaced by one that knows nothing; their next generations give the
    /// model's answers, whatever the others still hold of the prompts.
    #[test]
    fn a_death_changes_no_token(
        parts in 1u32..4,
        budget in 1u32..50,
        reuse in prop::bool::weighted(0.8),
        sessions in prop::collection::vec(asked(), 1..9),
        moves in prop::collection::vec((0u8..5, any::<u8>()), 0..200),
        dies in any::<u8>(),
    ) {
        let mut ring = Ring { reuse, ..Ring::new(parts, budget) };
        let prompts: Vec<_> = sessions.iter().map(|a| prompt(a.family, a.blocks, &a.own)).collect();
        for (number, (asked, prompt)) in sessions.iter().zip(&prompts).enumerate() {
            ring.open(number as u64, 0, prompt, asked.max_tokens).unwrap();
            ring.prompt(number as u64, 0, prompt);
            ring.credit(number as u64, 0, u32::MAX);
        }
        for (kind, which) in moves {
            let stage = usize::from(which) % ring.stages.len();
            match kind {
                0 | 1 => drop(ring.step(stage)),
                2 if stage > 0 => drop(ring.deliver(stage - 1, true, false)),
                3 if stage > 0 => drop(ring.deliver(stage - 1, false, false)),
                _ => drop(ring.deliver_return(false)),
            }
        }
        // One that is whole by now leaves its rows to the others' next generations.
        for stage in 0..ring.stages.len() {
            ring.control(stage, 0, 0, Event::Close(CloseCode::Cancelled));
        }
        ring.replace(usize::from(dies) % parts as usize, budget);
        for (number, (asked, prompt)) in sessions.iter().zip(&prompts).enumerate().skip(1) {
            let number = number as u64;
            let expected = MODEL.answer(prompt, asked.max_tokens as usize);
            prop_assert!(expected.starts_with(&ring.tokens_of(number, 0)));
            ring.open(number, 1, prompt, asked.max_tokens).unwrap();
            ring.prompt(number, 1, prompt);
            ring.credit(number, 1, u32::MAX);
        }
        ring.run();
        for (number, (asked, prompt)) in sessions.iter().zip(&prompts).enumerate().skip(1) {
            let number = number as u64;
            let expected = MODEL.answer(prompt, asked.max_tokens as usize);
            prop_assert_eq!(ring.tokens_of(number, 1), expected);
            for stage in 0..ring.stages.len() {
                ring.control(stage, number, 1, Event::Close(CloseCode::Finished));
            }
        }
        ring.assert_empty();
    }

    /// Alone and among 32 others, with any budget, and with rows reused or not: the same tokens.
    #[test]
    fn company_changes_no_token(
        parts in 1u32..4,
        budgets in (1u32..200, 1u32..200),
        reuse in any::<bool>(),
        one in asked(),
        others in prop::collection::vec(asked(), 32),
        order in any::<u64>(),
    ) {
        let wanted = prompt(one.family, one.blocks, &one.own);
        let mut alone = Ring::new(parts, budgets.0);
        alone.open(1, 0, &wanted, one.max_tokens).unwrap();
        alone.prompt(1, 0, &wanted);
        alone.credit(1, 0, u32::MAX);
        alone.run();
        let mut ring = Ring { reuse, ..Ring::new(parts, budgets.1) };
        let mut random = order | 1;
        for (number, asked) in (100..).zip(&others) {
            let prompt = prompt(asked.family, asked.blocks.min(1), &asked.own);
            ring.open(number, 0, &prompt, asked.max_tokens).unwrap();
            ring.prompt(number, 0, &prompt);
            ring.credit(number, 0, u32::MAX);
            if number == 100 + u64::from(order as u8) % 32 {
                ring.open(1, 0, &wanted, one.max_tokens).unwrap();
                ring.prompt(1, 0, &wanted);
                ring.credit(1, 0, u32::MAX);
            }
            for _ in 0..6 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let stage = random as usize % ring.stages.len();
                ring.step(stage);
                if stage + 1 < ring.stages.len() {
                    ring.deliver(stage, random & 64 == 0, false);
                }
            }
        }
        ring.run();
        prop_assert_eq!(ring.tokens(1), alone.tokens(1));
        prop_assert_eq!(ring.failures(1), vec![]);
    }
}
