//! Sessions of made-up swarms: hops with recorders, random chunks, losses, recoveries by PROTOCOL 3.5 and ragged ends.
//!
//! Rows and tokens are functions of the tokens before them, so that every honest hop of a span makes the same ones. All
//! that is random comes from one seed.

use std::collections::{BTreeMap, HashMap};

use proto::tensor::NumericsClass;
use proto::{Generation, LayerSpan, ModelId, NodeId, NodeKey, Position, SessionId};
use proto_attest::check::{Evidence, GenerationEvidence, OpenedSample};
use proto_attest::keys::{KeyBinding, SignedBinding};
use proto_attest::open::{LaneId, OpenAck, RouteHop, SessionOpen, SignedAck, VerifiedOpen};
use proto_attest::receipt::{Draft, SignedReceipt};
use proto_attest::recorder::{Recorder, RecorderTerms};
use proto_attest::sample::Sample;
use proto_attest::{Address, Amount, Digest, Leaf, LeafHasher, OperatorKey, ReceiptKey, tree};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::text::{Text, VOCAB, terms};

pub(crate) const ROUTER: u8 = 100;

/// How a session goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) seed: u64,
    pub(crate) hops: usize,
    pub(crate) prompt: u32,
    pub(crate) answer: u32,
    /// Nodes lost in the middle.
    pub(crate) losses: usize,
    /// Rows reused from an earlier session.
    pub(crate) reused: u32,
    /// Whether messages of receipts may be lost.
    pub(crate) receipts_are_lost: bool,
    /// Hops may stop in the middle of a step.
    pub(crate) stops: bool,
}

/// Evidence, and the keys to sign it again after a test changed it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) evidence: Evidence,
    pub(crate) opens: Vec<VerifiedOpen>,
}

/// The receipt key of a node by its number.
pub(crate) fn key(number: u8) -> ReceiptKey {
    ReceiptKey::from_bytes(&[number; 32]).unwrap()
}

/// The receipt key of a hop of a generation.
pub(crate) fn key_of(address: Address) -> ReceiptKey {
    (1..=ROUTER).map(key).find(|key| key.address() == address).unwrap()
}

pub(crate) fn node_id(number: u8) -> NodeId {
    NodeKey::from_seed(&[number; 32]).node_id()
}

pub(crate) fn binding(number: u8) -> SignedBinding {
    let operator = OperatorKey::from_bytes(&[200; 32]).unwrap();
    let binding = KeyBinding {
        node: node_id(number),
        operator: operator.address(),
        receipt: key(number).address(),
        sequence: 1,
        issued_unix_s: 500,
        expires_unix_s: 1_000_000,
    };
    binding.sign_with_both(&NodeKey::from_seed(&[number; 32]), &operator)
}

/// What a node has of the session between generations.
#[derive(Clone, Debug, Default)]
struct Kept {
    rows: u32,
    holds_sent: bool,
    cites: Option<Digest>,
}

/// A hop at work.
struct Hop {
    number: u8,
    recorder: Recorder,
    from: u32,
    sends_from: u32,
    /// Next row to compute, and one past the last that came.
    next: u32,
    came: u32,
    /// Next row to send again.
    resend: u32,
    drafts: Vec<Draft>,
    /// Leaves to attach, by receipt.
    closing: Vec<(Digest, Vec<Leaf>)>,
}

