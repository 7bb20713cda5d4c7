//! Whose fault an end is.

use super::*;

fn out_of_time(total: Duration) -> SessionMachine {
    let limits = SessionLimits { total: Some(total), ..SessionLimits::default() };
    let mut machine = SessionMachine::new(SessionTerms { limits, ..terms(2) });
    let mut actions = machine.on_event(ms(0), Event::Start);
    while let Some(&Action::Open { stage, .. }) = actions.first() {
        let answer = Ok(opened(machine.terms()));
        actions = machine.on_event(ms(0), Event::OpenAnswered { stage, answer });
    }
    machine
}

fn deadline_passed(stage: usize) -> Event {
    let (session, generation) = (SessionId::new(9), Generation::new(1));
    let (code, detail) = (CloseCode::Deadline, "500 ms".into());
    Event::Reported {
        stage,
        report: Report::Failed(Box::new(Failed { session, generation, code, lost: None, detail })),
    }
}

#[test]
fn the_clients_own_deadline_is_nobodys_fault_whoever_notices_it() {
    for now in [ms(490), ms(500), ms(501)] {
        let actions = out_of_time(ms(500)).on_event(now, deadline_passed(1));
        let timed_out = Outcome::Failed(SessionError::TimedOut { after: ms(500) });
        assert_eq!(outcome(&actions), Some(&timed_out), "{now:?}");
        assert_eq!(closed_stages(&actions), [0]);
    }
}

#[test]
fn a_node_that_calls_a_deadline_passed_long_before_it_is_or_without_one_is_to_blame() {
    for (mut machine, now) in [(out_of_time(ms(500)), ms(100)), (running(2), ms(500))] {
        let said = error(&machine.on_event(now, deadline_passed(1)));
        assert!(said.contains("gave up: the deadline passed"), "{said}");
    }
}

#[test]
fn stages_never_have_less_time_than_the_router() {
    for (total, told) in [(500_000, 500), (500_001, 501), (1, 1), (0, 1)] {
        let limits = SessionLimits { total: Some(Duration::from_micros(total)), ..SessionLimits::default() };
        assert_eq!(SessionTerms { limits, ..terms(2) }.open(0, 0).service.deadline_ms, told, "{total} us");
    }
    assert_eq!(terms(2).open(0, 0).service.deadline_ms, 0);
}

#[test]
fn a_silent_stage_is_named_after_a_second() {
    let mut machine = running(3);
    machine.on_event(ms(0), report(2, sampled(3, 40)));
    for now in (100..=1100).step_by(100).map(ms) {
        machine.on_event(now, progress(0, 3));
        machine.on_event(now, progress(2, 0));
        let actions = machine.on_event(now, Event::Tick);
        if now >= ms(1000) {
            assert_eq!(
                error(&actions),
                "node 02020202 (layers 10..20, 127.0.0.1:7402) was lost: stalled, no sign of life"
            );
            return;
        }
        assert_eq!(outcome(&actions), None, "{now:?}");
    }
}

#[test]
fn a_stage_that_lives_but_does_not_compute_is_named() {
    let mut machine = running(3);
    machine.on_event(ms(10), report(2, sampled(3, 40)));
    for now in (100..5000).step_by(100).map(ms) {
        // Stage 1 has the fourth row from stage 0 and does nothing with it.
        for (stage, applied) in [(0, 4), (1, 3), (2, 3)] {
            machine.on_event(now, progress(stage, applied));
        }
        let actions = machine.on_event(now, Event::Tick);
        if outcome(&actions).is_some() {
            assert!(error(&actions).contains("node 02020202 (layers 10..20"), "{}", error(&actions));
            assert!(now >= ms(2000) && now <= ms(2300), "{now:?}");
            return;
        }
    }
    panic!("not noticed");
}

#[test]
fn a_neighbours_word_and_a_lost_link_name_the_lost_node() {
    let lost = terms(3).stages()[1].node;
    let (mut machine, late) = (running(3), ms(900));
    for stage in [0, 2] {
        machine.on_event(late, progress(stage, 1));
    }
    let text = error(&machine.on_event(late, failed(2, Some(lost))));
    assert!(text.starts_with("node 02020202 (layers 10..20, 127.0.0.1:7402) was lost"), "{text}");
    // One that is heard itself: either of the two may be cut off.
    machine = running(3);
    machine.on_event(late, progress(1, 1));
    let actions = machine.on_event(late, failed(2, Some(lost)));
    let text = error(&actions);
    let parted = "node 02020202 (layers 10..20, 127.0.0.1:7402) is at fault, or node 03030303";
    assert!(text.starts_with(parted), "{text}");
    let Some(Outcome::Failed(parted)) = outcome(&actions) else { panic!("{actions:?}") };
    let nodes = terms(3).plan.stages.iter().map(|stage| stage.node).collect::<Vec<_>>();
    assert_eq!((parted.avoid(), parted.also()), (Some(nodes[1]), Some(nodes[2])));
    let text = error(&running(3).on_event(ms(10), failed(2, None)));
    assert!(text.starts_with("node 03030303 (layers 20..30, 127.0.0.1:7403) gave up"), "{text}");
    let event = Event::LinkLost { stage: 1, why: "the peer fell silent".into() };
    let actions = running(3).on_event(ms(10), event);
    assert_eq!(
        error(&actions),
        "node 02020202 (layers 10..20, 127.0.0.1:7402) was lost: the peer fell silent"
    );
    assert_eq!(closed_stages(&actions), [0, 2]);
}

#[test]
fn accounts_are_waited_for_but_not_for_long() {
    let mut machine = running(2);
    machine.on_event(ms(10), Event::Satisfied);
    assert_eq!(machine.on_event(ms(20), ended(0)), []);
    let actions = machine.on_event(ms(30), ended(1));
    assert!(matches!(&actions[..], [Action::Done { accounts }] if accounts.iter().all(Option::is_some)));

    let mut machine = running(2);
    machine.on_event(ms(10), Event::Cancelled);
    machine.on_event(ms(20), ended(0));
    assert_eq!(machine.next_tick(), Some(ms(310)));
    let actions = machine.on_event(ms(310), Event::Tick);
    assert!(
        matches!(&actions[..], [Action::Done { accounts }] if accounts[0].is_some() && accounts[1].is_none())
    );
    assert!(machine.is_done());
}

#[test]
fn a_long_chunk_of_the_prompt_is_no_stall() {
    let mut machine = running(2);
    assert_eq!(outcome(&machine.on_event(ms(29_000), Event::Tick)), None);
    assert!(error(&machine.on_event(ms(30_000), Event::Tick)).contains("no sign of life"));
}

#[test]
fn a_sleep_of_the_router_itself_is_no_stages_fault() {
    let mut machine = running(2);
    machine.forgive(ms(5000));
    assert_eq!(outcome(&machine.on_event(ms(5500), Event::Tick)), None);
}
