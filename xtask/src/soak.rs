//! `cargo xtask soak`: the runs that are too long for every change.
//!
//! Ordinary tests whose names begin with `soak_` and whose `#[ignore]` says how long they take, the load generator's
//! scenarios with the limits that must hold, and the simulation of a swarm of 10,000 nodes.

use anyhow::{Result, bail};

use crate::process::{self, Stopwatch};
use crate::workspace::Workspace;

/// Every part, whatever becomes of those before it: a night's run that ends at its first failure says too little.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    crate::setup::run(workspace, &crate::setup::SetupArgs::default())?;
    process::run(&mut process::cargo(workspace, &["build", "--release", "--workspace"]))?;
    let mut report = Vec::new();
    // What is timed goes first, so that whoever starts this need not leave the machine alone for all of it.
    for arguments in LOADS {
        // By the program's name: `--package` would choose other features, and build libtorch's bindings once more.
        let bench = ["run", "--release", "--bin", "benches", "--", "load"];
        report.push(part(process::cargo(workspace, &bench).args(arguments.split(' '))));
    }
    // Seeded and in virtual time; the thousand nodes of the ordinary tests hide what grows with their number.
    let simulate = ["run", "--release", "--example", "simulate", "--", "--nodes", "10000"];
    report.push(part(&mut process::cargo(workspace, &simulate)));
    // One at a time: most of them measure memory or time.
    let tests = ["test", "--release", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast", "--"];
    let chosen = ["--ignored", "soak_", "--test-threads=1", "--nocapture"];
    report.push(part(process::cargo(workspace, &tests).args(chosen)));

    let failed = report.iter().filter(|line| line.starts_with("FAILED")).count();
    eprintln!("\n{}", report.join("\n"));
    if failed > 0 {
        bail!("{failed} of {} parts failed", report.len());
    }
    Ok(())
}

/// Runs one part to its end; one line about it for the closing report.
fn part(command: &mut std::process::Command) -> String {
    let watch = Stopwatch::start();
    let outcome = process::run(command);
    let seconds = watch.elapsed().as_secs();
    match outcome {
        Ok(()) => format!("ok {seconds:>6} s  {}", process::show(command)),
        Err(error) => format!("FAILED {seconds:>2} s  {error:#}"),
    }
}

/// Scenarios of `benches -- load`, as docs/BENCHMARKS.md gives their figures.
const LOADS: [&str; 10] = [
    "--toy --scenario cancel",
    "--toy --scenario slow-reader --clients 8 --step-us 3000",
    "--toy --scenario overload --clients 8 --tokens 100 --step-us 3000",
    "--toy --scenario overload --clients 8 --tokens 100 --step-us 3000 --tenants 4",
    "--toy --scenario streaming --clients 256 --tokens 400 --step-us 20000",
    "--toy --scenario idle --clients 256",
    "--toy --scenario lag --clients 256 --tokens 100 --step-us 25000 --nodes 4",
    "--scenario cancel",
    "--scenario prefill-burst --clients 4 --tokens 64",
    "--synthetic llama-1b --kv-positions 8192 --scenario scaling",
];
