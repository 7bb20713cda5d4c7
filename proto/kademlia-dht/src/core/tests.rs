//! The core against honest and hostile peers, event by event.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use proto::discovery::{Contacts, FindNode, FindValue, Pong, StoreOutcome, Stored, Values};
use proto::record::{MAX_RECORD_BYTES, SignedRecord};
use proto::{FrameKind, NodeKey};

use super::*;
use crate::testing::{announcement, node_key};

const EPOCH: u64 = 1_800_000_000;

fn at(millis: u64) -> Now {
    Now { elapsed: Duration::from_millis(millis), unix_seconds: EPOCH + millis / 1000 }
}

fn core() -> Core {
    Core::new(node_key(0).node_id(), Some(7401), Limits::default(), 1)
}

fn addr(number: u64) -> SocketAddr {
    let [a, b, ..] = number.to_le_bytes();
    ([80, b, a, 1], 7401).into()
}

fn contact(number: u64) -> Contact {
    Contact { node: node_key(number).node_id(), addr: addr(number) }
}

fn peer(number: u64) -> Peer {
    Peer { node: node_key(number).node_id(), addr: addr(number) }
}

fn signed(key: &NodeKey, model: &str) -> SignedRecord {
    announcement(key, model).sign_at(EPOCH * 1000).unwrap()
}

fn ask(core: &mut Core, now: Now, peer: Peer, request: Request) -> Option<Response> {
    core.on_event(now, Event::Request { peer, request }).into_iter().find_map(|action| match action {
        Action::Reply(response) => Some(response),
        _ => None,
    })
}

fn store(core: &mut Core, now: Now, from: u64, key: DhtKey, record: SignedRecord) -> StoreOutcome {
    match ask(core, now, peer(from), Request::Store(Store { key, record, listen_port: None })) {
        Some(Response::Stored(Stored { outcome })) => outcome,
        other => panic!("{other:?}"),
    }
}

fn sends(actions: &[Action]) -> Vec<(RpcId, Contact, Request)> {
    let mut sends = Vec::new();
    for action in actions {
        if let Action::Send { rpc, to, request } = action {
            sends.push((*rpc, *to, request.clone()));
        }
    }
    sends
}

fn toy() -> DhtKey {
    DhtKey::of_model_name("toy")
}

/// A core that has just asked one peer for the records under `toy()`.
fn asking() -> (Core, RpcId) {
    let mut core = core();
    let joined = core.on_event(at(0), Event::Joined { contact: contact(1) });
    for (rpc, ..) in sends(&joined) {
        core.on_event(
            at(1),
            Event::Answered { rpc, response: Response::Contacts(Contacts { contacts: Vec::new() }) },
        );
    }
    let asked = core.on_event(at(2), Event::Lookup { operation: OperationId(1), key: toy() });
    let rpc = sends(&asked)[0].0;
    (core, rpc)
}

fn outcome(actions: Vec<Action>) -> Option<Outcome> {
    actions.into_iter().find_map(|action| match action {
        Action::Deliver { outcome, .. } => Some(outcome),
        _ => None,
    })
}

fn answer(records: Vec<SignedRecord>) -> Response {
    Response::Values(Values { records, more: false, contacts: Vec::new() })
}

#[test]
fn a_record_is_kept_and_told() {
    let mut core = core();
    let record = signed(&node_key(5), "toy");
    assert_eq!(store(&mut core, at(0), 5, toy(), record.clone()), StoreOutcome::Kept);
    let question = Request::FindValue(FindValue { key: toy(), after: None, listen_port: None });
    let told = ask(&mut core, at(1), peer(6), question);
    assert_eq!(told, Some(answer(vec![record])));
}

#[test]
fn only_its_signer_may_bring_a_record_and_only_under_its_keys() {
    let mut core = core();
    let record = signed(&node_key(5), "toy");
    assert_eq!(store(&mut core, at(0), 6, toy(), record.clone()), StoreOutcome::Invalid);
    assert_eq!(core.counters().rejected(Rejection::NotSigner), 1);
    let stray = DhtKey::of_model_name("other");
    assert_eq!(store(&mut core, at(0), 5, stray, record), StoreOutcome::WrongKey);
    assert_eq!(core.records(), 0);
}

