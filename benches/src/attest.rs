//! What it costs that hops sign: the same nodes, two routers, one of which has them sign, alternating.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use cluster_tests::http;
use cluster_tests::processes::{NodeProcess, Programs};
use cluster_tests::serving::Serving;
use cluster_tests::watched::until_known;
use serde_json::{Value, json};

use crate::statistics::median;
use crate::usage::usage;
use crate::{leash, print_result};

/// Options of `attest`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Pairs of runs, one signed and one not
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Answers at once
    #[arg(long, default_value_t = 1)]
    batch: usize,
}

const SPANS: [&str; 3] = ["0..10", "10..20", "20..30"];

/// One run.
#[derive(Debug, Clone, Copy)]
struct Seen {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    /// Of all nodes, of prompt and answer.
    cpu_ms_per_token: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let programs = leash::programs()?;
    let (signed, plain, receipts) = runtime.block_on(measure(&programs, options))?;
    let of = |seen: &[Seen], value: fn(&Seen) -> f64| median(&seen.iter().map(value).collect::<Vec<_>>());
    let told = |seen: &[Seen]| {
        json!({
            "prefill_tokens_per_second_p50": of(seen, |one| one.prefill_tokens_per_second),
            "decode_tokens_per_second_p50": of(seen, |one| one.decode_tokens_per_second),
            "node_cpu_ms_per_token_p50": of(seen, |one| one.cpu_ms_per_token),
        })
    };
    // Of each pair, as what else the machine does moves both.
    let ratio = |value: fn(&Seen) -> f64| {
        median(&signed.iter().zip(&plain).map(|(on, off)| value(on) / value(off)).collect::<Vec<_>>())
    };
    print_result(&json!({
        "bench": "attest",
        "rounds": options.rounds,
        "prompt_tokens": options.prompt,
        "answer_tokens": options.tokens,
        "batch": options.batch,
        "signed": told(&signed),
        "unsigned": told(&plain),
        "receipts": receipts,
        "prefill_signed_to_unsigned": ratio(|one| one.prefill_tokens_per_second),
        "decode_signed_to_unsigned": ratio(|one| one.decode_tokens_per_second),
        "cpu_signed_to_unsigned": ratio(|one| one.cpu_ms_per_token),
    }));
    Ok(())
}

async fn measure(programs: &Programs, options: &Options) -> Result<(Vec<Seen>, Vec<Seen>, f64)> {
    let home = tempfile::tempdir()?;
    let model = programs.model()?;
    let mut nodes: Vec<NodeProcess> = Vec::new();
    for span in SPANS {
        let mut arguments: Vec<OsString> =
            vec!["--model".into(), model.clone().into(), "--layers".into(), span.into()];
        // Each prompt is computed anew.
        arguments.extend(["--prefix-positions", "0"].map(OsString::from));
        if let Some(first) = nodes.first() {
            arguments.extend(["--bootstrap".into(), first.ready().target().into()]);
        }
        nodes.push(programs.node(home.path(), &arguments)?);
    }
    let target = nodes[0].ready().target();
    let start = |signs: &str| Serving::start(programs, home.path(), &target, &[signs]);
    let (signing, plain) = (start("--attest=true")?, start("--attest=false")?);
    until_known(&signing, nodes.len()).await;
    until_known(&plain, nodes.len()).await;
    // Connections, pages and frequencies come to rest.
    for router in [&signing, &plain] {
        one(router.listen, &mut nodes, options).await?;
    }
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        // Which comes first alternates too.
        for signs in [round % 2 == 0, round % 2 == 1] {
            let router = if signs { &signing } else { &plain };
            let seen = one(router.listen, &mut nodes, options).await?;
            if signs { on.push(seen) } else { off.push(seen) }
        }
    }
    let signed = |node: &NodeProcess| node.metric("shard_node_receipts_total").unwrap_or_default();
    let receipts = nodes.iter().map(signed).sum();
    ensure!(receipts > 0.0, "nobody signed");
    Ok((on, off, receipts))
}

/// A batch of answers to the same prompt.
async fn one(router: SocketAddr, nodes: &mut [NodeProcess], options: &Options) -> Result<Seen> {
    let used = cpu_of(nodes)?;
    let begun = now();
    let answers = (0..options.batch).map(|_| answer(router, options));
    let times = futures_of(answers.collect()).await?;
    let used = cpu_of(nodes)? - used;
    let first = times.iter().map(|(first, _)| *first).max().context("no answer")?;
    let last = times.iter().map(|(_, last)| *last).max().context("no answer")?;
    let (rows, tokens) = (options.batch * options.prompt as usize, options.batch * options.tokens);
    Ok(Seen {
        prefill_tokens_per_second: rows as f64 / (first - begun).as_secs_f64(),
        decode_tokens_per_second: (tokens - options.batch) as f64 / (last - first).as_secs_f64(),
        cpu_ms_per_token: used * 1000.0 / (rows + tokens) as f64,
    })
}

async fn futures_of<F: Future<Output = Result<(Instant, Instant)>> + Send + 'static>(
    answers: Vec<F>,
) -> Result<Vec<(Instant, Instant)>> {
    let mut tasks = tokio::task::JoinSet::new();
    for answer in answers {
        tasks.spawn(answer);
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.push(done??);
    }
    Ok(times)
}

/// When an answer's first and last token came.
fn answer(router: SocketAddr, options: &Options) -> impl Future<Output = Result<(Instant, Instant)>> + use<> {
    // What repeats goes on repeating, and does not end.
    let prompt: Vec<u32> = (0..options.prompt).map(|at| 100 + at % 50 * 7).collect();
    let tokens = options.tokens;
    async move {
        let request = json!({"token_ids": prompt, "max_tokens": tokens, "stream": true});
        let answer = http::post(router, "/v1/generate", &request).await?;
        ensure!(answer.status == 200, "status {}", answer.status);
        let (mut events, mut times) = (answer.events(), Vec::new());
        loop {
            let event = events.next().await?.context("an answer has an end")?;
            let object: Value = serde_json::from_str(&event.data)?;
            ensure!(event.name != "error", "{object}");
            if event.name == "done" {
                break;
            }
            let came = object["token_ids"].as_array().map_or(0, Vec::len);
            times.extend(std::iter::repeat_n(now(), came));
        }
        ensure!(times.len() == tokens, "{} tokens of {tokens}", times.len());
        Ok((times[0], times[times.len() - 1]))
    }
}

/// Seconds of the processor that all nodes have used.
fn cpu_of(nodes: &mut [NodeProcess]) -> Result<f64> {
    nodes.iter_mut().map(|node| Ok(usage(node.running().pid())?.cpu)).sum()
}

#[expect(clippy::disallowed_methods, reason = "a measuring program reads clocks")]
fn now() -> Instant {
    Instant::now()
}
