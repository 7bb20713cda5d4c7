//! Measurements over real processes, with the real model or synthetic ones; each prints one JSON object on its last line.
//!
//! `cargo run --release -p benches -- COMMAND`. What is compared is compared in one run, alternating, as medians and
//! ratios. `docs/BENCHMARKS.md` holds the figures with these commands.

mod agreement;
mod asked;
mod attest;
mod decode;
mod detection;
mod engine;
mod first_token;
mod leash;
mod load;
mod recovery;
mod statistics;
mod swarm_speed;
mod synthetic;
mod usage;

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
    /// Write a model of random weights in the shape of a real one
    Synthetic(synthetic::Options),
    /// Speed, memory and loading of the engine in each numerics class, on a synthetic model
    Engine(engine::Options),
    /// Many clients against `router serve`
    Load(Box<load::Options>),
    /// A synthetic model over three nodes, and over llama.cpp's RPC servers if they are given
    SwarmSpeed(swarm_speed::Options),
    /// A node killed behind a long prompt: the gap that a client sees, and the price of being ready
    Recovery(recovery::Options),
    /// What it costs that hops sign for their rows
    Attest(attest::Options),
    /// Start a program that dies with its parent
    #[command(hide = true)]
    Leash(leash::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Decode(options) => decode::run(&options),
        Command::Detection(options) => detection::run(&options),
        Command::FirstToken(options) => first_token::run(&options),
        Command::Agreement(options) => agreement::run(&options),
        Command::Synthetic(options) => synthetic::run(&options),
        Command::Engine(options) => engine::run(&options),
        Command::Load(options) => load::run(&options),
        Command::SwarmSpeed(options) => swarm_speed::run(&options),
        Command::Recovery(options) => recovery::run(&options),
        Command::Attest(options) => attest::run(&options),
        Command::Leash(options) => leash::exec(&options),
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
