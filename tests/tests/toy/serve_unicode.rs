//! Text end to end: what a stream's pieces come to is the answer at once, whatever the tokens are cut into.

use cluster_tests::http;
use cluster_tests::toy::piece_tokenizer;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::serve::TestServer;
use crate::swarm::{PATIENCE, Settings, ToySwarm};

const SEED: u64 = 11;

#[derive(Clone, Debug)]
struct Wanted {
    path: &'static str,
    prompt: String,
    seed: u32,
    tokens: u32,
    n: u32,
    stop: Option<String>,
    logprobs: bool,
}

/// What is asked for, and which characters of its answer are to end it, by their place and number.
fn wanted() -> impl Strategy<Value = (Wanted, Option<(prop::sample::Index, usize)>)> {
    let path = prop::sample::select(vec!["/v1/completions", "/v1/chat/completions", "/v1/responses"]);
    // Some of the answer's own characters, so that it has them.
    let stop = prop::option::weighted(0.7, (any::<prop::sample::Index>(), 1usize..5));
    (path, "\\PC{1,12}", any::<u32>(), 1u32..80, 1u32..4, any::<bool>(), stop).prop_map(
        |(path, prompt, seed, tokens, n, logprobs, stop)| {
            let n = if path == "/v1/responses" { 1 } else { n };
            (Wanted { path, prompt, seed, tokens, n, stop: None, logprobs }, stop)
        },
    )
}

impl Wanted {
    fn body(&self, stream: bool) -> Value {
        let mut body = json!({"model": "toy", "seed": self.seed, "temperature": 1.0, "stream": stream, "stop": self.stop});
        let messages = json!([{"role": "user", "content": self.prompt}]);
        match self.path {
            "/v1/responses" => {
                body["input"] = messages;
                body["max_output_tokens"] = json!(self.tokens);
                if self.logprobs {
                    body["top_logprobs"] = json!(2);
                }
                // It gives one answer.
                return body;
            }
            "/v1/completions" => {
                body["prompt"] = json!(self.prompt);
                body["logprobs"] = if self.logprobs { json!(2) } else { Value::Null };
            }
            _ => {
                body["messages"] = messages;
                body["logprobs"] = json!(self.logprobs);
            }
        }
        body["max_tokens"] = json!(self.tokens);
        body["n"] = json!(self.n);
        body
    }
}

/// The texts of an answer's choices.
async fn whole(server: &TestServer, wanted: &Wanted) -> Vec<String> {
    let answer =
        timeout(PATIENCE, http::post(server.addr, wanted.path, &wanted.body(false))).await.unwrap().unwrap();
    let status = answer.status;
    let object = answer.json().await.unwrap();
    assert_eq!(status, 200, "{object}");
    if wanted.path == "/v1/responses" {
        return vec![object["output"][0]["content"][0]["text"].as_str().unwrap_or_default().to_owned()];
    }
    let choices = object["choices"].as_array().unwrap();
    let text = |choice: &Value| {
        choice["text"]
            .as_str()
            .or_else(|| choice["message"]["content"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    choices.iter().map(text).collect()
}

/// The same, put together of a stream's pieces.
async fn pieces(server: &TestServer, wanted: &Wanted) -> Vec<String> {
    let answer =
        timeout(PATIENCE, http::post(server.addr, wanted.path, &wanted.body(true))).await.unwrap().unwrap();
    assert_eq!(answer.status, 200);
    let (mut events, mut texts) = (answer.events(), vec![String::new(); wanted.n as usize]);
    while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        let object: Value = serde_json::from_str(&event.data).unwrap_or_default();
        assert!(object["error"].is_null(), "{object}");
        if object["type"] == "response.output_text.delta" {
            texts[0].push_str(object["delta"].as_str().unwrap());
        }
        for choice in object["choices"].as_array().into_iter().flatten() {
            let text =
                choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str()).unwrap_or_default();
            texts[choice["index"].as_u64().unwrap() as usize].push_str(text);
        }
    }
    texts
}

#[test]
fn the_pieces_of_a_stream_are_the_answer_at_once_whatever_its_tokens_are_cut_into() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (swarm, server) = runtime.block_on(async {
        let swarm = ToySwarm::start(Settings::talking(2)).await;
        let server = TestServer::start(&swarm, 100, |_| {}).await;
        (swarm, server)
    });
    eprintln!("seed {SEED}");
    let config =
        Config { cases: 120, rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..Config::default() };
    let seen = std::cell::RefCell::new(String::new());
    let stopped = std::cell::RefCell::new(std::collections::BTreeMap::new());
    TestRunner::new(config)
        .run(&wanted(), |(mut wanted, stop)| {
            let both = |wanted: &Wanted| {
                let (whole, pieces) =
                    runtime.block_on(async { (whole(&server, wanted).await, pieces(&server, wanted).await) });
                prop_assert_eq!(&whole, &pieces);
                Ok(whole)
            };
            let whole = both(&wanted)?;
            if let Some((at, count)) = stop
                && !whole[0].is_empty()
            {
                let at = at.index(whole[0].chars().count());
                let stop: String = whole[0].chars().skip(at).take(count).collect();
                wanted.stop = Some(stop.clone());
                for (cut, free) in both(&wanted)?.iter().zip(&whole) {
                    let until = free.find(&stop).map_or(&free[..], |at| &free[..at]);
                    prop_assert_eq!(cut, until);
                    let stopped = &mut *stopped.borrow_mut();
                    *stopped.entry(wanted.path).or_insert(0) += u32::from(until.len() < free.len());
                }
            }
            seen.borrow_mut().extend(whole);
            Ok(())
        })
        .unwrap();
    let stopped = stopped.into_inner();
    eprintln!("answers that a stop string cut: {stopped:?}");
    assert!(stopped.len() == 3 && stopped.values().all(|&count| count >= 10), "stop strings ended answers");
    // What was tested is what was meant: characters of two to four bytes came whole, and others were never completed.
    let seen = seen.into_inner();
    let bytes = |wanted: usize| seen.chars().filter(|c| c.len_utf8() == wanted && *c != '\u{fffd}').count();
    eprintln!(
        "{} of 2, {} of 3, {} of 4 bytes, {} broken",
        bytes(2),
        bytes(3),
        bytes(4),
        seen.matches('\u{fffd}').count()
    );
    assert!((2..=4).all(|length| bytes(length) > 100));
    assert!(seen.contains('\u{fffd}'));
    runtime.block_on(async {
        swarm.wait_until_idle().await;
        server.stop().await;
    });
}

/// The greedy answer, whose tokens the model itself tells: its text is their bytes, what is no character replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answers_text_is_its_tokens_bytes() {
    let swarm = ToySwarm::start(Settings::talking(2)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let (bytes, _) = piece_tokenizer();
    for prompt in ["a", "日本", "👨‍👩‍👧", "e\u{301}"] {
        let ids: Vec<u32> = prompt.bytes().map(u32::from).collect();
        let tokens = swarm.model.answer(&ids, 60);
        let expected: Vec<u8> = tokens.iter().flat_map(|&id| bytes[id as usize].clone()).collect();
        let body = json!({"prompt": prompt, "max_tokens": 60, "temperature": 0});
        let answer =
            timeout(PATIENCE, http::post(server.addr, "/v1/completions", &body)).await.unwrap().unwrap();
        let text = answer.json().await.unwrap()["choices"][0]["text"].as_str().unwrap().to_owned();
        assert_eq!(text, String::from_utf8_lossy(&expected), "{prompt}");
    }
    server.stop().await;
}
