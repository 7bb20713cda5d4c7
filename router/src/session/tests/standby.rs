//! Nodes that stand by: when they are asked, what they are told, and what a stage's silence means with them.

use proto::session::Open;

use super::*;

const FIRST: u32 = 40;

/// Two stages, for each of which somebody stands by; running, and the first token has come.
fn followed() -> (SessionMachine, Vec<Action>) {
    let prompt = vec![5; FIRST as usize].into();
    let mut terms = SessionTerms { prompt, max_tokens: 60, max_positions: 100, credit: 64, ..terms(2) };
    terms.standbys = (0..2)
        .map(|stage| {
            let at = PlanStage { node: NodeId::from_bytes([8 + stage as u8; 32]), ..terms.stages()[stage] };
            StandbyStage { stage, at }
        })
        .collect();
    let mut machine = SessionMachine::new(terms);
    let _ = machine.on_event(ms(0), Event::Start);
    for stage in [1, 0] {
        let digest = machine.terms().plan.digest();
        let _ = machine.on_event(ms(0), Event::OpenAnswered { stage, answer: Ok(opened(digest, 0)) });
    }
    let actions = token(&mut machine, ms(1), FIRST);
    (machine, actions)
}

fn opened(digest: proto::ContentHash, held: u32) -> Opened {
    Opened { session: SessionId::new(9), generation: Generation::new(1), digest, reusable: Added(held) }
}

fn token(machine: &mut SessionMachine, now: Duration, position: u32) -> Vec<Action> {
    let report = Report::Sampled(Box::new(sampled(position, 7)));
    machine.on_event(now, Event::Reported { stage: 1, report })
}

fn applied(machine: &mut SessionMachine, now: Duration, number: usize, rows: u32) {
    let progress = Progress {
        session: SessionId::new(9),
        generation: Generation::new(1),
        applied: Position::new(rows),
        step_us: 1_000,
    };
    let _ = machine.on_event(now, Event::Reported { stage: number, report: Report::Progress(progress) });
}

/// What they answer to the opens in `actions`.
fn open_all(machine: &mut SessionMachine, now: Duration, actions: &[Action]) -> Vec<Action> {
    let asked: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Open { stage, open } => Some((*stage, open.plan.digest())),
            _ => None,
        })
        .collect();
    asked
        .into_iter()
        .flat_map(|(stage, digest)| {
            machine.on_event(now, Event::OpenAnswered { stage, answer: Ok(opened(digest, 0)) })
        })
        .collect()
}

#[test]
fn they_are_asked_with_the_first_token_to_be_the_stage_that_sends_nothing() {
    let (mut machine, actions) = followed();
    let opens: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Open { stage, open } => Some((*stage, open)),
            _ => None,
        })
        .collect();
    assert_eq!(opens.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3]);
    for (stage, (_, open)) in opens.iter().enumerate() {
        assert_eq!(usize::from(open.stage), stage);
        assert_eq!(open.plan.stages[stage].node, NodeId::from_bytes([8 + stage as u8; 32]));
        assert_eq!(
            open.plan.stages[1 - stage],
            machine.terms().stages()[1 - stage],
            "the others as they are"
        );
        assert!(open.tail.is_none() && open.service.further.resume.role.standby);
        assert_eq!(
            <Open as proto::Message>::decode(&proto::Message::encode(&***open)).as_ref(),
            Ok(&***open)
        );
    }
    // Only with the first token.
    assert!(
        !token(&mut machine, ms(2), FIRST + 1).iter().any(|action| matches!(action, Action::Open { .. }))
    );
}

#[test]
fn the_stage_before_feeds_them_and_the_router_stage_noughts() {
    let (mut machine, actions) = followed();
    let told = open_all(&mut machine, ms(2), &actions);
    let follows: Vec<_> = told
        .iter()
        .filter_map(|action| match action {
            Action::Send { stage, frame: Control::Follow(follow) } => Some((*stage, follow.standby.node)),
            _ => None,
        })
        .collect();
    assert_eq!(follows, [(0, NodeId::from_bytes([9; 32]))]);
    // Tokens in portions, each once.
    let mut given = Vec::new();
    for position in FIRST..FIRST + 40 {
        let later = if position == FIRST { told.clone() } else { token(&mut machine, ms(2), position) };
        for action in later {
            if let Action::Send { stage: 2, frame: Control::Tokens(tokens) } = action {
                assert_eq!(tokens.start.get() as usize, given.len());
                assert!(tokens.tokens.len() >= 8);
                given.extend(tokens.tokens);
            }
        }
    }
    assert!(given.len() >= 80 - 8, "{}", given.len());
    assert_eq!(given[38..42], [5, 5, 7, 7]);
}