/// Runs a session.
pub(crate) fn session(course: Course) -> Session {
    let mut rng = ChaCha8Rng::seed_from_u64(course.seed);
    let mut text = Text::new(course.prompt);
    let mut route: Vec<u8> = (1..=course.hops as u8).collect();
    let mut spare = course.hops as u8 + 1;
    let mut kept: HashMap<u8, Kept> = HashMap::new();
    if course.reused > 0 {
        for &node in &route {
            let cites = Some(Digest::from_bytes([node; 32]));
            kept.insert(node, Kept { rows: course.reused, holds_sent: true, cites });
        }
    }
    let mut delivered = course.prompt;
    let mut opens: Vec<VerifiedOpen> = Vec::new();
    let mut generations = Vec::new();
    for generation in 0..=course.losses as u32 {
        let goal = course.prompt + course.answer;
        let is_last = generation == course.losses as u32;
        let until = if is_last { goal } else { rng.random_range(delivered..=goal.max(delivered)) };
        let open = open(course, generation, delivered, &route, &kept, opens.last());
        let mut hops = start(&open, &route, &kept, &mut rng);
        let lost = if is_last { None } else { Some(rng.random_range(0..route.len())) };
        let steps = if is_last { usize::MAX } else { rng.random_range(1..4_000) };
        let samples = run(&open, &mut hops, &mut text, until, (steps, course.stops), &mut rng);
        // Of the last tokens some may not have reached the router.
        let chosen = samples.last_key_value().map_or(delivered, |(&position, _)| (position + 1).min(goal));
        if is_last {
            delivered = chosen.max(delivered);
        } else if chosen > delivered {
            delivered = rng.random_range(chosen.saturating_sub(2).max(delivered)..=chosen);
        }
        let mut shown = Vec::new();
        for (index, hop) in hops.iter_mut().enumerate() {
            let is_lost = lost == Some(index);
            if is_lost {
                // Killed before it signed some of them.
                let sent = rng.random_range(0..=hop.drafts.len());
                hop.drafts.truncate(sent);
                kept.remove(&hop.number);
            } else {
                let closing = hop.recorder.end();
                hop.closing = closing.sent.into_iter().map(|sent| (sent.receipt, sent.leaves)).collect();
                hop.drafts.extend(closing.ragged);
                let cites = hop.recorder.newest();
                let cites = cites.or_else(|| kept.get(&hop.number).and_then(|kept| kept.cites));
                let holds_sent = rng.random_bool(0.7);
                kept.insert(hop.number, Kept { rows: hop.next, holds_sent, cites });
            }
            let signer = key(hop.number);
            for draft in hop.drafts.drain(..) {
                if course.receipts_are_lost && rng.random_bool(0.05) {
                    continue;
                }
                let attached = hop.closing.iter().find(|(digest, _)| *digest == draft.digest).cloned();
                let mut signed = draft.sign(&signer);
                if let Some((_, leaves)) = attached {
                    signed.leaves.sent = leaves;
                }
                shown.push(signed);
            }
        }
        generations.push(generation_evidence(&open, &route, shown, &samples, &mut rng));
        opens.push(open);
        if let Some(lost) = lost
            && rng.random_bool(0.8)
        {
            route[lost] = spare;
            spare += 1;
        }
    }
    text.tokens.truncate(delivered as usize);
    let nodes = (1..spare).chain([ROUTER]);
    let evidence = Evidence {
        presenter: key(ROUTER).address(),
        bindings: nodes.map(binding).collect(),
        tokens: text.tokens,
        terms: Some(terms()),
        vocab_size: VOCAB as u32,
        generations,
    };
    Session { evidence, opens }
}

fn open(
    course: Course,
    generation: u32,
    known: u32,
    route: &[u8],
    kept: &HashMap<u8, Kept>,
    before: Option<&VerifiedOpen>,
) -> VerifiedOpen {
    // PROTOCOL 3.5, from the tail to stage 0.
    let rows = known - 1;
    let mut goes_on = vec![0; route.len()];
    let mut downstream = rows;
    for (index, node) in route.iter().enumerate().rev() {
        let held = kept.get(node).map_or(0, |kept| kept.rows).min(rows);
        let holds_sent = kept.get(node).is_some_and(|kept| kept.holds_sent);
        goes_on[index] = if held <= downstream || holds_sent { held } else { downstream };
        downstream = goes_on[index];
    }
    let route = route.iter().zip(&goes_on).enumerate().map(|(index, (&node, &goes_on))| RouteHop {
        node: node_id(node),
        span: LayerSpan::new(index as u32 * 4, index as u32 * 4 + 4).unwrap(),
        receipt_key: key(node).address(),
        lane: LaneId::from_bytes([node; 32]),
        price_prefill: Amount::new(2),
        price_decode: Amount::new(9),
        goes_on,
    });
    let open = SessionOpen {
        router: node_id(ROUTER),
        router_key: key(ROUTER).address(),
        session: SessionId::new(course.seed),
        generation: Generation::new(generation),
        prev: before.map_or(Digest::ZERO, VerifiedOpen::digest),
        model: ModelId::from_bytes([8; 32]),
        class: NumericsClass::Bf16,
        n_layers: 4 * course.hops as u32,
        route: route.collect(),
        prompt_rows: course.prompt,
        forced_rows: known - course.prompt,
        sampling_hash: terms().hash(),
        seed_commit: terms().seed_commit(),
        max_tokens: course.answer,
        opened_unix_s: 1_000 + u64::from(generation),
        deadline_unix_s: 9_000,
    };
    open.sign(&key(ROUTER)).unwrap()
}

fn start(open: &VerifiedOpen, route: &[u8], kept: &HashMap<u8, Kept>, rng: &mut ChaCha8Rng) -> Vec<Hop> {
    let hops = route.iter().enumerate().map(|(index, &number)| {
        let rows = open.open().rows_of(index as u16).unwrap();
        let cites = kept.get(&number).and_then(|kept| kept.cites);
        let exec_build = Digest::from_bytes([3; 32]);
        let terms = RecorderTerms { hop: index as u16, exec_build, cites, epoch: rng.random_range(0..3) };
        Hop {
            number,
            recorder: Recorder::new(open, terms).unwrap(),
            from: rows.computes_from,
            sends_from: rows.sends_from,
            next: rows.computes_from,
            came: rows.computes_from,
            resend: rows.sends_from,
            drafts: Vec::new(),
            closing: Vec::new(),
        }
    });
    hops.collect()
}