#[test]
fn expired_and_future_records_are_refused_by_reason() {
    let mut core = core();
    let announcement = announcement(&node_key(5), "toy");
    let old = announcement.sign_at((EPOCH - 1_000) * 1000).unwrap();
    let future = announcement.sign_at((EPOCH + 1_000) * 1000).unwrap();
    assert_eq!(store(&mut core, at(0), 5, toy(), old), StoreOutcome::Invalid);
    assert_eq!(store(&mut core, at(0), 5, toy(), future), StoreOutcome::Invalid);
    assert_eq!(core.counters().rejected(Rejection::Expired), 1);
    assert_eq!(core.counters().rejected(Rejection::FromTheFuture), 1);
}

/// A frame that says it carries one record with a body of `len` bytes.
fn oversized(len: usize) -> Response {
    let mut body = BytesMut::new();
    body.put_u64_le(1);
    body.put_u64_le(len as u64);
    body.put_bytes(0x11, len);
    body.put_bytes(0x22, 32 + 64);
    body.put_u8(0);
    body.put_u64_le(0);
    Response::decode(FrameKind::Values, &body.freeze()).unwrap()
}

#[test]
fn hostile_answers_give_nothing_and_do_not_count_as_answers() {
    let good = signed(&node_key(5), "toy");
    let mut forged = Values { records: vec![good.clone()], more: false, contacts: Vec::new() };
    forged.records.extend([signed(&node_key(6), "another model")]);
    forged.records.sort_by_key(SignedRecord::claimed_signer);
    let unordered = {
        let mut records = vec![signed(&node_key(5), "toy"), signed(&node_key(6), "toy")];
        records.sort_by_key(|record| std::cmp::Reverse(record.claimed_signer()));
        answer(records)
    };
    let endless = Response::Values(Values { records: Vec::new(), more: true, contacts: Vec::new() });
    let cases = [
        (Response::Values(forged), Rejection::WrongKey),
        (unordered, Rejection::BadReply),
        (endless, Rejection::BadReply),
        (oversized(MAX_RECORD_BYTES + 1), Rejection::Malformed),
        (oversized(100), Rejection::Malformed),
        (Response::Pong(Pong { observed: addr(1) }), Rejection::BadReply),
    ];
    for (response, reason) in cases {
        let (mut core, rpc) = asking();
        let ended = outcome(core.on_event(at(10), Event::Answered { rpc, response }));
        assert_eq!(core.counters().rejected(reason), 1, "{reason:?}");
        match ended {
            Some(Outcome::Found(Ok(found))) => {
                assert_eq!(found.answered, 0);
                // What was genuine before the nonsense came stays.
                assert!(found.records.iter().all(|record| store::belongs(record, &toy())));
            }
            Some(Outcome::Found(Err(error))) => {
                assert_eq!(error, crate::LookupError::Unanswered { asked: 1 });
            }
            other => panic!("{other:?}"),
        }
    }
    let (mut core, rpc) = asking();
    let ended = outcome(core.on_event(at(10), Event::Answered { rpc, response: answer(vec![good]) }));
    assert!(
        matches!(ended, Some(Outcome::Found(Ok(found))) if found.records.len() == 1 && found.answered == 1)
    );
}

#[test]
fn more_contacts_or_records_than_a_reply_may_hold_do_not_decode() {
    let contacts: Vec<Contact> = (1..=21).map(contact).collect();
    let (kind, body) = Response::Contacts(Contacts { contacts }).encode();
    assert!(Response::decode(kind, &body).is_err());
    let records = (1..=17).map(|number| signed(&node_key(number), "toy")).collect();
    let (kind, body) = answer(records).encode();
    assert!(Response::decode(kind, &body).is_err());
}

#[test]
fn expired_records_in_an_answer_are_skipped_not_punished() {
    let (mut core, rpc) = asking();
    let old = announcement(&node_key(5), "toy").sign_at((EPOCH - 1_000) * 1000).unwrap();
    let ended = outcome(core.on_event(at(10), Event::Answered { rpc, response: answer(vec![old]) }));
    assert!(
        matches!(ended, Some(Outcome::Found(Ok(found))) if found.records.is_empty() && found.answered == 1)
    );
}

