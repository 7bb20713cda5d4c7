//! The session's rules: examples by name, how sessions end, and random peers that may do anything.

mod ends;
mod random;
mod standby;

use proto::session::{Finish, Plan, PlanStage, SamplingParams};
use proto::status::{CloseCode, Refusal, RefusalCode};
use proto::tensor::NumericsClass;
use proto::{Added, Generation, LayerSpan, ModelId, NodeId, Position, SessionId};

use super::*;
use std::time::Duration;

use proto::session::{Ended, Failed, Opened, Progress, Sampled};

const PROMPT: u32 = 3;
const EOS: u32 = 2;

fn terms(stages: u32) -> SessionTerms {
    let spans = LayerSpan::split_evenly(30, stages).unwrap();
    let stages = (1u8..)
        .zip(spans)
        .map(|(number, span)| PlanStage {
            node: NodeId::from_bytes([number; 32]),
            addr: ([127, 0, 0, 1], 7400 + u16::from(number)).into(),
            span,
        })
        .collect();
    SessionTerms {
        answer: proto::answer::AnswerTerms::default(),
        session: SessionId::new(9),
        generation: Generation::new(1),
        plan: Plan { model: ModelId::from_bytes([3; 32]), class: NumericsClass::Exact, n_layers: 30, stages },
        prompt: vec![5; PROMPT as usize].into(),
        generated: 0,
        since: Generation::new(0),
        max_tokens: 8,
        max_positions: 11,
        vocab: 100,
        eos: vec![EOS],
        sampling: SamplingParams::default(),
        credit: 4,
        limits: SessionLimits::default(),
        share: SessionShare::default(),
        standbys: Vec::new(),
        evidence: None,
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn sampled(position: u32, token: u32) -> Sampled {
    Sampled {
        session: SessionId::new(9),
        generation: Generation::new(1),
        position: Position::new(position),
        token,
        logprob: -1.0,
        margin: 1.0,
        finish: Finish::No,
        top: Added::default(),
    }
}

fn report(stage: usize, sampled: Sampled) -> Event {
    Event::Reported { stage, report: Report::Sampled(Box::new(sampled)) }
}

fn progress(stage: usize, applied: u32) -> Event {
    let (session, generation) = (SessionId::new(9), Generation::new(1));
    let report =
        Report::Progress(Progress { session, generation, applied: Position::new(applied), step_us: 1000 });
    Event::Reported { stage, report }
}

fn failed(stage: usize, lost: Option<NodeId>) -> Event {
    let (session, generation) = (SessionId::new(9), Generation::new(1));
    let report = Report::Failed(Box::new(Failed {
        session,
        generation,
        code: CloseCode::HopLost,
        lost,
        detail: "gone".into(),
    }));
    Event::Reported { stage, report }
}

fn ended(stage: usize) -> Event {
    let report = Report::Ended(Box::new(Ended {
        session: SessionId::new(9),
        generation: Generation::new(1),
        decode_steps: 1,
        prefill_rows: 3,
        decode_us: 5,
        prefill_us: 6,
        hop_us: 7,
        decode_bytes: 8,
        waste_rows: 0,
        skipped_rows: Added(0),
    }));
    Event::Reported { stage, report }
}

fn opened(terms: &SessionTerms) -> Opened {
    Opened {
        session: terms.session,
        generation: terms.generation,
        digest: terms.plan.digest(),
        reusable: Added(0),
    }
}

/// A machine whose stages have all opened at time zero.
fn running(stages: u32) -> SessionMachine {
    let mut machine = SessionMachine::new(terms(stages));
    let mut actions = machine.on_event(ms(0), Event::Start);
    while let Some(&Action::Open { stage, .. }) = actions.first() {
        let answer = Ok(opened(machine.terms()));
        actions = machine.on_event(ms(0), Event::OpenAnswered { stage, answer });
    }
    machine
}

fn outcome(actions: &[Action]) -> Option<&Outcome> {
    actions.iter().find_map(|action| match action {
        Action::Conclude(outcome) => Some(outcome),
        _ => None,
    })
}

fn error(actions: &[Action]) -> String {
    match outcome(actions) {
        Some(Outcome::Failed(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn closed_stages(actions: &[Action]) -> Vec<usize> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { stage, frame: Control::Close(_) } => Some(*stage),
            _ => None,
        })
        .collect()
}

#[test]
fn stages_are_opened_downstream_first_and_only_the_tail_is_told_its_terms() {
    let mut machine = SessionMachine::new(terms(3));
    let mut order = Vec::new();
    let mut actions = machine.on_event(ms(0), Event::Start);
    while let Some(Action::Open { stage, open }) = actions.first() {
        assert_eq!(open.tail.is_some(), *stage == 2);
        order.push(*stage);
        let event = Event::OpenAnswered { stage: *stage, answer: Ok(opened(machine.terms())) };
        actions = machine.on_event(ms(1), event);
    }
    assert_eq!(order, [2, 1, 0]);
    assert!(matches!(&actions[0], Action::Send { stage: 0, frame: Control::Tokens(_) }));
    assert!(
        matches!(&actions[1], Action::Send { stage: 0, frame: Control::Credit(c) } if c.run_until.get() == 7)
    );
}

/// Opens three stages for a prompt of 200 tokens that hold so many positions; what follows from the last answer.
fn opened_with(reuse: bool, reusable: [u32; 3]) -> Vec<Action> {
    let prompt: Vec<u32> = (0..200).map(|token| token % 100).collect();
    let share = SessionShare { reuse, ..SessionShare::default() };
    let mut machine =
        SessionMachine::new(SessionTerms { prompt: prompt.into(), max_positions: 208, share, ..terms(3) });
    let mut actions = machine.on_event(ms(0), Event::Start);
    while let Some(Action::Open { stage, open }) = actions.first() {
        assert_eq!(open.service.prefix.len(), if reuse { 3 } else { 0 });
        let answer = Ok(Opened { reusable: Added(reusable[*stage]), ..opened(machine.terms()) });
        actions = machine.on_event(ms(1), Event::OpenAnswered { stage: *stage, answer });
    }
    actions
}

#[test]
fn the_prompt_begins_where_the_stage_with_the_fewest_rows_ends() {
    for (reusable, start) in [([192, 64, 128], 64), ([192, 192, 192], 192), ([128, 0, 192], 0)] {
        let actions = opened_with(true, reusable);
        let Action::Send { stage: 0, frame: Control::Tokens(tokens) } = &actions[0] else {
            panic!("{actions:?}")
        };
        assert_eq!((tokens.start.get(), tokens.tokens.len()), (start, 200 - start as usize));
        assert_eq!(tokens.tokens[0], start % 100);
    }
}

#[test]
fn rows_that_were_not_offered_or_are_no_whole_blocks_break_the_protocol() {
    for (reuse, reusable) in [(true, [0, 256, 0]), (true, [0, 0, 63]), (false, [0, 0, 64])] {
        let said = error(&opened_with(reuse, reusable));
        assert!(said.contains("more than it was offered"), "{said}");
    }
}

#[test]
fn a_refusal_closes_those_that_opened_and_names_the_refuser() {
    let mut machine = SessionMachine::new(terms(3));
    machine.on_event(ms(0), Event::Start);
    machine.on_event(ms(0), Event::OpenAnswered { stage: 2, answer: Ok(opened(&terms(3))) });
    let refusal = OpenFailure::Refused(Refusal::new(RefusalCode::NoCapacity, "0 of 4096 positions"));
    let actions = machine.on_event(ms(0), Event::OpenAnswered { stage: 1, answer: Err(refusal) });
    assert_eq!(closed_stages(&actions), [2]);
    assert!(error(&actions).starts_with("node 02020202 (layers 10..20, 127.0.0.1:7402) refused"));
    assert!(machine.on_event(ms(1), ended(2)).iter().any(|action| matches!(action, Action::Done { .. })));
}

#[test]
fn a_lie_about_the_digest_is_refused() {
    let mut machine = SessionMachine::new(terms(2));
    machine.on_event(ms(0), Event::Start);
    let lie = Opened { digest: proto::ContentHash::of(b"another plan"), ..opened(&terms(2)) };
    let actions = machine.on_event(ms(0), Event::OpenAnswered { stage: 1, answer: Ok(lie) });
    assert!(error(&actions).contains("digest of another plan"));
    assert_eq!(closed_stages(&actions), [1]);
}

#[test]
fn an_answer_ends_at_eos_and_at_max_tokens() {
    let mut machine = running(2);
    machine.on_event(ms(10), report(1, sampled(3, 40)));
    let actions = machine.on_event(ms(20), report(1, Sampled { finish: Finish::Eos, ..sampled(4, EOS) }));
    assert_eq!(outcome(&actions), Some(&Outcome::Finished(FinishReason::Stop)));
    assert_eq!(closed_stages(&actions), [0, 1]);

    let mut machine = running(2);
    for position in 3..10 {
        let actions = machine.on_event(ms(20), report(1, sampled(position, 40)));
        assert_eq!(outcome(&actions), None);
        machine.on_event(ms(20), Event::Consumed { tokens: position - 2 });
    }
    let actions = machine.on_event(ms(20), report(1, Sampled { finish: Finish::Length, ..sampled(10, 40) }));
    assert_eq!(outcome(&actions), Some(&Outcome::Finished(FinishReason::Length)));
}

#[test]
fn duplicates_and_older_generations_are_dropped_and_gaps_are_violations() {
    let mut machine = running(2);
    assert_eq!(machine.on_event(ms(10), report(1, sampled(3, 40))).len(), 1);
    assert_eq!(machine.on_event(ms(11), report(1, sampled(3, 41))), []);
    let old = Sampled { generation: Generation::new(0), ..sampled(4, 42) };
    assert_eq!(machine.on_event(ms(12), report(1, old)), []);
    let actions = machine.on_event(ms(13), report(1, sampled(6, 43)));
    assert!(error(&actions).contains("broke the protocol: it sent the token of position 6, expected 4"));
}

#[test]
fn a_tail_may_not_run_past_its_credit_or_out_of_the_vocabulary_and_others_may_not_sample() {
    let mut machine = running(2);
    for position in 3..=7 {
        assert_eq!(outcome(&machine.on_event(ms(10), report(1, sampled(position, 40)))), None);
    }
    assert!(error(&machine.on_event(ms(10), report(1, sampled(8, 40)))).contains("past its credit"));
    assert!(error(&running(2).on_event(ms(10), report(1, sampled(3, 100)))).contains("vocabulary of 100"));
    assert!(error(&running(2).on_event(ms(10), report(0, sampled(3, 40)))).contains("not the last stage"));
}

#[test]
fn credit_follows_the_client() {
    let mut machine = running(2);
    machine.on_event(ms(10), report(1, sampled(3, 40)));
    let actions = machine.on_event(ms(10), Event::Consumed { tokens: 1 });
    assert!(
        matches!(&actions[..], [Action::Send { stage: 0, frame: Control::Credit(c) }] if c.run_until.get() == 8)
    );
    // A client can't have read what has not come.
    assert_eq!(machine.on_event(ms(10), Event::Consumed { tokens: 1000 }), []);
}

#[test]
fn leases_are_renewed_on_every_stage_at_a_third() {
    let mut machine = running(3);
    let mut credits = [0; 3];
    let mut now = ms(0);
    while now < ms(10_000) {
        now += ms(100);
        for stage in 0..3 {
            machine.on_event(now, progress(stage, 3));
        }
        for action in machine.on_event(now, Event::Tick) {
            if let Action::Send { stage, frame: Control::Credit(_) } = action {
                credits[stage] += 1;
            }
        }
        assert!(machine.next_tick().is_some());
        if now == ms(1000) {
            // The first token, so that nothing counts as stuck in the prompt.
            machine.on_event(now, report(2, sampled(3, 40)));
            for stage in 0..3 {
                machine.on_event(now, progress(stage, 4));
            }
        }
        if now > ms(1000) {
            machine.on_event(now, progress(0, 4));
        }
    }
    assert!(credits.iter().all(|&count| count >= 2), "{credits:?}");
}

#[test]
fn the_next_generation_goes_on_behind_what_came_and_counts_from_the_beginning() {
    let first = terms(3);
    let second = first.resumed(first.plan.clone(), Vec::new(), &[7, 8, 9]).unwrap();
    assert_eq!(second.generation, Generation::new(first.generation.get() + 1));
    assert_eq!((second.session, second.max_positions), (first.session, first.max_positions));
    assert_eq!(second.prompt[..], [&first.prompt[..], &[7, 8, 9]].concat());
    let third = second.resumed(first.plan.clone(), Vec::new(), &[1]).unwrap();
    assert_eq!((third.generated, third.max_tokens), (4, first.max_tokens - 4));
    assert_eq!((second.since, third.since), (first.generation, second.generation));
    let fourth = third.resumed(first.plan.clone(), Vec::new(), &[]).unwrap();
    assert_eq!(
        fourth.since, second.generation,
        "the third gave nothing: rows of the second are still those of its tokens"
    );
    let tail = third.open(2, 0).tail.unwrap();
    assert_eq!((tail.generated, tail.max_tokens), (4, first.max_tokens));
    assert_eq!(tail.history, third.prompt[..]);
    assert!(third.resumed(first.plan.clone(), Vec::new(), &[0; 4]).is_none(), "nothing is left to generate");
    assert!(third.resumed(first.plan, Vec::new(), &[0; 9]).is_none());
}

#[test]
fn a_later_generation_tells_each_stage_where_the_one_behind_it_goes_on() {
    let second = terms(3).resumed(terms(3).plan, Vec::new(), &[7, 8, 9]).unwrap();
    // Stage 1 is new and holds nothing, so that stage 0, which has sent it all, goes on where its own rows end.
    let mut machine = SessionMachine::new(second.clone());
    let mut actions = machine.on_event(ms(0), Event::Start);
    for (expected, downstream, held) in [(2, 5, 4), (1, 4, 0), (0, 0, 5)] {
        let [Action::Open { stage, open }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(*stage, expected);
        let resume = *open.service.further.resume;
        assert_eq!((resume.rows, resume.downstream), (5, downstream));
        let answer = Ok(Opened { reusable: Added(held), ..opened(&second) });
        let stage = *stage;
        actions = machine.on_event(ms(1), Event::OpenAnswered { stage, answer });
    }
    let [Action::Send { stage: 0, frame: Control::Tokens(tokens) }, ..] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((tokens.start.get(), &tokens.tokens[..]), (5, &[9][..]));
    // More than all but the last token nobody can hold.
    let mut machine = SessionMachine::new(second.clone());
    machine.on_event(ms(0), Event::Start);
    let answer = Ok(Opened { reusable: Added(6), ..opened(&second) });
    let actions = machine.on_event(ms(0), Event::OpenAnswered { stage: 2, answer });
    let outcome = actions.iter().find_map(|action| match action {
        Action::Conclude(Outcome::Failed(error)) => Some(error.to_string()),
        _ => None,
    });
    assert!(outcome.unwrap().contains("broke the protocol"), "{actions:?}");
}