#[test]
fn a_silent_stage_is_asked_whether_it_lives_and_given_up_if_it_does_not_say() {
    let (mut machine, actions) = followed();
    let _ = open_all(&mut machine, ms(2), &actions);
    applied(&mut machine, ms(3), 3, FIRST);
    let patience = machine.terms().limits.standby_watch.answer;
    // Nobody keeps up with stage 0.
    for (stage, follows) in [(0, false), (1, true)] {
        let limit = machine.terms().limits.standby_watch.silence;
        let _ = machine.on_event(ms(3), Event::Tick);
        let due = machine.next_tick().unwrap();
        assert!(due <= ms(3) + limit);
        if follows {
            let asked = machine.on_event(ms(3) + limit, Event::Tick);
            assert!(asked.contains(&Action::Probe { stage, patience }), "{asked:?}");
            assert!(!asked.contains(&Action::Probe { stage: 0, patience }));
        }
    }
    // It lives: asked again after a while, and not before.
    let now = ms(160);
    assert_eq!(machine.on_event(now, Event::Probed { stage: 1, alive: true }), []);
    assert_eq!(machine.on_event(ms(300), Event::Tick), []);
    assert!(machine.on_event(ms(311), Event::Tick).contains(&Action::Probe { stage: 1, patience }));
    // A report in between is an answer, too.
    applied(&mut machine, ms(320), 1, FIRST);
    assert_eq!(machine.on_event(ms(411), Event::Probed { stage: 1, alive: false }), []);
    assert!(machine.on_event(ms(480), Event::Tick).contains(&Action::Probe { stage: 1, patience }));
    let given_up = machine.on_event(ms(580), Event::Probed { stage: 1, alive: false });
    let failed = given_up.iter().find_map(|action| match action {
        Action::Conclude(Outcome::Failed(error)) => Some(error.clone()),
        _ => None,
    });
    assert!(matches!(failed, Some(SessionError::Stalled { stage, .. }) if stage.stage == 1), "{given_up:?}");
    // Those that stand by keep what they have, as the stages do.
    for stage in [0, 1, 2, 3] {
        let closed = |action: &Action| {
            matches!(action, Action::Send { stage: to, frame: Control::Close(close) }
                if *to == stage && close.code == CloseCode::HopLost)
        };
        assert!(given_up.iter().any(closed), "{stage}: {given_up:?}");
    }
}

#[test]
fn one_that_is_lost_refuses_or_lags_is_not_counted_on() {
    for way in 0..3 {
        let (mut machine, actions) = followed();
        if way == 0 {
            for stage in [2, 3] {
                let answer = Err(OpenFailure::Unreachable("gone".into()));
                assert_eq!(machine.on_event(ms(2), Event::OpenAnswered { stage, answer }), []);
            }
        } else {
            let _ = open_all(&mut machine, ms(2), &actions);
        }
        if way == 1 {
            for stage in [2, 3] {
                assert_eq!(machine.on_event(ms(3), Event::LinkLost { stage, why: "gone".into() }), []);
            }
        }
        if way == 2 {
            applied(&mut machine, ms(3), 2, FIRST);
            applied(&mut machine, ms(3), 3, FIRST);
            for position in FIRST + 1..FIRST + 30 {
                let _ = token(&mut machine, ms(4), position);
            }
        }
        // The usual patience.
        let Watch { silence, answer } = machine.terms().limits.watch;
        let soon = machine.on_event(silence.saturating_sub(ms(1)), Event::Tick);
        assert!(!soon.iter().any(|action| matches!(action, Action::Probe { .. })), "{way}: {soon:?}");
        let actions = machine.on_event(silence + ms(5), Event::Tick);
        assert!(actions.contains(&Action::Probe { stage: 0, patience: answer }), "{way}: {actions:?}");
        assert!(!machine.is_done());
    }
}