#[test]
fn rates_are_limited_per_peer_and_say_so() {
    let mut core = core();
    let ping = Request::Ping(Ping { listen_port: None });
    let answered = (0..1_000).filter(|_| ask(&mut core, at(0), peer(5), ping.clone()).is_some()).count();
    assert_eq!(answered as f64, Limits::default().requests.burst);
    assert!(ask(&mut core, at(0), peer(6), ping).is_some(), "others are not affected");
    let record = signed(&node_key(7), "toy");
    let kept = (0..100).filter(|_| store(&mut core, at(0), 7, toy(), record.clone()) == StoreOutcome::Kept);
    assert_eq!(kept.count() as f64, Limits::default().stores.burst);
    assert_eq!(store(&mut core, at(0), 7, toy(), record.clone()), StoreOutcome::RateLimited);
    assert_eq!(store(&mut core, at(3_000), 7, toy(), record), StoreOutcome::Kept);
}

#[test]
fn many_identities_behind_one_line_share_a_limit() {
    let mut core = core();
    let ping = Request::Ping(Ping { listen_port: None });
    let line = addr(1);
    let answered = (0..3_000)
        .filter(|number| {
            let peer = Peer { node: NodeId::from_bytes([*number as u8; 32]), addr: line };
            ask(&mut core, at(0), peer, ping.clone()).is_some()
        })
        .count();
    assert_eq!(answered as f64, Limits::default().subnet_requests.burst);
}

#[test]
fn an_asker_is_dialled_back_where_it_is_and_enters_the_table_only_when_it_answers() {
    let mut core = core();
    let question = Request::Ping(Ping { listen_port: Some(9_000) });
    let actions = core.on_event(at(0), Event::Request { peer: peer(5), request: question.clone() });
    let back = sends(&actions);
    let here = SocketAddr::new(addr(5).ip(), 9_000);
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].1, Contact { node: peer(5).node, addr: here });
    assert_eq!(core.table_len(), 0);
    let again = core.on_event(at(1), Event::Request { peer: peer(5), request: question });
    assert!(sends(&again).is_empty(), "one dial at a time");
    core.on_event(
        at(2),
        Event::Answered { rpc: back[0].0, response: Response::Pong(Pong { observed: here }) },
    );
    assert_eq!(core.contacts(), [Contact { node: peer(5).node, addr: here }]);
}

#[test]
fn nobody_is_dialled_back_at_a_well_known_port_nor_as_a_client() {
    let mut core = core();
    for port in [None, Some(53), Some(0), Some(123)] {
        let question = Request::Ping(Ping { listen_port: port });
        let actions = core.on_event(at(0), Event::Request { peer: peer(5), request: question });
        assert!(sends(&actions).is_empty());
    }
}

