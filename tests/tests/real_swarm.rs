//! The real model over real processes: same answers however it is split, deaths noticed, sessions freed.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use cluster_tests::processes::{NodeProcess, Programs, Running};
use cluster_tests::prompts::PROMPTS;
use serde_json::Value;

const THIRDS: [&str; 3] = ["0..10", "10..20", "20..30"];
const GRAVITY: &str = "Gravity is a fundamental concept in physics";

fn ids(answer: &Value) -> Vec<u64> {
    answer["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// A swarm of one node and one of three, in folders of their own.
fn one_and_three(programs: &Programs, home: &Path, class: &str) -> [Vec<NodeProcess>; 2] {
    let extra = ["--numerics", class];
    ["one", "three"].map(|name| {
        let folder = home.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let spans: &[&str] = if name == "one" { &["0..30"] } else { &THIRDS };
        programs.swarm(&folder, spans, &extra).unwrap()
    })
}

#[test]
fn exact_answers_are_bit_equal_over_three_nodes_and_one() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let [one, three] = one_and_three(&programs, home.path(), "exact");
    let greedy = ["--chat", "--numerics", "exact", "--max-tokens", "24", "--prompt", PROMPTS[0]];
    let a = programs.generate(&home.path().join("one"), one[0].ready(), &greedy).unwrap();
    let b = programs.generate(&home.path().join("three"), three[0].ready(), &greedy).unwrap();
    assert!(a["text"].as_str().unwrap().starts_with(GRAVITY), "{a}");
    assert_eq!(ids(&a), ids(&b));
    assert_eq!((a["route"].as_array().unwrap().len(), b["route"].as_array().unwrap().len()), (1, 3));
    // Sampled with a seed: the same tokens on both, and not the greedy ones.
    let sampled = [&greedy[..], &["--temperature", "1.2", "--seed", "7"]].concat();
    let c = programs.generate(&home.path().join("three"), three[0].ready(), &sampled).unwrap();
    let d = programs.generate(&home.path().join("one"), one[0].ready(), &sampled).unwrap();
    assert_eq!(ids(&c), ids(&d));
    assert_ne!(ids(&a), ids(&c));
}

#[test]
fn spans_that_overlap_give_the_bits_of_those_that_meet() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let answers = [("meet", ["0..14", "14..30"]), ("overlap", ["0..20", "9..30"])].map(|(name, spans)| {
        let folder = home.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let swarm = programs.swarm(&folder, &spans, &["--numerics", "exact"]).unwrap();
        let asked = ["--chat", "--max-tokens", "24", "--prompt", PROMPTS[0]];
        let answer = programs.generate(&folder, swarm[0].ready(), &asked).unwrap();
        assert_eq!(answer["route"].as_array().unwrap().len(), 2, "{answer}");
        answer
    });
    assert_eq!(ids(&answers[0]), ids(&answers[1]));
    assert_eq!(ids(&answers[0]).len(), 24);
}

#[test]
fn bf16_answers_to_twenty_prompts_agree_over_three_nodes_and_one() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let [one, three] = one_and_three(&programs, home.path(), "bf16");
    let mut equal = 0;
    for prompt in PROMPTS {
        let common = ["--chat", "--verbose", "--max-tokens", "40", "--prompt", prompt];
        let a = programs.generate(&home.path().join("one"), one[0].ready(), &common).unwrap();
        let b = programs.generate(&home.path().join("three"), three[0].ready(), &common).unwrap();
        if prompt == PROMPTS[0] {
            assert!(b["text"].as_str().unwrap().starts_with(GRAVITY), "{b}");
        }
        let (x, y) = (ids(&a), ids(&b));
        match x.iter().zip(&y).position(|(x, y)| x != y) {
            None => equal += 1,
            Some(at) => {
                let margin = a["margins"][at].as_f64().unwrap();
                println!("{prompt:?} flips at token {at} with margin {margin}");
                assert!(margin < 0.5, "a flip at margin {margin} is more than bf16 noise: {prompt:?}");
            }
        }
    }
    println!("{equal} of {} answers equal", PROMPTS.len());
    assert!(equal >= 18, "{equal} of 20 answers equal");
}

