//! Nodes that leave in good order, and routers that take answers elsewhere before they do.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use shard_node_stage::StepHook;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::serve::{PROMPT, TestServer, asked, begin, long, read};
use crate::swarm::{PATIENCE, Settings, ToySwarm, metric};

/// Two nodes for each of three spans.
const PAIRS: [(u32, u32); 6] = [(0, 10), (0, 10), (10, 20), (10, 20), (20, 30), (20, 30)];
/// Some seconds of them.
const TOKENS: u32 = 1500;
/// A node waits for its sessions for 20 s: half of it means that they left.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_leave_a_draining_node_and_none_breaks() {
    let spans = Settings::spans(&PAIRS).spans;
    let mut swarm = ToySwarm::start(Settings { spans, hook: SLOW, ..long(1) }).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    // Before the clients come: it takes as long as theirs, and would hold up the threads that move frames.
    let answer = Arc::new(swarm.model.answer(&PROMPT, TOKENS as usize));
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (addr, answer) = (server.addr, Arc::clone(&answer));
        clients.spawn(async move {
            let (ids, end) = read(&mut begin(addr, &asked(&PROMPT, TOKENS)).await, PROMPT.len()).await;
            assert_eq!(ids, *answer);
            end["moves"].as_u64().unwrap()
        });
    }
    // One of each span, whichever has the most sessions.
    for span in 0..3 {
        let most = async {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            loop {
                look.tick().await;
                let of_span = (0..swarm.nodes.len())
                    .filter(|&node| swarm.nodes[node].ready().layers.unwrap().start() == span * 10);
                let most = of_span.max_by_key(|&node| swarm.nodes[node].status().sessions).unwrap();
                if metric(&swarm.nodes[most], "shard_node_sampled_tokens_total") > 0
                    || span < 2 && swarm.nodes[most].status().sessions > 0
                {
                    return most;
                }
            }
        };
        let most = timeout(PATIENCE, most).await.expect("sessions come");
        let leaving = swarm.nodes.remove(most);
        let begun = Instant::now();
        leaving.shutdown().await;
        eprintln!("the node of span {span} left after {:?}", begun.elapsed());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    let moves: u64 = clients.join_all().await.into_iter().sum();
    let outcomes = server.counts("router_answers_resumed_total");
    eprintln!("{moves} moves, {outcomes:?}");
    assert!(moves >= 3, "{moves} moves");
    assert_eq!(outcomes, [("handed_over".to_owned(), moves)], "nothing broke");
    swarm.wait_until_idle().await;
    server.stop().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_else_has_its_layers_a_draining_node_finishes_its_answers() {
    let mut swarm = ToySwarm::start(Settings { hook: SLOW, ..long(2) }).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let (addr, answer) = (server.addr, swarm.model.answer(&PROMPT, TOKENS as usize));
    let mut client = JoinSet::new();
    client.spawn(async move {
        let (ids, end) = read(&mut begin(addr, &asked(&PROMPT, TOKENS)).await, PROMPT.len()).await;
        assert_eq!((ids, &end["moves"]), (answer, &0.into()));
    });
    let begun = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while swarm.nodes[1].status().sessions == 0 {
            look.tick().await;
        }
    };
    timeout(PATIENCE, begun).await.expect("a session comes");
    let leaving = swarm.nodes.remove(1);
    let (_, left) = tokio::join!(client.join_all(), timeout(PATIENCE, leaving.shutdown()));
    assert!(left.is_ok());
    server.stop().await;
    swarm.shutdown().await;
}

/// Each step takes a millisecond.
const SLOW: fn(usize) -> Option<StepHook> = |_| {
    // Nothing is ever sent: a step is over when the wait is.
    let (keep, never) = mpsc::channel::<()>();
    Some(Box::new(move |_| {
        let _open = &keep;
        let _ = never.recv_timeout(Duration::from_millis(1));
        Ok(())
    }))
};