/// Lets hops compute in any order until the answer reaches `until` or the steps are used up; the samples of what was
/// chosen, by position.
fn run(
    open: &VerifiedOpen,
    hops: &mut [Hop],
    text: &mut Text,
    until: u32,
    (steps, stops): (usize, bool),
    rng: &mut ChaCha8Rng,
) -> BTreeMap<u32, Sample> {
    let facts = open.open();
    let rows = LeafHasher::of_rows(facts.router, facts.session, facts.generation);
    let sample_hasher = Sample::hasher(facts.router, facts.session, facts.generation);
    let known = facts.known();
    let tail = hops.len() - 1;
    // The tail's choices let stage 0 go on, a little beyond what is wanted.
    let run_until = (until + rng.random_range(0..5)).min(facts.prompt_rows + facts.max_tokens);
    let mut samples = BTreeMap::new();
    hops[0].came = known;
    let mut idle = 0;
    for _ in 0..steps {
        if idle > 60 * hops.len() {
            break;
        }
        let index = rng.random_range(0..hops.len());
        let boundary = index as u32 * 4;
        let leaves = |text: &mut Text, boundary, from: u32, to: u32| -> Vec<Leaf> {
            (from..to).map(|row| rows.leaf(Position::new(row), &text.row(boundary, row))).collect()
        };
        let hop = &mut hops[index];
        if hop.resend < hop.from {
            let end = hop.from.min(hop.resend + rng.random_range(1..200));
            let sent = leaves(text, boundary + 4, hop.resend, end);
            hop.drafts.extend(hop.recorder.sent(hop.resend, &sent).unwrap());
            hop.resend = end;
            if index < tail {
                hops[index + 1].came = end;
            }
            idle = 0;
            continue;
        }
        if hop.next >= hop.came {
            idle += 1;
            continue;
        }
        idle = 0;
        let (start, end) = (hop.next, hop.came.min(hop.next + rng.random_range(1..200)));
        let received = leaves(text, boundary, start, end);
        hop.drafts.extend(hop.recorder.received(start, &received).unwrap());
        if stops && rng.random_bool(0.002) {
            // Stopped between the two: the rows are in no receipt of this generation.
            break;
        }
        hop.next = end;
        let first = start.max(hop.sends_from);
        if first < end {
            let sent = leaves(text, boundary + 4, first, end);
            hop.drafts.extend(hop.recorder.sent(first, &sent).unwrap());
            if index < tail {
                hops[index + 1].came = end;
            }
        }
        if index == tail {
            for row in start.max(known - 1)..end {
                let position = row + 1;
                let sample = Sample::of_logits(Position::new(position), &text.logits(position)).unwrap();
                let token = text.token(position);
                let leaf = sample.leaf(&sample_hasher);
                let drafts = hops[tail].recorder.sampled(position, token, leaf).unwrap();
                hops[tail].drafts.extend(drafts);
                samples.insert(position, sample);
                if position < run_until {
                    hops[0].came = position + 1;
                }
            }
        }
    }
    samples
}

fn generation_evidence(
    open: &VerifiedOpen,
    route: &[u8],
    receipts: Vec<SignedReceipt>,
    samples: &BTreeMap<u32, Sample>,
    rng: &mut ChaCha8Rng,
) -> GenerationEvidence {
    let facts = open.open();
    let hasher = Sample::hasher(facts.router, facts.session, facts.generation);
    let mut opened = Vec::new();
    for sampler in receipts.iter().filter_map(|receipt| receipt.sampler.as_ref()) {
        let first = sampler.sampler.seed_index;
        let positions: Vec<u32> = (first..first + sampler.sampler.tokens.len() as u32).collect();
        let leaves: Vec<Leaf> = positions.iter().map(|position| samples[position].leaf(&hasher)).collect();
        let index = rng.random_range(0..positions.len());
        let sample = samples[&positions[index]].clone();
        opened.push(OpenedSample { sample, path: tree::prove(&leaves, index).unwrap() });
    }
    opened.sort_by_key(|opened| opened.sample.position());
    let acks = (0..route.len()).map(|hop| ack(open, hop as u16)).collect();
    GenerationEvidence { open: open.signed().clone(), acks, receipts, samples: opened }
}

pub(crate) fn ack(open: &VerifiedOpen, hop: u16) -> SignedAck {
    let key = key_of(open.open().hop(hop).unwrap().receipt_key);
    OpenAck { open: open.digest(), hop }.sign(&key)
}
