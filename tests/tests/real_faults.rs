//! Real processes in class exact behind relays: lost packets, nodes that are heard and do not hear or the reverse, two
//! nodes of one route at once, and a swarm whose every node is restarted while it answers. Each answer is what it is
//! undisturbed, every token once.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stderr, reason = "the seed and the gaps are told")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cluster_tests::processes::{NodeProcess, Programs};
use cluster_tests::relay::{Relay, Relays};
use cluster_tests::serving::Serving;
use cluster_tests::watched::{Answer, Gaps, STREAMS, TOKENS, all, exact_node, until_known};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

/// Two nodes for each of two spans.
const HALVES: [&str; 4] = ["0..15", "15..30", "0..15", "15..30"];
/// Two for each of three.
const THIRDS: [&str; 6] = ["0..10", "10..20", "20..30", "0..10", "10..20", "20..30"];
/// Three times what a client should see at p95: the test's other processes share its cores.
const GAP: Duration = Duration::from_secs(6);
/// The same where a node and the one before it go together.
const TWO_GAP: Duration = Duration::from_secs(12);

/// A swarm whose nodes are reached through relays.
struct Swarm {
    programs: Programs,
    relays: Relays,
    nodes: Vec<(&'static str, NodeProcess, Relay)>,
    router: Serving,
    undisturbed: Vec<Answer>,
    home: TempDir,
}

impl Swarm {
    async fn start(spans: &[&'static str], seed: u64, loss: f64) -> Self {
        eprintln!("seed {seed}");
        let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
        let relays = Relays::new(seed, loss);
        let mut nodes: Vec<(&str, NodeProcess, Relay)> = Vec::new();
        for span in spans {
            let started = node(&programs, home.path(), span, nodes.first().map(|(_, node, _)| node), &relays);
            let (node, relay) = started.await;
            nodes.push((span, node, relay));
        }
        let router = Serving::start(&programs, home.path(), &nodes[0].1.ready().target(), &[]).unwrap();
        until_known(&router, nodes.len()).await;
        let undisturbed = all(router.listen, usize::MAX, || {}).await;
        Self { programs, relays, nodes, router, undisturbed, home }
    }

    /// Of the nodes of a span the one that most answers go over.
    fn busiest(&self, span: &str) -> usize {
        let sessions = |node: &NodeProcess| node.metric("shard_node_sessions").unwrap() as u32;
        let of_span = (0..self.nodes.len()).filter(|&node| self.nodes[node].0 == span);
        of_span.max_by_key(|&node| sessions(&self.nodes[node].1)).unwrap()
    }

    /// Takes the place of nodes that are gone.
    async fn add(&mut self, span: &'static str) {
        let bootstrap = self.nodes.first().map(|(_, node, _)| node);
        let (node, relay) = node(&self.programs, self.home.path(), span, bootstrap, &self.relays).await;
        self.nodes.push((span, node, relay));
    }
}

fn listen(node: &NodeProcess) -> SocketAddr {
    node.ready().listen.parse().unwrap()
}

async fn node(
    programs: &Programs,
    home: &Path,
    span: &str,
    bootstrap: Option<&NodeProcess>,
    relays: &Relays,
) -> (NodeProcess, Relay) {
    let mut relay = relays.open().await.unwrap();
    // Known before the node is: others try the address that it announces as soon as it joins.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    relay.lead_to(free);
    let (listen, advertise) = (free.to_string(), relay.addr().unwrap().to_string());
    let extra = ["--listen", &listen, "--advertise", &advertise].map(OsString::from);
    // Its start holds up this thread; the relays are others'.
    (exact_node(programs, home, span, bootstrap, &extra).unwrap(), relay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_five_packets_of_a_hundred_lost_answers_are_the_same() {
    let swarm = Swarm::start(&HALVES, 5, 0.05).await;
    let mut gaps = Gaps::default();
    for round in 0..2 {
        let answers = all(swarm.router.listen, usize::MAX, || {}).await;
        gaps.take(&format!("round {round}"), &answers, &swarm.undisturbed);
        let longest = answers.iter().map(|answer| answer.gap).max().unwrap();
        assert!(longest <= GAP, "{longest:?}");
        eprintln!("longest gap {longest:?}");
    }
    eprintln!("{} packets lost: {gaps}", swarm.relays.lost());
    assert!(swarm.relays.lost() > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_not_heard_or_do_not_hear_are_left() {
    let seed = 7;
    let mut swarm = Swarm::start(&HALVES, seed, 0.0).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut gaps = Gaps::default();
    let cuts: [fn(&Relays, SocketAddr); 2] = [Relays::mute, Relays::deafen];
    for round in 0..4 {
        let span = HALVES[round % 2];
        let after = rng.random_range(STREAMS..STREAMS * TOKENS * 3 / 4);
        until_known(&swarm.router, swarm.nodes.len()).await;
        let mut victim = 0;
        let answers = all(swarm.router.listen, after, || {
            victim = swarm.busiest(span);
            cuts[round / 2](&swarm.relays, listen(&swarm.nodes[victim].1));
        })
        .await;
        gaps.take(&format!("round {round}"), &answers, &swarm.undisturbed);
        drop(swarm.nodes.remove(victim));
        swarm.add(span).await;
    }
    eprintln!("{gaps}");
    assert!(gaps.moved() > 0, "no answer was hit");
    assert!(gaps.at(0.95) <= GAP, "{gaps}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_the_one_before_it_are_killed_at_once() {
    let seed = 11;
    let mut swarm = Swarm::start(&THIRDS, seed, 0.0).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut gaps = Gaps::default();
    for (round, (first, second)) in [("0..10", "10..20"), ("10..20", "20..30")].into_iter().enumerate() {
        let after = rng.random_range(STREAMS..STREAMS * TOKENS * 3 / 4);
        until_known(&swarm.router, swarm.nodes.len()).await;
        let mut victims = Vec::new();
        let answers = all(swarm.router.listen, after, || {
            for span in [first, second] {
                let victim = swarm.busiest(span);
                victims.push(swarm.nodes.remove(victim));
            }
            for (_, victim, _) in &mut victims {
                victim.running().kill_hard().unwrap();
            }
        })
        .await;
        gaps.take(&format!("round {round}"), &answers, &swarm.undisturbed);
        for span in [first, second] {
            swarm.add(span).await;
        }
    }
    eprintln!("{gaps}");
    assert!(gaps.moved() > 0, "no answer was hit");
    assert!(gaps.at(0.95) <= TWO_GAP, "{gaps}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_restarted_and_no_answer_breaks() {
    let mut swarm = Swarm::start(&HALVES, 13, 0.0).await;
    let mut gaps = Gaps::default();
    let mut moves = 0;
    // The first one is the others' way in: it is restarted last, when they know each other.
    for (round, span) in [(0, "15..30"), (1, "0..15"), (2, "15..30"), (3, "0..15")] {
        until_known(&swarm.router, swarm.nodes.len()).await;
        let mut leaving = None;
        let answers = all(swarm.router.listen, STREAMS * 4, || {
            // Of the span's nodes the one that was not restarted yet comes first.
            let oldest = (0..swarm.nodes.len()).filter(|&node| swarm.nodes[node].0 == span);
            let oldest = if round == 3 { 0 } else { oldest.filter(|&node| node > 0).min().unwrap() };
            let (_, node, relay) = swarm.nodes.remove(oldest);
            let mut node = node;
            node.running().signal("TERM").unwrap();
            leaving = Some((node, relay));
        })
        .await;
        gaps.take(&format!("round {round}"), &answers, &swarm.undisturbed);
        moves += answers.iter().map(|answer| answer.moves).sum::<u64>();
        let (mut node, _relay) = leaving.unwrap();
        let ended = node.running().wait(Duration::from_secs(30)).unwrap();
        assert!(ended.success(), "{ended}: {}", node.log_text());
        swarm.add(span).await;
    }
    let broken = swarm.router.process.log_text().contains("an answer broke");
    eprintln!("{moves} moves, {gaps}");
    assert!(moves > 0 && !broken, "{}", swarm.router.process.log_text());
    // The router's own end: what it has begun it finishes.
    until_known(&swarm.router, swarm.nodes.len()).await;
    let mut router = swarm.router.process;
    let listen = swarm.router.listen;
    let answers = all(listen, STREAMS, || router.signal("TERM").unwrap()).await;
    Gaps::default().take("while the router leaves", &answers, &swarm.undisturbed);
    assert!(router.wait(Duration::from_secs(30)).unwrap().success());
}
