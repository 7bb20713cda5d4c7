//! What happens in one schedule, drawn from its seed: nodes, streams, faults and when they strike. Pure.

use std::time::Duration;

use proto::LayerSpan;
use proto::session::SamplingParams;
use proto_transport::testing::Link;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use router::generate::GenerateRequest;

use crate::swarm::request;

/// Layers of the model: enough for every split, and few, as a thousand answers are computed.
pub(super) const LAYERS: u32 = 12;

/// Every stream begins before so many tokens have come to all.
pub(super) const LATEST_BEGIN: u32 = 40;

/// One schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    /// By node. Nodes of one span follow each other.
    pub(super) spans: Vec<LayerSpan>,
    /// Rows sent on that a node holds; `None` takes the default.
    pub(super) boundary_rows: Option<u64>,
    pub(super) routers: usize,
    pub(super) streams: Vec<Stream>,
    /// The earliest first.
    pub(super) faults: Vec<Due>,
    /// All nodes of this span go; otherwise one of each span is spared.
    pub(super) nobody_left: Option<LayerSpan>,
}

/// One client.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) router: usize,
    /// Asks when so many tokens have come to all.
    pub(super) begins_after: u32,
    pub(super) prompt: Vec<u32>,
    pub(super) request: GenerateRequest,
    /// Goes when so many tokens have come to it.
    pub(super) gives_up_after: Option<usize>,
    /// Reads nothing for so long after so many tokens each.
    pub(super) pauses: Option<(usize, Duration)>,
}

/// A fault and when it strikes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// When so many tokens have come to all.
    pub(super) after: u32,
    pub(super) whom: Whom,
    pub(super) fault: Fault,
}

/// Whom a fault strikes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whom {
    /// A node of this span that answers go over, if there is one.
    Span(usize),
    /// The one that was struck last.
    TheLast,
    /// All of this span.
    AllOf(usize),
    Router(usize),
}

/// What befalls an endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Freeze,
    Thaw,
    /// Its process ends, its sessions fail.
    Stop,
    /// It leaves in good order.
    Drain,
    /// It is not heard any more by this one.
    CutTo(Peer),
    /// It does not hear this one any more.
    CutFrom(Peer),
    /// What it sends suffers this.
    Link(Link),
    Heal,
}

/// The other end of a cut.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    Router(usize),
    /// By its number, beginning after the node itself.
    Node(usize),
}

impl Fault {
    /// Whether answers can't go over the node any more, or not for long.
    pub(super) const fn takes_away(self) -> bool {
        matches!(self, Self::Freeze | Self::Stop | Self::Drain | Self::CutTo(_) | Self::CutFrom(_))
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Stop => "stop",
            Self::Drain => "drain",
            Self::CutTo(_) => "cut to",
            Self::CutFrom(_) => "cut from",
            Self::Link(link) if link.loss > 0.0 => "loss",
            Self::Link(link) if link.duplicate > 0.0 => "duplicate",
            Self::Link(link) if link.reorder > 0.0 => "reorder",
            Self::Link(_) => "delay",
            Self::Heal => "heal",
        }
    }
}

/// All kinds of faults, as [`Fault::kind`] names them.
pub(super) const KINDS: [&str; 11] = [
    "freeze",
    "thaw",
    "stop",
    "drain",
    "cut to",
    "cut from",
    "loss",
    "duplicate",
    "reorder",
    "delay",
    "heal",
];

impl Schedule {
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let parts = splits(&mut rng);
        let spans = parts.iter().flat_map(|&(span, nodes)| vec![span; nodes]).collect();
        let routers = if rng.random_bool(0.25) { 2 } else { 1 };
        let streams: Vec<Stream> =
            (0..rng.random_range(1..=4)).map(|number| Stream::draw(&mut rng, number, routers)).collect();
        let tokens: u32 = streams.iter().map(|stream| stream.request.max_tokens).sum();
        let nobody_left = rng.random_bool(0.1).then(|| rng.random_range(0..parts.len()));
        let mut faults = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            faults.extend(Due::draw(&mut rng, tokens, (parts.len(), routers), nobody_left.is_some()));
        }
        if let Some(span) = nobody_left {
            let fault = if rng.random_bool(0.5) { Fault::Freeze } else { Fault::Stop };
            let after = rng.random_range(1..=tokens.div_ceil(2));
            faults.push(Due { after, whom: Whom::AllOf(span), fault });
        }
        faults.sort_by_key(|due| due.after);
        // One loss of a node at a time: a second one on its heels may leave a router for a second or two without a node
        // that it dares to use (known, and told in docs/BENCHMARKS.md).
        let mut lost = false;
        faults.retain(|due| {
            let all = matches!(due.whom, Whom::AllOf(_));
            all || !due.fault.takes_away() || !std::mem::replace(&mut lost, true)
        });
        Self {
            seed,
            spans,
            boundary_rows: rng.random_bool(0.3).then(|| rng.random_range(1..200)),
            routers,
            streams,
            faults,
            nobody_left: nobody_left.map(|span| parts[span].0),
        }
    }

    /// Where a span's nodes are.
    pub(super) fn nodes_of(&self, span: usize) -> std::ops::Range<usize> {
        let mut starts: Vec<usize> =
            (0..self.spans.len()).filter(|&at| at == 0 || self.spans[at] != self.spans[at - 1]).collect();
        starts.push(self.spans.len());
        starts[span]..starts[span + 1]
    }
}

