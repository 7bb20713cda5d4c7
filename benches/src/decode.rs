//! Decode speed over three nodes against one node, alternating; and the time from the end of one stage's compute
//! to the beginning of the next one's.

use anyhow::{Context, Result};
use clap::Args;
use cluster_tests::processes::NodeProcess;
use serde_json::{Value, json};

use crate::statistics::{median, percentile};
use crate::{leash, print_result, tell};

/// Options of `decode`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Answers of each swarm
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 128)]
    tokens: u32,
    /// A numerics class, such as bf16 or int8-kv8
    #[arg(long, default_value = "bf16")]
    numerics: String,
    /// Compute threads of every node; chosen by the engine when absent
    #[arg(long)]
    threads: Option<String>,
}

struct Answer {
    tokens_per_second: f64,
    ttft_ms: f64,
    itl_ms_p50: f64,
    hop_us: Vec<f64>,
    compute_ms: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = leash::programs()?;
    let home = tempfile::tempdir()?;
    let mut extra = vec!["--numerics", &options.numerics];
    if let Some(threads) = &options.threads {
        extra.extend(["--threads", threads]);
    }
    let (one_home, three_home) = (home.path().join("one"), home.path().join("three"));
    for folder in [&one_home, &three_home] {
        std::fs::create_dir_all(folder)?;
    }
    let one = programs.swarm(&one_home, &["0..30"], &extra)?;
    let three = programs.swarm(&three_home, &["0..10", "10..20", "20..30"], &extra)?;
    let ask = |home: &std::path::Path, swarm: &[NodeProcess]| -> Result<Answer> {
        let tokens = options.tokens.to_string();
        let arguments =
            ["--chat", "--prompt", PROMPT, "--max-tokens", &tokens, "--numerics", &options.numerics];
        read(&programs.generate(home, swarm[0].ready(), &arguments)?)
    };
    ask(&one_home, &one).context("warm up one node")?;
    ask(&three_home, &three).context("warm up three nodes")?;
    let (mut ones, mut threes) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let (a, b) = if round % 2 == 0 {
            let a = ask(&one_home, &one)?;
            (a, ask(&three_home, &three)?)
        } else {
            let b = ask(&three_home, &three)?;
            (ask(&one_home, &one)?, b)
        };
        tell(&format!(
            "round {round}: one node {:.1} tokens/s, three nodes {:.1} tokens/s, hops p50 {:?} us",
            a.tokens_per_second, b.tokens_per_second, b.hop_us
        ));
        ones.push(a);
        threes.push(b);
    }
    let speed = |answers: &[Answer]| -> Vec<f64> { answers.iter().map(|a| a.tokens_per_second).collect() };
    let itl = |answers: &[Answer]| -> Vec<f64> { answers.iter().map(|a| a.itl_ms_p50).collect() };
    let ratios: Vec<f64> = speed(&threes).iter().zip(speed(&ones)).map(|(b, a)| b / a).collect();
    // The first stage's hop closes the ring; the others are stage to stage.
    let hops: Vec<f64> = threes.iter().flat_map(|answer| answer.hop_us.iter().skip(1).copied()).collect();
    let ring: Vec<f64> = threes.iter().filter_map(|answer| answer.hop_us.first().copied()).collect();
    print_result(&json!({
        "bench": "decode",
        "numerics": options.numerics,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "one_node_tokens_per_second": median(&speed(&ones)),
        "three_nodes_tokens_per_second": median(&speed(&threes)),
        "ratio_of_medians": median(&speed(&threes)) / median(&speed(&ones)),
        "median_of_ratios": median(&ratios),
        "hop_us_p50": median(&hops),
        "hop_us_worst_round": percentile(&hops, 1.0),
        "tail_return_us_p50": median(&ring),
        "one_node_compute_ms": median(&ones.iter().map(|a| a.compute_ms).collect::<Vec<_>>()),
        "three_nodes_compute_ms": median(&threes.iter().map(|a| a.compute_ms).collect::<Vec<_>>()),
        // A token's median time: unlike tokens/s it does not move with a few tokens that the machine delayed.
        "one_node_itl_ms_p50": median(&itl(&ones)),
        "three_nodes_itl_ms_p50": median(&itl(&threes)),
        "ratio_of_itl_medians": median(&itl(&ones)) / median(&itl(&threes)),
        "one_node_ttft_ms": median(&ones.iter().map(|a| a.ttft_ms).collect::<Vec<_>>()),
        "three_nodes_ttft_ms": median(&threes.iter().map(|a| a.ttft_ms).collect::<Vec<_>>()),
    }));
    Ok(())
}

fn read(answer: &Value) -> Result<Answer> {
    let number = |pointer: &str| {
        answer.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {answer}"))
    };
    let hops = answer["hops"].as_array().context("an answer has hops")?;
    let each = |key: &str| -> Vec<f64> { hops.iter().filter_map(|hop| hop[key].as_f64()).collect() };
    Ok(Answer {
        tokens_per_second: number("/timings/decode_tokens_per_second")?,
        ttft_ms: number("/timings/ttft_ms")?,
        itl_ms_p50: number("/timings/itl_ms_p50")?,
        hop_us: each("network_ms").iter().map(|ms| ms * 1000.0).collect(),
        compute_ms: each("compute_ms").iter().sum(),
    })
}

const PROMPT: &str = "Write a long story about a lighthouse keeper.";
