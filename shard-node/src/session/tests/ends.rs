//! How sessions are refused and how they end.

use super::*;

#[test]
fn refusals_name_the_reason() {
    type Spoil = fn(&mut Open);
    let mut ring = Ring::new(2, 8);
    let cases: [(RefusalCode, Spoil); 9] = [
        (RefusalCode::WrongModel, |o| o.plan.model = ModelId::from_bytes([1; 32])),
        (RefusalCode::WrongClass, |o| o.plan.class = NumericsClass::Bf16),
        (RefusalCode::WrongSpan, |o| {
            o.plan.stages[0].span = LayerSpan::new(0, 2).unwrap();
            o.plan.stages[1].span = LayerSpan::new(2, 6).unwrap();
        }),
        (RefusalCode::BadPlan, |o| o.plan.stages[1].node = node(9)),
        (RefusalCode::BadPlan, |o| o.plan.stages[0].node = node(1)),
        (RefusalCode::BadPlan, |o| o.plan.n_layers = 7),
        (RefusalCode::TooLong, |o| o.max_positions = 513),
        (RefusalCode::TooLong, |o| o.max_positions = 1),
        (RefusalCode::BadSampling, |o| {
            if let Some(tail) = &mut o.tail {
                tail.sampling.temperature = -1.0;
            }
        }),
    ];
    for (code, spoil) in cases {
        let mut open = open(2, 1, 1, 0, &[1, 2], 4);
        spoil(&mut open);
        let refusal = ring.stages[1].0.admit(ring.now, router(), &open).1.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(ring.stages[1].0.ledger().is_empty());
    }
    for number in 0..9 {
        let result = ring.stages[1].0.admit(
            ring.now,
            router(),
            &Open { max_positions: 512, ..open(2, 1, number, 0, &[1], 4) },
        );
        assert_eq!(result.1.is_ok(), number < 8, "4,096 positions hold eight sessions of 512");
    }
    ring.stages[0].0.drain();
    let refusal = ring.stages[0].0.admit(ring.now, router(), &open(2, 0, 50, 0, &[1], 4)).1.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Draining);
}

#[test]
fn leases_end_sessions_and_credit_renews_them() {
    let mut ring = Ring::new(1, 8);
    let tick = |ring: &mut Ring, millis| {
        ring.now += Duration::from_millis(millis);
        let effects = ring.stages[0].0.tick(ring.now);
        ring.carry_out(0, effects);
    };
    ring.open(1, 0, &[1], 4).unwrap();
    ring.open(2, 0, &[1], 4).unwrap();
    tick(&mut ring, 900);
    ring.credit(1, 0, 4);
    tick(&mut ring, 100);
    assert_eq!(ring.failures(2), [(CloseCode::LeaseExpired, None)]);
    assert_eq!(ring.failures(1), []);
    let effects = ring.stages[0].0.router_lost(ring.now, router());
    ring.carry_out(0, effects);
    tick(&mut ring, 999);
    assert_eq!(ring.stages[0].0.len(), 1);
    tick(&mut ring, 1);
    assert_eq!(ring.failures(1), [(CloseCode::RouterLost, None)]);
    ring.assert_empty();
}

#[test]
fn a_lost_neighbour_fails_its_sessions_and_names_it() {
    let mut ring = Ring::new(3, 8);
    ring.open(1, 0, &[1], 4).unwrap();
    let effects = ring.stages[1].0.link_lost(ring.now, node(2), LinkId(7));
    assert_eq!(effects, vec![], "another link");
    let effects = ring.stages[1].0.link_lost(ring.now, node(2), LinkId(1));
    ring.carry_out(1, effects);
    assert_eq!(ring.failures(1), [(CloseCode::HopLost, Some(node(2)))]);
    let effects = ring.stages[2].0.feeder_lost(ring.now, node(1), LinkId(100), false);
    assert_eq!(effects, vec![], "closed in good order before it carried anything");
    let effects = ring.stages[2].0.feeder_lost(ring.now, node(1), LinkId(100), true);
    ring.carry_out(2, effects);
    let effects = ring.stages[0].0.shut_down(ring.now);
    ring.carry_out(0, effects);
    let lost = [(CloseCode::HopLost, Some(node(2))), (CloseCode::HopLost, Some(node(1)))];
    assert_eq!(ring.failures(1), [&lost[..], &[(CloseCode::ShuttingDown, Some(node(0)))]].concat());
    ring.assert_empty();
}

#[test]
fn close_is_answered_by_the_account() {
    let mut ring = Ring::new(2, 4);
    ring.open(1, 0, &[1, 2, 3, 4, 5, 6], 4).unwrap();
    ring.prompt(1, 0, &[1, 2, 3, 4, 5, 6]);
    ring.credit(1, 0, 100);
    ring.run();
    ring.control(1, 1, 0, Event::Close(CloseCode::Finished));
    let Some(Report::Ended(ended)) = ring.reports[&id(1)].last() else { panic!("an account") };
    assert_eq!((ended.decode_steps, ended.prefill_rows, ended.waste_rows), (3, 6, 0));
    assert_eq!((ended.decode_us, ended.prefill_us, ended.hop_us), (1000, 2000, 30));
    ring.control(0, 1, 0, Event::Close(CloseCode::Cancelled));
    let Some(Report::Ended(ended)) = ring.reports[&id(1)].last() else { panic!("an account") };
    assert_eq!(
        (ended.decode_steps, ended.waste_rows),
        (3, 3),
        "nothing was asked for since the first credit"
    );
    assert_eq!(ended.decode_bytes, 3 * (8 + 16 + 28 + 32));
    ring.assert_empty();
}

#[test]
fn a_refusal_for_want_of_room_says_when_to_ask_again() {
    let mut ring = Ring::new(1, 64);
    let full = |ring: &mut Ring, positions| {
        let open = Open { max_positions: positions, ..open(1, 0, 99, 0, &[1], 4) };
        ring.stages[0].0.admit(ring.now, router(), &open).1.unwrap_err()
    };
    // Seven of 512 positions and one of 500 that are used up row by row.
    for number in 0..7 {
        ring.open(number, 0, &[1], 511).unwrap();
    }
    ring.open(7, 0, &[1; 100], 400).unwrap();
    assert_eq!(
        *full(&mut ring, 100).retry_after_ms,
        10_000,
        "nobody knows yet, and asking now and then pays"
    );
    ring.prompt(7, 0, &[1; 100]);
    for at in 1..=380 {
        ring.credit(7, 0, 100 + at);
        ring.run();
        ring.now += Duration::from_millis(20);
    }
    let refusal = full(&mut ring, 100);
    assert_eq!(refusal.code, RefusalCode::NoCapacity);
    let expected = 20 * 20;
    assert!((expected - 40..=expected + 60).contains(&*refusal.retry_after_ms), "{refusal:?}");
    assert_eq!(*full(&mut ring, 513).retry_after_ms, 0, "longer than the context: never");
    ring.stages[0].0.drain();
    assert_eq!(*full(&mut ring, 100).retry_after_ms, 0, "leaving: never");
}
