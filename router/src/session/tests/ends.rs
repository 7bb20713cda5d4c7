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
        report: Report::Failed(Failed { session, generation, code, lost: None, detail }),
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
        assert_eq!(SessionTerms { limits, ..terms(2) }.open(0).service.deadline_ms, told, "{total} us");
    }
    assert_eq!(terms(2).open(0).service.deadline_ms, 0);
}
