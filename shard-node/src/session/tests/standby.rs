//! A table that stands by: fed by the stage before, it holds what the stage holds, sends nothing, and takes its place.

use super::*;

const PROMPT: [u32; 20] = [7; 20];
const BUDGET: u32 = 32;
/// By which the stage before reaches whoever stands by.
const COPIES: LinkId = LinkId(500);

/// A table in the place of `stage`, which stands by in generation 0 of session 1.
fn standing_by(ring: &mut Ring, stage: usize) -> (SessionTable, ToyStage) {
    let mut toy = ToyStage::new(MODEL, spans(3)[stage]);
    let mut table = table(stage, toy.shape(), BUDGET);
    let mut open = open(3, stage as u32, 1, 0, &PROMPT, 60);
    open.tail = None;
    open.service.0.further.0.resume.0.role.0.standby = true;
    let admitted = table.admit(ring.now, router(), &open).1.unwrap();
    let slot = toy.open(admitted.terms.max_positions).unwrap();
    assert!(admitted.terms.receiver().is_none(), "it dials nobody");
    table.insert(ring.now, admitted.terms, slot, None);
    (table, toy)
}

const fn key() -> SessionKey {
    SessionKey { router: NodeId::from_bytes([200; 32]), session: SessionId::new(1) }
}

/// Sends what there is to send to the one that stands by for `stage`, which computes it. How many frames came.
fn follow(ring: &mut Ring, stage: usize, (table, toy): &mut (SessionTable, ToyStage)) -> usize {
    let mut frames = 0;
    while let Some(Replayed { link, row, rows, .. }) = ring.stages[stage - 1].0.next_copy(|_| true) {
        assert_eq!(link, COPIES);
        assert!(row.prefill && !row.sample);
        frames += 1;
        let frame =
            Activations { dtype: WireDtype::F32, hidden: 8, sent_unix_ns: 0, groups: vec![row], rows };
        let effects = table.rows(ring.now, node(stage as u8 - 1), LinkId(9), &frame, ring.arrival(), None);
        assert_eq!(effects, []);
    }
    while let Some(step) = table.next_step(ring.now, false, |_| true) {
        assert_eq!(step.outgoing(), [], "it sends nothing on");
        let mut logits = match toy.step(&step.groups, step.input.clone()).unwrap() {
            StepOutput::Logits(logits) => logits,
            StepOutput::Activations(rows) => {
                table.remember(&step, &rows);
                Vec::new()
            }
        };
        assert!(logits.is_empty(), "it samples nothing");
        let effects = table.step_done(ring.now, &step, Duration::ZERO, &mut logits, &mut ring.scratch);
        assert_eq!(effects, []);
    }
    frames
}

#[test]
fn it_follows_and_takes_over_without_the_rows_computed_anew() {
    for stage in [1, 2] {
        let mut ring = Ring::new(3, BUDGET);
        ring.open(1, 0, &PROMPT, 60).unwrap();
        ring.prompt(1, 0, &PROMPT);
        ring.credit(1, 0, 30);
        ring.run();
        let mut standby = standing_by(&mut ring, stage);
        let before = &mut ring.stages[stage - 1].0;
        assert!(before.follow(key(), Generation::new(0), COPIES, Position::new(0)));
        assert!(!before.follow(key(), Generation::new(1), COPIES, Position::new(0)), "no such generation");
        assert!(follow(&mut ring, stage, &mut standby) > 0);
        // In portions: what is short of one waits.
        ring.credit(1, 0, 30 + 3);
        ring.run();
        assert_eq!(follow(&mut ring, stage, &mut standby), 0);
        ring.credit(1, 0, 50);
        ring.run();
        assert!(follow(&mut ring, stage, &mut standby) > 0);
        let came = ring.tokens(1);
        // The stage dies, and whoever stood by is opened in its place.
        ring.replace(stage, BUDGET);
        let feeder = node(stage as u8 - 1);
        standby.0.feeder_lost(ring.now, feeder, LinkId(9), true);
        assert!(standby.0.is_empty() && standby.0.recovered().parked_positions > 0);
        ring.stages[stage] = standby;
        ring.resume(1, 1, (&PROMPT, &came), 60).unwrap();
        ring.credit(1, 1, 100);
        ring.run();
        assert_eq!([came, ring.tokens_of(1, 1)].concat(), MODEL.answer(&PROMPT, 60));
        assert_eq!(ring.stages[stage].0.recovered().resumed, 1);
        let again = ring.stages[stage - 1].0.recovered().replayed_rows;
        assert!(again < 8, "less than a portion is sent once more: {again}");
    }
}

#[test]
fn what_can_not_be_followed_is_not() {
    let mut ring = Ring::new(3, BUDGET);
    ring.open(1, 0, &PROMPT, 60).unwrap();
    ring.prompt(1, 0, &PROMPT);
    ring.credit(1, 0, 30);
    ring.run();
    let generation = Generation::new(0);
    assert!(
        !ring.stages[2].0.follow(key(), generation, COPIES, Position::new(0)),
        "the tail sends to nobody"
    );
    // Its link is lost: nobody else is touched.
    assert!(ring.stages[0].0.follow(key(), generation, COPIES, Position::new(0)));
    assert_eq!(ring.stages[0].0.link_lost(ring.now, node(77), COPIES), []);
    assert!(ring.stages[0].0.next_copy(|_| true).is_none());
    // A link without room is waited for.
    assert!(ring.stages[0].0.follow(key(), generation, COPIES, Position::new(0)));
    assert!(ring.stages[0].0.next_copy(|_| false).is_none());
    assert!(ring.stages[0].0.next_copy(|_| true).is_some());
    // Nothing is left of it.
    ring.control(0, 1, 0, Event::Close(CloseCode::Finished));
    assert!(ring.stages[0].0.next_copy(|_| true).is_none());
}

#[test]
fn one_that_stands_by_for_stage_nought_takes_tokens_in_portions() {
    let mut ring = Ring::new(3, BUDGET);
    let mut standby = standing_by(&mut ring, 0);
    let answer = MODEL.answer(&PROMPT, 60);
    let all = [&PROMPT[..], &answer].concat();
    for start in (0..48).step_by(16) {
        let tokens = all[start..start + 16].to_vec();
        let event = Event::Tokens { start: Position::new(start as u32), tokens };
        assert_eq!(standby.0.control(ring.now, key(), Generation::new(0), event), []);
        follow_tokens(&mut ring, &mut standby);
    }
    let Some(Effect::Report(_, Report::Progress(progress))) = standby.0.tick(ring.now).pop() else {
        panic!()
    };
    assert_eq!(progress.applied, Position::new(48));
}

fn follow_tokens(ring: &mut Ring, (table, toy): &mut (SessionTable, ToyStage)) {
    while let Some(step) = table.next_step(ring.now, false, |_| true) {
        assert_eq!(step.outgoing(), []);
        toy.step(&step.groups, step.input.clone()).unwrap();
        let effects = table.step_done(ring.now, &step, Duration::ZERO, &mut [], &mut ring.scratch);
        assert_eq!(effects, []);
    }
}
