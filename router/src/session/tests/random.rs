//! Random peers that may do anything.

use proptest::prelude::*;

use super::*;

/// Anything peers, network and client can do.
fn any_event() -> impl Strategy<Value = Event> {
    let stage = 0usize..3;
    let token =
        (2u32..14, 0u32..104, 0u32..3, 0u8..3).prop_map(|(position, token, generation, finish)| Sampled {
            generation: Generation::new(generation),
            finish: [Finish::No, Finish::Eos, Finish::Length][usize::from(finish)],
            ..sampled(position, token)
        });
    prop_oneof![
        2 => Just(Event::Start),
        4 => stage.clone().prop_map(|s| Event::OpenAnswered { stage: s, answer: Ok(opened(&terms(3))) }),
        1 => stage.clone().prop_map(|s| {
            Event::OpenAnswered { stage: s, answer: Err(OpenFailure::Unreachable("no".into())) }
        }),
        6 => (3u32..14).prop_map(|position| report(2, sampled(position, 40))),
        2 => (stage.clone(), token).prop_map(|(s, token)| report(s, token)),
        2 => (stage.clone(), 0u32..14).prop_map(|(s, applied)| progress(s, applied)),
        1 => stage.clone().prop_map(|s| failed(s, None)),
        2 => stage.clone().prop_map(ended),
        1 => stage.prop_map(|s| Event::LinkLost { stage: s, why: "x".into() }),
        2 => (0u32..20).prop_map(|tokens| Event::Consumed { tokens }),
        1 => Just(Event::Satisfied),
        1 => Just(Event::Cancelled),
        2 => Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_tokens_come_once_in_order_and_every_asked_stage_is_closed(
        open in any::<bool>(),
        events in prop::collection::vec((any_event(), 0u64..400), 0..60),
    ) {
        let mut machine = if open { running(3) } else { SessionMachine::new(terms(3)) };
        let mut now = ms(0);
        let (mut position, mut concluded, mut done) = (PROMPT, 0, 0);
        let mut asked = [open; 3];
        let mut closed = [0; 3];
        let mut heard_end = [false; 3];
        let mut run_until = if open { PROMPT + 4 } else { PROMPT };
        for (event, pause) in events {
            now += ms(pause);
            if let Event::LinkLost { stage, .. }
            | Event::OpenAnswered { stage, answer: Err(_) }
            | Event::Reported { stage, report: Report::Failed(_) } = &event
            {
                heard_end[*stage] = true;
            }
            for action in machine.on_event(now, event) {
                prop_assert_eq!(done, 0, "nothing follows Done");
                match action {
                    Action::Open { stage, .. } => asked[stage] = true,
                    Action::Send { stage, frame: Control::Close(_) } => closed[stage] += 1,
                    Action::Send { frame: Control::Credit(credit), .. } => {
                        prop_assert!(credit.run_until.get() >= run_until, "credit never shrinks");
                        run_until = credit.run_until.get();
                    }
                    Action::Send { stage, frame: Control::Tokens(_) } => prop_assert_eq!(stage, 0),
                    Action::Probe { stage, .. } => prop_assert!(stage < 3),
                    Action::Send { frame: Control::Follow(_), .. } => prop_assert!(false, "nobody stands by"),
                    Action::Attest { .. } | Action::Send { frame: Control::Attest(_), .. } => {
                        prop_assert!(false, "nobody signs");
                    }
                    Action::Emit { token, .. } => {
                        prop_assert_eq!(concluded, 0, "no token after the end");
                        prop_assert_eq!(token.position.get(), position, "in order, once");
                        prop_assert!(position <= run_until);
                        position += 1;
                    }
                    Action::Conclude(_) => concluded += 1,
                    Action::Done { .. } => done += 1,
                }
            }
            prop_assert!(concluded <= 1);
            prop_assert!(position - PROMPT <= 8);
            prop_assert_eq!(machine.is_done(), done == 1);
            prop_assert!(machine.next_tick().is_some() || machine.is_done() || !asked[2]);
        }
        if concluded == 1 {
            // Time alone brings it to its end.
            machine.on_event(now + ms(300), Event::Tick);
            prop_assert!(machine.is_done());
            for stage in 0..3 {
                prop_assert!(closed[stage] <= 1);
                prop_assert!(!asked[stage] || heard_end[stage] || closed[stage] == 1, "stage {} is left open", stage);
            }
        }
    }
}