#[test]
fn a_killed_node_is_named_with_its_span_and_its_neighbours_free_their_sessions() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let mut swarm = programs.swarm(home.path(), &THIRDS, &[]).unwrap();
    let mut router = long_answer(&programs, home.path(), &swarm[0].ready().target());
    let node = swarm[1].ready().node[..8].to_owned();
    let killed = now();
    swarm[1].running().kill_hard().unwrap();
    let status = router.wait(Duration::from_secs(30)).unwrap();
    let (took, log) = (killed.elapsed(), router.log_text());
    println!("named after {took:?}");
    assert!(!status.success());
    assert!(log.contains(&node) && log.contains("10..20"), "{log}");
    // 1.5 s is the target, held at three times that on a busy machine; `benches detection` records it.
    assert!(took < Duration::from_millis(4500), "{took:?}");
    for node in [&swarm[0], &swarm[2]] {
        wait_for_no_session(node, Duration::from_secs(30));
    }
}

#[test]
fn nodes_free_the_session_of_a_killed_router() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let swarm = programs.swarm(home.path(), &THIRDS, &[]).unwrap();
    let mut router = long_answer(&programs, home.path(), &swarm[0].ready().target());
    router.kill_hard().unwrap();
    for node in &swarm {
        wait_for_no_session(node, Duration::from_secs(30));
    }
    let again = ["--chat", "--max-tokens", "8", "--prompt", PROMPTS[0]];
    let answer = programs.generate(home.path(), swarm[0].ready(), &again).unwrap();
    assert!(answer["text"].as_str().unwrap().starts_with("Gravity is"), "{answer}");
}

#[test]
fn junk_at_every_port_leaves_a_node_serving() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let mut swarm = programs.swarm(home.path(), &["0..15", "15..30"], &[]).unwrap();
    let seed = 0x5eed_0001_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..20_000 {
        let length = (next() % 1400) as usize;
        let mut datagram: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        if round % 4 < 2 && length > 5 {
            // A long header of QUIC version 1: it goes further in than noise does.
            datagram[..5].copy_from_slice(&[0xc0 | (next() as u8 & 0x3f), 0, 0, 0, 1]);
        }
        // A full socket buffer drops datagrams, as a network would.
        let _ = socket.send_to(&datagram, &swarm[round % 2].ready().listen);
    }
    for node in &swarm {
        use std::io::Write as _;
        for junk in [&b"\x00\xff\xfe\r\n\r\n"[..], b"GET /metrics HTTP/9.9\r\n", &b"A".repeat(70_000)] {
            let mut stream = std::net::TcpStream::connect(&node.ready().admin).unwrap();
            let _ = stream.write_all(junk);
        }
    }
    let common = ["--chat", "--max-tokens", "8", "--prompt", PROMPTS[0]];
    let answer = programs.generate(home.path(), swarm[0].ready(), &common).unwrap();
    assert!(answer["text"].as_str().unwrap().starts_with("Gravity is"), "{answer}");
    for node in &mut swarm {
        assert!(!node.log_text().contains("panicked"), "{}", node.log_text());
        node.running().signal("TERM").unwrap();
        let status = node.running().wait(Duration::from_secs(30)).unwrap();
        assert!(status.success(), "a drained node ends well: {status}; {}", node.log_text());
    }
}

/// Starts an answer that goes on for a while, and waits until it is under way.
fn long_answer(programs: &Programs, home: &Path, target: &str) -> Running {
    let mut command = programs.command("router", home);
    command.args(["generate", "--chat", "--max-tokens", "2000", "--bootstrap", target]);
    command.args(["--prompt", "Tell me a very long story about a lighthouse keeper and her dog."]);
    let mut router = Running::start(command, &home.join("router.log")).unwrap();
    router.wait_for_output(60, Duration::from_mins(1)).unwrap();
    router
}

fn wait_for_no_session(node: &NodeProcess, timeout: Duration) {
    let started = now();
    while node.metric("shard_node_sessions").unwrap() > 0.0 {
        assert!(started.elapsed() < timeout, "sessions left: {}", node.log_text());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[expect(clippy::disallowed_methods, reason = "times real processes from outside")]
fn now() -> Instant {
    Instant::now()
}
