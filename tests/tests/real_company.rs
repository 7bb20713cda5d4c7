//! The real model in class exact: an answer's tokens are the same alone, among 32 others, and with reused rows.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::http;
use cluster_tests::processes::{Programs, Running};
use cluster_tests::prompts::PROMPTS;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_mins(4);
const TOKENS: u32 = 16;
const OTHERS: usize = 32;
/// Tokens of a step of the tail, prompts' steps included, which make one of their session at most.
const LEAST_BATCH: f64 = 2.0;

/// The requests that are watched: greedy, seeded, and a long one with whole blocks.
fn watched() -> Vec<Value> {
    let user = |text: &str| json!([{"role": "user", "content": text}]);
    let day = |day: u32| format!("on day {day} {} ships came; ", day * 7 % 19);
    let long: String = (1..=24).map(day).collect();
    let question = format!("Here is the log of a harbour: {long}how many ships came on day 3?");
    vec![
        json!({"messages": user(PROMPTS[0])}),
        json!({"messages": user(PROMPTS[3]), "temperature": 1.2, "seed": 7}),
        json!({"messages": user(&question)}),
        json!({"messages": user(&question), "temperature": 0.9, "top_p": 0.95, "seed": 11}),
    ]
}

/// Ids of the whole answer.
async fn ids(address: SocketAddr, mut request: Value, tenant: &str) -> Vec<u64> {
    request["max_tokens"] = json!(TOKENS);
    request["stream"] = json!(true);
    request["tenant"] = json!(tenant);
    let answer = http::post(address, "/v1/generate", &request).await.unwrap();
    if answer.status != 200 {
        let status = answer.status;
        panic!("{status}: {}", answer.text().await.unwrap());
    }
    let (mut events, mut ids) = (answer.events(), Vec::new());
    loop {
        let event = events.next().await.unwrap().expect("an end should come");
        let object: Value = serde_json::from_str(&event.data).unwrap();
        match &event.name[..] {
            "" => ids.extend(object["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap())),
            "done" => return ids,
            _ => panic!("{object}"),
        }
    }
}

/// All watched requests among the others at once.
async fn in_company(address: SocketAddr, tenant: &'static str) -> Vec<Vec<u64>> {
    let mut others = JoinSet::new();
    for number in 0..OTHERS {
        let text = format!("{} Answer {number} times.", PROMPTS[number % PROMPTS.len()]);
        let mut request = json!({"messages": [{"role": "user", "content": text}]});
        if number % 2 == 1 {
            request["temperature"] = json!(1.0);
            request["seed"] = json!(number);
        }
        others.spawn(ids(address, request, "others"));
    }
    let mut running = JoinSet::new();
    for (place, request) in watched().into_iter().enumerate() {
        running.spawn(async move { (place, ids(address, request, tenant).await) });
    }
    let mut answers = running.join_all().await;
    answers.sort();
    others.join_all().await;
    answers.into_iter().map(|(_, ids)| ids).collect()
}

#[tokio::test]
async fn an_answer_is_the_same_alone_among_others_and_with_reused_rows() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let spans = ["0..10", "10..20", "20..30"];
    let swarm = programs.swarm(home.path(), &spans, &["--numerics", "exact"]).unwrap();
    let mut command = programs.command("router", home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--bootstrap", &swarm[0].ready().target()]);
    let mut router = Running::start(command, &home.path().join("router.log")).unwrap();
    let line = router.line(PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", router.log_text()));
    let ready: Value = serde_json::from_str(&line).unwrap();
    let address: SocketAddr = ready["listen"].as_str().unwrap().parse().unwrap();
    // Of tokens and of the steps that made them: what a step's batch is on average.
    let decoded = || {
        let tail = &swarm[swarm.len() - 1];
        let steps = |phase| format!("shard_node_step_seconds_count{{phase=\"{phase}\"}}");
        let steps = [steps("decode"), steps("prefill")].map(|name| tail.metric(&name).unwrap());
        (tail.metric("shard_node_sampled_tokens_total").unwrap(), steps.into_iter().sum::<f64>())
    };
    let skipped = || swarm.iter().map(|node| node.metric("shard_node_prefix_skipped_rows_total").unwrap());

    let mut alone = Vec::new();
    for (place, request) in watched().into_iter().enumerate() {
        alone.push(ids(address, request, &format!("alone-{place}")).await);
    }
    assert!(alone.iter().all(|ids| !ids.is_empty()), "{alone:?}");
    assert!(skipped().all(|rows| rows == 0.0), "tenants of their own reuse nothing");
    let before = decoded();
    assert_eq!(in_company(address, "company").await, alone, "among {OTHERS} others");
    let batch = (decoded().0 - before.0) / (decoded().1 - before.1);
    assert!(batch >= LEAST_BATCH, "a step makes {batch} tokens: they are hardly in company");
    let before: f64 = skipped().sum();
    assert_eq!(in_company(address, "company").await, alone, "with reused rows, among {OTHERS} others");
    // Two long prompts, three stages, at least three blocks of 64.
    let reused = skipped().sum::<f64>() - before;
    assert!(reused >= 2.0 * 3.0 * 192.0, "{reused} rows reused");
    println!("{TOKENS} tokens each, {batch:.1} in a step, {reused} rows reused");
}
