//! What answers say they cost, held against what the nodes count themselves.

use std::net::SocketAddr;

use cluster_tests::http;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::serve::TestServer;
use crate::swarm::{PATIENCE, Settings, ToySwarm, served, word_tokenizer};

/// A system prompt of 1,000 tokens and one of one's own.
fn prompt(own: u32) -> Vec<u32> {
    (0..1000u32).map(|at| (at * 13 + at / 64) % 64).chain([own]).collect()
}

/// The usage of an answer, whole or at the end of its stream.
async fn usage(addr: SocketAddr, path: &str, body: &Value) -> Value {
    let answer = timeout(PATIENCE, http::post(addr, path, body)).await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{body}");
    if body["stream"] != true {
        let object = answer.json().await.unwrap();
        return object["usage"].clone();
    }
    let (mut events, mut usage) = (answer.events(), Value::Null);
    while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        let object: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let found = if object["usage"].is_null() { &object["response"]["usage"] } else { &object["usage"] };
        if !found.is_null() {
            usage = found.clone();
        }
    }
    usage
}

/// Tokens that the tails sampled, ever.
fn sampled(swarm: &ToySwarm) -> u64 {
    let name = "shard_node_sampled_tokens_total ";
    let of = |text: String| text.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
    swarm.nodes.iter().filter_map(|node| of(node.metrics_text())).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_prompt_that_nodes_still_hold_are_told_and_counted_once() {
    let swarm = ToySwarm::start(Settings { kv_positions: Some(1 << 20), ..Settings::split(3) }).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let ask = |prompt: Value, more: Value| {
        let mut body = json!({"prompt": prompt, "max_tokens": 4});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let addr = server.addr;
        async move { usage(addr, "/v1/completions", &body).await }
    };
    let told = |usage: &Value| {
        [
            &usage["prompt_tokens"],
            &usage["prompt_tokens_details"]["cached_tokens"],
            &usage["completion_tokens"],
        ]
        .map(|count| count.as_u64().unwrap())
    };
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(told(&ask(json!(prompt(1)), json!({})).await), [1001, 0, 4]);
    // Kept when the session has ended on each stage.
    swarm.wait_until_idle().await;
    // All whole blocks of 64 but the one that the last token is in.
    assert_eq!(told(&ask(json!(prompt(2)), json!({})).await), [1001, 960, 4]);
    swarm.wait_until_idle().await;
    assert_eq!(told(&ask(json!(prompt(3)), streamed.clone()).await), [1001, 960, 4]);
    swarm.wait_until_idle().await;
    // Choices share a prompt; prompts are added up.
    assert_eq!(told(&ask(json!(prompt(4)), json!({"n": 3})).await), [1001, 960, 12]);
    swarm.wait_until_idle().await;
    let two = json!([prompt(5), [9, 9, 9]]);
    assert_eq!(told(&ask(two.clone(), json!({"n": 2})).await), [1004, 960, 16]);
    swarm.wait_until_idle().await;
    assert_eq!(told(&ask(two, streamed).await), [1004, 960, 8]);
    let body = json!({"token_ids": prompt(6), "max_tokens": 4});
    swarm.wait_until_idle().await;
    let own = usage(server.addr, "/v1/generate", &body).await;
    assert_eq!(told(&own), [1001, 960, 4]);
    swarm.wait_until_idle().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_beyond_a_stop_string_are_told_as_waste_and_others_make_none() {
    let base = Settings::split(1);
    let tokenizer = word_tokenizer(base.model.vocab);
    let settings = Settings { served: served(base.model, &[], Some(&tokenizer)), ..base };
    let swarm = ToySwarm::start(settings).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let mut wasted = 0;
    for own in 0..12u32 {
        let prompt = [own, 7, 5];
        let words = swarm.model.answer(&prompt, 20);
        let stop = format!("w{}", words[6]);
        for stop in [Some(stop), None] {
            for stream in [false, true] {
                let before = sampled(&swarm);
                let mut body = json!({"prompt": prompt, "max_tokens": 200, "stop": stop, "stream": stream, "temperature": 0});
                if stream {
                    body["stream_options"] = json!({"include_usage": true});
                }
                let usage = usage(server.addr, "/v1/completions", &body).await;
                swarm.wait_until_idle().await;
                let waste = usage["completion_tokens_details"]["waste_tokens"].as_u64().unwrap();
                let given = usage["completion_tokens"].as_u64().unwrap();
                assert_eq!(sampled(&swarm) - before, given + waste, "{body}: {usage}");
                assert!(
                    if stop.is_some() { given <= 7 } else { (given, waste) == (200, 0) },
                    "{body}: {usage}"
                );
                wasted += waste;
            }
        }
    }
    eprintln!("{wasted} tokens beyond 24 stop strings");
    server.stop().await;
}