/// The spans of three to six nodes, and how many hold each: two at least.
fn splits(rng: &mut StdRng) -> Vec<(LayerSpan, usize)> {
    let nodes: &[usize] = match rng.random_range(0..8) {
        0 => &[3],
        1 => &[2, 3],
        2 => &[3, 3],
        3..=5 => &[2, 2],
        _ => &[2, 2, 2],
    };
    let mut cuts: Vec<u32> = vec![0, LAYERS];
    while cuts.len() <= nodes.len() {
        cuts.push(rng.random_range(1..LAYERS));
        cuts.sort_unstable();
        cuts.dedup();
    }
    let span = |pair: &[u32]| LayerSpan::new(pair[0], pair[1]).unwrap();
    cuts.windows(2).map(span).zip(nodes.iter().copied()).collect()
}

impl Stream {
    fn draw(rng: &mut StdRng, number: u32, routers: usize) -> Self {
        // Now and then a beginning of whole blocks that streams have in common.
        let shared = if rng.random_bool(0.2) { rng.random_range(0..140) } else { 0 };
        let own = rng.random_range(1..30);
        let prompt: Vec<u32> = (0..shared)
            .map(|at| (at * 13 + at / 64) % 64)
            .chain((0..own).map(|_| rng.random_range(0..64)))
            .collect();
        let mut request = request(&prompt, rng.random_range(1..100));
        if rng.random_bool(0.5) {
            request.sampling = SamplingParams {
                temperature: rng.random_range(0.3..2.0),
                top_p: rng.random_range(0.5..1.0),
                repetition_penalty: if rng.random_bool(0.5) { 1.2 } else { 1.0 },
                presence_penalty: if rng.random_bool(0.3) { 0.5 } else { 0.0 },
                seed: rng.random(),
                ..SamplingParams::default()
            };
        }
        request.credit = rng.random_range(1..64);
        request.answer.top_logprobs = if rng.random_bool(0.2) { rng.random_range(1..5) } else { 0 };
        Self {
            router: rng.random_range(0..routers),
            begins_after: if number == 0 { 0 } else { rng.random_range(0..LATEST_BEGIN) },
            gives_up_after: rng.random_bool(0.2).then(|| rng.random_range(0..=request.max_tokens as usize)),
            pauses: rng
                .random_bool(0.2)
                .then(|| (rng.random_range(5..20), Duration::from_millis(rng.random_range(1..60)))),
            prompt,
            request,
        }
    }
}

impl Due {
    /// One fault, and what ends it if that is drawn, too.
    fn draw(
        rng: &mut StdRng,
        tokens: u32,
        (spans, routers): (usize, usize),
        someone_else_goes: bool,
    ) -> Vec<Self> {
        let after = rng.random_range(1..=tokens);
        // With nobody left who goes must be clear: otherwise it may be anybody.
        let kind = if someone_else_goes { rng.random_range(8..12) } else { rng.random_range(0..12) };
        let peer = |rng: &mut StdRng| match rng.random_range(0..2) {
            0 => Peer::Router(rng.random_range(0..routers)),
            _ => Peer::Node(rng.random_range(1..6)),
        };
        let fault = match kind {
            0..=2 => Fault::Freeze,
            3 => Fault::Stop,
            4 => Fault::Drain,
            5 | 6 => Fault::CutTo(peer(rng)),
            7 => Fault::CutFrom(peer(rng)),
            8 => Fault::Link(Link { loss: rng.random_range(0.005..0.1), ..Link::default() }),
            9 => Fault::Link(Link { duplicate: rng.random_range(0.05..0.5), ..Link::default() }),
            10 => Fault::Link(Link {
                reorder: rng.random_range(0.05..0.5),
                reorder_by: Duration::from_micros(rng.random_range(200..5000)),
                ..Link::default()
            }),
            _ => Fault::Link(Link {
                delay: Duration::from_micros(rng.random_range(100..10_000)),
                jitter: Duration::from_micros(rng.random_range(0..5_000)),
                ..Link::default()
            }),
        };
        let span = rng.random_range(0..spans);
        let on_a_router = matches!(fault, Fault::Link(_)) && rng.random_bool(0.3);
        let whom = if on_a_router { Whom::Router(rng.random_range(0..routers)) } else { Whom::Span(span) };
        let mut drawn = vec![Self { after, whom, fault }];
        if rng.random_bool(0.4) && !matches!(fault, Fault::Stop | Fault::Drain) {
            let end = if matches!(fault, Fault::Freeze) { Fault::Thaw } else { Fault::Heal };
            let whom = if on_a_router { whom } else { Whom::TheLast };
            drawn.push(Self { after: after + rng.random_range(1..60), whom, fault: end });
        }
        drawn
    }
}
