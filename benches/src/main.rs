//! Measurements over real processes and the real model; each prints one JSON object on its last line.
//!
//! `cargo run --release -p benches -- COMMAND`. What is compared is compared in one run, alternating, as medians and
//! ratios. `docs/BENCHMARKS.md` holds the figures with these commands.

mod agreement;
mod decode;
mod detection;
mod first_token;
mod statistics;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Layerlane's measurements.
#[derive(Parser, Debug)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Decode speed of three nodes against one, and the time from hop to hop
    Decode(decode::Options),
    /// From kill -9 of a node mid-answer to the router's error
    Detection(detection::Options),
    /// From `cargo xtask demo` to the first character of the answer
    FirstToken(first_token::Options),
    /// Greedy answers to twenty prompts over three nodes and over one, in bf16
    Agreement(agreement::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Decode(options) => decode::run(&options),
        Command::Detection(options) => detection::run(&options),
        Command::FirstToken(options) => first_token::run(&options),
        Command::Agreement(options) => agreement::run(&options),
    }
}

/// Prints the result where a script reads it.
#[expect(clippy::print_stdout, reason = "the result of a measurement")]
fn print_result(result: &serde_json::Value) {
    println!("{result}");
}

/// Tells the person waiting how far it is.
#[expect(clippy::print_stderr, reason = "progress of a measurement")]
fn tell(line: &str) {
    eprintln!("{line}");
}
