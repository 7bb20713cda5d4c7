//! Mutated frames at the ports of a real node: it does not panic, does not grow, and goes on serving.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stdout, reason = "a test prints its seed and its figures")]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cluster_tests::processes::{NodeProcess, Programs, http_get};
use cluster_tests::prompts::PROMPTS;
use proto::NodeKey;
use proto::handshake::ConnectionClass;
use proto_transport::{Connection, Endpoint, EndpointConfig, Target};
use tokio::task::JoinSet;

#[test]
fn mutated_frames_leave_a_real_node_as_it_was() {
    flood(20_000, 10_000.0);
}

#[test]
#[ignore = "takes 10 to 20 minutes"]
fn soak_a_million_mutated_frames_leave_a_real_node_as_it_was() {
    // Some headers are broken, some frames are lost with a connection that the node closes.
    flood(1_700_000, 1_000_000.0);
}

/// Sends so many, a tenth of them before the first look at the node's memory; at least so many arrive whole.
fn flood(frames: u32, whole: f64) {
    let seed = 0x5eed_000a_u64;
    println!("seed {seed:#x}");
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let mut swarm = programs.swarm(home.path(), &["0..15", "15..30"], &[]).unwrap();
    answers(&programs, home.path(), &swarm);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let golden = golden_frames();
    let pids: Vec<u32> = swarm.iter_mut().map(|node| node.running().pid()).collect();
    let targets: Vec<Target> = swarm
        .iter()
        .map(|node| Target::node(node.ready().node.parse().unwrap(), node.ready().listen.parse().unwrap()))
        .collect();
    let send = |frames, seed| {
        runtime.block_on(async {
            let mut attackers = JoinSet::new();
            for attacker in 0..ATTACKERS {
                let target = targets[attacker as usize % targets.len()];
                let share = frames / ATTACKERS;
                attackers.spawn(attack(target, golden.clone(), share, Random(seed + u64::from(attacker))));
            }
            attackers.join_all().await.into_iter().sum::<u32>()
        })
    };
    send(frames / 10, seed);
    let before = pids.iter().map(|&pid| resident_kib(pid)).collect::<Vec<_>>();
    let dials = send(frames - frames / 10, seed + 100);
    let after = pids.iter().map(|&pid| resident_kib(pid)).collect::<Vec<_>>();
    println!("{frames} frames, {dials} connections; resident KiB before {before:?}, after {after:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(*after < before + MOST_GROWTH_KIB, "grew from {before} to {after} KiB");
    }
    let received: f64 = swarm.iter().map(received_frames).sum();
    println!("{received} whole frames reached the nodes");
    assert!(received >= whole, "{received} of {frames} frames reached the nodes, not {whole}");
    let errors: f64 = swarm.iter().map(|node| node.metric("shard_node_protocol_errors_total").unwrap()).sum();
    assert!(errors > f64::from(frames) / 100.0, "only {errors} frames were found wrong: was anything sent?");
    answers(&programs, home.path(), &swarm);
    for node in &mut swarm {
        assert!(!node.log_text().contains("panicked"), "{}", node.log_text());
        node.running().signal("TERM").unwrap();
        let status = node.running().wait(Duration::from_secs(30)).unwrap();
        assert!(status.success(), "a drained node ends well: {status}; {}", node.log_text());
    }
}

/// One hostile peer with one connection at a time; gives how often it had to dial.
async fn attack(target: Target, golden: Vec<Vec<u8>>, frames: u32, mut random: Random) -> u32 {
    let key = NodeKey::from_seed(&std::array::from_fn(|_| random.next() as u8));
    let endpoint = Endpoint::bind(EndpointConfig::new(key, "127.0.0.1:0".parse().unwrap())).unwrap();
    let (mut connection, mut dials): (Option<Connection>, u32) = (None, 0);
    for _ in 0..frames {
        let still = connection.take().filter(|connection| connection.close_reason().is_none());
        let open = if let Some(open) = still {
            open
        } else {
            let class = ConnectionClass::ALL[random.below(ConnectionClass::ALL.len())];
            dials += 1;
            endpoint.connect(target, class).await.expect("the node takes connections")
        };
        let mut frame = golden[random.below(golden.len())].clone();
        random.mutate(&mut frame);
        let uni = open.class().carries_sessions() && random.below(2) == 0;
        // What is lost with a connection that the node closes was sent all the same.
        let sent = async {
            let mut stream = if uni { open.open_uni().await.ok()? } else { open.open_bi().await.ok()?.0 };
            stream.send_unframed(Bytes::from(frame)).await.ok()?;
            stream.finish();
            Some(())
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), sent).await;
        connection = Some(open);
    }
    endpoint.shutdown().await;
    dials
}

fn answers(programs: &Programs, home: &Path, swarm: &[NodeProcess]) {
    let common = ["--chat", "--max-tokens", "8", "--prompt", PROMPTS[0]];
    let answer = programs.generate(home, swarm[0].ready(), &common).unwrap();
    assert!(answer["text"].as_str().unwrap().starts_with("Gravity is"), "{answer}");
}

/// Frames that the node has taken whole, of every class.
fn received_frames(node: &NodeProcess) -> f64 {
    let page = http_get(&node.ready().admin, "/metrics").unwrap();
    page.lines()
        .filter(|line| line.starts_with("transport_frames_total{") && line.contains("received"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// One frame of every kind, header and body.
fn golden_frames() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/golden");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let hex = |path| std::fs::read_to_string(path).unwrap();
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    paths.iter().map(|path| hex(path).trim().as_bytes().chunks(2).map(byte).collect()).collect()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Changes, cuts or lengthens; most of the time the header's length is made to fit, so that bodies get tried.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(frame.len());
            match self.below(6) {
                0 => frame.truncate(at.max(8)),
                1 => frame.extend_from_slice(&self.next().to_le_bytes()),
                2 => {
                    let end = (at + 4).min(frame.len());
                    frame[at..end].fill(0xff);
                }
                _ => frame[at] = self.next() as u8,
            }
        }
        if self.below(4) > 0 && frame.len() >= 8 {
            let body = (frame.len() - 8) as u32;
            frame[4..8].copy_from_slice(&body.to_le_bytes());
        }
    }
}

/// Peers that attack at once.
const ATTACKERS: u32 = 8;
/// Allocators keep some of what thousands of connections used at once.
const MOST_GROWTH_KIB: u64 = 32 << 10;
