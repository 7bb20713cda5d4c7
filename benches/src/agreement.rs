//! Greedy answers to twenty prompts over three nodes and over one: equal, or the first flip with its margin.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use clap::Args;
use cluster_tests::prompts::PROMPTS;
use serde_json::{Value, json};

use crate::{leash, print_result, tell};

/// Options of `agreement`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Tokens of each answer
    #[arg(long, default_value_t = 128)]
    tokens: u32,
    /// A numerics class, such as bf16 or int8-kv8
    #[arg(long, default_value = "bf16")]
    numerics: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = leash::programs()?;
    let home = tempfile::tempdir()?;
    let folders = [home.path().join("one"), home.path().join("three")];
    let spans: [&[&str]; 2] = [&["0..30"], &["0..10", "10..20", "20..30"]];
    let mut swarms = Vec::new();
    for (folder, spans) in folders.iter().zip(spans) {
        std::fs::create_dir_all(folder)?;
        swarms.push(programs.swarm(folder, spans, &["--numerics", &options.numerics])?);
    }
    let (mut equal, mut tokens, mut flips) = (0, 0, Vec::new());
    for prompt in PROMPTS {
        let count = options.tokens.to_string();
        let arguments = [
            "--chat",
            "--prompt",
            prompt,
            "--max-tokens",
            &count,
            "--numerics",
            &options.numerics,
            "--verbose",
        ];
        let one = programs.generate(&folders[0], swarms[0][0].ready(), &arguments)?;
        let three = programs.generate(&folders[1], swarms[1][0].ready(), &arguments)?;
        let (a, b) = (ids(&one)?, ids(&three)?);
        tokens += a.len();
        match a.iter().zip(b).position(|(x, y)| x != y) {
            None if a.len() == b.len() => equal += 1,
            at => {
                let at = at.unwrap_or_else(|| a.len().min(b.len()));
                let margin = one["margins"][at].as_f64();
                let mut line = format!("{prompt:?}: differs at token {at}");
                let _ = write!(line, ", margin {margin:?}");
                tell(&line);
                flips.push(json!({ "prompt": prompt, "token": at, "margin": margin }));
            }
        }
    }
    tell(&format!("{equal} of {} answers equal", PROMPTS.len()));
    print_result(&json!({
        "bench": "agreement",
        "numerics": options.numerics,
        "prompts": PROMPTS.len(),
        "tokens": tokens,
        "equal": equal,
        "flips": flips,
    }));
    Ok(())
}

fn ids(answer: &Value) -> Result<&Vec<Value>> {
    answer["token_ids"].as_array().context("an answer has token ids")
}
