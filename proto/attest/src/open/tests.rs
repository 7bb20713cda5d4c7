//! Limits of opens, their chain, and bytes that are not opens.

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> ReceiptKey {
    ReceiptKey::from_bytes(&[number; 32]).unwrap()
}

fn hop(number: u8, start: u32, end: u32) -> RouteHop {
    RouteHop {
        node: NodeId::from_bytes([number; 32]),
        span: LayerSpan::new(start, end).unwrap(),
        receipt_key: key(number).address(),
        lane: LaneId([number; 32]),
        price_prefill: Amount::new(2),
        price_decode: Amount::new(5),
        goes_on: 0,
    }
}

fn open() -> SessionOpen {
    SessionOpen {
        router: NodeId::from_bytes([9; 32]),
        router_key: key(9).address(),
        session: SessionId::new(77),
        generation: Generation::new(0),
        prev: Digest::ZERO,
        model: ModelId::from_bytes([8; 32]),
        class: NumericsClass::Bf16,
        n_layers: 30,
        route: vec![hop(1, 0, 10), hop(2, 10, 30)],
        prompt_rows: 100,
        forced_rows: 0,
        sampling_hash: Digest::from_bytes([4; 32]),
        seed_commit: Digest::from_bytes([5; 32]),
        max_tokens: 64,
        opened_unix_s: 1_000,
        deadline_unix_s: 2_000,
    }
}

fn later(before: &VerifiedOpen) -> SessionOpen {
    let mut later = open();
    later.generation = Generation::new(1);
    later.prev = before.digest();
    later.forced_rows = 7;
    later.route[1] = hop(3, 10, 30);
    later.route[0].goes_on = 106;
    later
}

#[test]
fn a_signed_open_verifies() {
    let signed = open().sign(&key(9)).unwrap();
    assert_eq!(signed.signed().clone().verify().unwrap(), signed);
    assert_eq!(SignedOpen::decode(&signed.signed().encode()).unwrap(), *signed.signed());
    assert_eq!(open().sign(&key(1)).unwrap_err(), OpenError::NotByRouter);
}