#[test]
fn contacts_of_our_own_network_are_not_told_to_strangers() {
    let mut core = core();
    let lan = Contact { node: node_key(1).node_id(), addr: "192.168.1.5:7401".parse().unwrap() };
    let own = Contact { node: node_key(2).node_id(), addr: "127.0.0.1:7401".parse().unwrap() };
    for contact in [lan, own, contact(3)] {
        core.on_event(at(0), Event::Joined { contact });
    }
    let question = Request::FindNode(FindNode { target: toy(), listen_port: None });
    let mut told = |addr: &str| {
        let peer = Peer { node: node_key(9).node_id(), addr: addr.parse().unwrap() };
        match ask(&mut core, at(1), peer, question.clone()) {
            Some(Response::Contacts(reply)) => reply.contacts.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told("90.0.0.1:7401"), 1);
    assert_eq!(told("192.168.1.6:7401"), 2);
    assert_eq!(told("127.0.0.1:9000"), 3);
}

#[test]
fn lookups_beyond_the_limit_are_told_to_come_back() {
    let limits = Limits { lookups: 2, ..Limits::default() };
    let mut core = Core::new(node_key(0).node_id(), None, limits, 1);
    core.on_event(at(0), Event::Joined { contact: contact(1) });
    // The join's own lookup is one of the two.
    core.on_event(at(0), Event::Lookup { operation: OperationId(1), key: toy() });
    let refused = core.on_event(at(0), Event::Lookup { operation: OperationId(2), key: toy() });
    assert_eq!(outcome(refused), Some(Outcome::Found(Err(crate::LookupError::Busy))));
}

#[test]
fn repeated_records_are_checked_once() {
    let mut core = core();
    let record = signed(&node_key(5), "toy");
    for key in [toy(), DhtKey::of_all_models(), DhtKey::of_node(node_key(5).node_id())] {
        store(&mut core, at(0), 5, key, record.clone());
        store(&mut core, at(0), 5, key, record.clone());
    }
    assert_eq!(core.counters().verified, 1);
}

/// Every kind of request and reply, as frames.
fn samples() -> Vec<(FrameKind, Bytes)> {
    let record = signed(&node_key(5), "toy");
    let listen_port = Some(7401);
    let contacts: Vec<Contact> = (1..=20).map(contact).collect();
    let requests = [
        Request::Ping(Ping { listen_port }),
        Request::FindNode(FindNode { target: toy(), listen_port }),
        Request::FindValue(FindValue { key: toy(), after: Some(node_key(1).node_id()), listen_port }),
        Request::Store(Store { key: toy(), record: record.clone(), listen_port }),
    ];
    let responses = [
        Response::Pong(Pong { observed: addr(1) }),
        Response::Contacts(Contacts { contacts: contacts.clone() }),
        Response::Values(Values { records: vec![record], more: true, contacts }),
        Response::Stored(Stored { outcome: StoreOutcome::Kept }),
    ];
    requests.iter().map(Request::encode).chain(responses.iter().map(Response::encode)).collect()
}

#[test]
fn a_hundred_thousand_mutated_frames_neither_panic_nor_grow_anything() {
    let seed = 7;
    println!("seed {seed}");
    let mut random = SeededRandom::new(seed);
    let samples = samples();
    let mut core = core();
    let mut decoded = 0;
    for round in 0..100_000_u64 {
        let (kind, body) = &samples[random.below(samples.len() as u64) as usize];
        let mut body = body.to_vec();
        for _ in 0..=random.below(4) {
            match random.below(4) {
                0 if !body.is_empty() => body.truncate(random.below(body.len() as u64) as usize),
                1 => body.push(random.next_u64() as u8),
                _ if !body.is_empty() => {
                    let place = random.below(body.len() as u64) as usize;
                    body[place] = random.next_u64() as u8;
                }
                _ => {}
            }
        }
        let body = Bytes::from(body);
        let now = at(round / 10);
        let mut actions = Vec::new();
        if let Ok(request) = Request::decode(*kind, &body) {
            decoded += 1;
            actions.extend(core.on_event(now, Event::Request { peer: peer(random.below(50) + 10), request }));
        }
        if let Ok(response) = Response::decode(*kind, &body) {
            decoded += 1;
            let operation = OperationId(round);
            let mut rpcs = sends(&core.on_event(now, Event::Joined { contact: contact(1) }));
            rpcs.extend(sends(&core.on_event(now, Event::Lookup { operation, key: toy() })));
            for (rpc, ..) in rpcs {
                actions.extend(core.on_event(now, Event::Answered { rpc, response: response.clone() }));
            }
        }
        // Whatever else it wants to send fails, as everything sent because of junk would.
        let mut left = sends(&actions);
        while let Some((rpc, ..)) = left.pop() {
            left.extend(sends(&core.on_event(now, Event::Failed { rpc })));
        }
        if round % 1_000 == 0 {
            for (rpc, ..) in sends(&core.on_event(now, Event::Tick)) {
                core.on_event(now, Event::Failed { rpc });
            }
        }
    }
    assert!(decoded > 1_000, "the mutations are not all trivial: {decoded}");
    assert!(core.records() <= 4, "only the one genuine record: {}", core.records());
    assert!(core.table_len() <= 20, "{}", core.table_len());
    assert!(core.lookups() <= 64);
    assert!(core.pending.len() <= 64 * 28, "{}", core.pending.len());
    assert!(core.verified.len() <= limits::VERIFIED_REMEMBERED);
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(kind in 0x40_u16..0x48, body in prop::collection::vec(any::<u8>(), 0..600)) {
        let kind = FrameKind::from_number(kind).unwrap();
        let body = Bytes::from(body);
        let _ = Request::decode(kind, &body);
        let _ = Response::decode(kind, &body);
    }
}