#[test]
fn broken_limits_are_refused() {
    type Case = (fn(&mut SessionOpen), &'static str);
    let cases: [Case; 13] = [
        (|open| open.route.clear(), "route"),
        (|open| open.route = vec![hop(1, 0, 1); 129], "route"),
        (|open| open.n_layers = 31, "spans"),
        (|open| open.prompt_rows = 0, "rows"),
        (|open| open.prompt_rows = u32::MAX, "rows"),
        (|open| open.max_tokens = u32::MAX, "rows"),
        (|open| open.prev = Digest::from_bytes([1; 32]), "prev"),
        (|open| open.forced_rows = 1, "prev"),
        (|open| open.route[1].goes_on = 100, "goes_on"),
        (|open| open.route[0].lane = LaneId::UNPAID, "price"),
        (|open| open.route[0].price_decode = Amount::new(u128::MAX), "price"),
        (|open| open.route[0].receipt_key = Address::ZERO, "key"),
        (|open| open.deadline_unix_s = 999, "deadline"),
    ];
    for (spoil, field) in cases {
        let mut open = open();
        spoil(&mut open);
        assert_eq!(open.clone().sign(&key(9)).unwrap_err(), OpenError::Field(field));
        let signed = SignedOpen { signature: key(9).sign(&open.digest()), open };
        assert_eq!(signed.verify().unwrap_err(), OpenError::Field(field));
    }
}

#[test]
fn a_later_generation_keeps_what_must_stay() {
    type Case = (fn(&mut SessionOpen), ChainError);
    let before = open().sign(&key(9)).unwrap();
    assert_eq!(later(&before).sign(&key(9)).unwrap().follows(&before), Ok(()));
    let cases: [Case; 7] = [
        (|open| open.session = SessionId::new(1), ChainError::OtherSession),
        (|open| open.prev = Digest::from_bytes([1; 32]), ChainError::Link),
        (|open| open.class = NumericsClass::Int4, ChainError::Changed("class")),
        (|open| open.seed_commit = Digest::ZERO, ChainError::Changed("seed")),
        (|open| open.deadline_unix_s += 1, ChainError::Changed("deadline")),
        (|open| open.route[0].price_decode = Amount::new(6), ChainError::Price(0)),
        (|open| open.route[0].lane = LaneId([7; 32]), ChainError::Price(0)),
    ];
    let mut further = later(&before);
    further.generation = Generation::new(7);
    let further = further.sign(&key(9)).unwrap();
    assert_eq!(further.follows(&before), Ok(()), "numbers may be left out");
    assert_eq!(before.follows(&further), Err(ChainError::Link));
    for (spoil, error) in cases {
        let mut later = later(&before);
        spoil(&mut later);
        assert_eq!(later.sign(&key(9)).unwrap().follows(&before), Err(error));
    }
}

#[test]
fn what_is_due_is_a_function_of_the_open() {
    let before = open().sign(&key(9)).unwrap();
    let later = later(&before);
    assert_eq!(later.known(), 107);
    // Rows 106 alone, then decode rows.
    assert_eq!([100, 106, 107, 109].map(|end| later.price_due(0, end).unwrap().get()), [0, 0, 2, 12]);
    assert_eq!(later.price_due(1, 107).unwrap().get(), 214);
    assert_eq!(later.rows_of(0), Some(HopRows { computes_from: 106, sends_from: 0 }));
    assert_eq!(later.rows_of(1), Some(HopRows { computes_from: 0, sends_from: 0 }));
    assert_eq!(later.rows_of(2), None);
}

#[test]
fn an_ack_is_of_one_open_and_one_hop() {
    let open = open().sign(&key(9)).unwrap();
    let ack = OpenAck { open: open.digest(), hop: 1 }.sign(&key(2));
    assert_eq!(ack.verify(&open), Ok(()));
    assert_eq!(SignedAck::decode(&ack.encode()), Ok(ack));
    assert_eq!(ack.encode().len(), SignedAck::BYTES);
    let wrong = |hop, signer| OpenAck { open: open.digest(), hop }.sign(&key(signer)).verify(&open);
    assert_eq!(wrong(0, 2), Err(AckError::NotByHop(0)));
    assert_eq!(wrong(2, 2), Err(AckError::UnknownHop(2)));
    let other = OpenAck { open: Digest::ZERO, hop: 1 }.sign(&key(2));
    assert_eq!(other.verify(&open), Err(AckError::OtherOpen));
}

#[test]
fn a_hop_agrees_to_what_it_was_asked_for_only() {
    let open = open().sign(&key(9)).unwrap();
    let plan = plan(&open);
    let consent = || Consent {
        router: open.open().router,
        router_key: key(9).address(),
        session: SessionId::new(77),
        generation: Generation::new(0),
        plan: &plan,
        hop: 1,
        receipt_key: key(2).address(),
        goes_on: 0,
        lane: LaneId([2; 32]),
        price_prefill: Amount::new(2),
        price_decode: Amount::new(4),
        sampling: Some((Digest::from_bytes([4; 32]), Digest::from_bytes([5; 32]))),
    };
    assert_eq!(consent().to(&open, None), Ok(OpenAck { open: open.digest(), hop: 1 }));
    let refused = |consent: Consent<'_>, error| assert_eq!(consent.to(&open, None), Err(error));
    refused(Consent { router_key: key(1).address(), ..consent() }, ConsentError::OtherSession);
    refused(Consent { generation: Generation::new(1), ..consent() }, ConsentError::OtherSession);
    refused(Consent { hop: 0, ..consent() }, ConsentError::OtherHop);
    refused(Consent { goes_on: 5, ..consent() }, ConsentError::OtherHop);
    refused(Consent { lane: LaneId::UNPAID, ..consent() }, ConsentError::Price);
    refused(Consent { price_decode: Amount::new(6), ..consent() }, ConsentError::Price);
    refused(Consent { sampling: Some((Digest::ZERO, Digest::ZERO)), ..consent() }, ConsentError::Sampling);
    let mut other = plan.clone();
    other.stages[0].node = NodeId::from_bytes([7; 32]);
    refused(Consent { plan: &other, ..consent() }, ConsentError::OtherPlan);
    // The next generation, with another price for the hop that stays.
    let mut later = later(&open);
    later.route[0].price_decode = Amount::new(6);
    let later = later.sign(&key(9)).unwrap();
    let plan = self::plan(&later);
    let first = Consent {
        generation: Generation::new(1),
        plan: &plan,
        hop: 0,
        receipt_key: key(1).address(),
        goes_on: 106,
        lane: LaneId([1; 32]),
        ..consent()
    };
    assert_eq!(first.to(&later, Some(&open)), Err(ConsentError::Chain(ChainError::Price(0))));
    assert!(first.to(&later, None).is_ok());
}

fn plan(open: &VerifiedOpen) -> proto::session::Plan {
    let facts = open.open();
    let addr = "127.0.0.1:7401".parse().unwrap();
    let stage = |hop: &RouteHop| proto::session::PlanStage { node: hop.node, addr, span: hop.span };
    let stages = facts.route.iter().map(stage).collect();
    proto::session::Plan { model: facts.model, class: facts.class, n_layers: facts.n_layers, stages }
}

#[test]
fn two_opens_of_one_generation_contradict_each_other() {
    let first = open().sign(&key(9)).unwrap();
    let twin = SessionOpen { max_tokens: 65, ..open() }.sign(&key(9)).unwrap();
    let other = SessionOpen { session: SessionId::new(78), ..open() }.sign(&key(9)).unwrap();
    assert!(first.contradicts(&twin) && !first.contradicts(&first) && !first.contradicts(&other));
}

proptest! {
    #[test]
    fn a_changed_open_is_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = open().sign(&key(9)).unwrap().signed().encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(SignedOpen::decode(&bytes).and_then(SignedOpen::verify).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
        let _ = SignedOpen::decode(&bytes);
        let _ = SignedAck::decode(&bytes);
    }
}
