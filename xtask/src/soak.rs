//! `cargo xtask soak`: the runs that are too long for every change.
//!
//! Ordinary tests whose names begin with `soak_` and whose `#[ignore]` says how long they take, the load generator's
//! scenarios with the limits that must hold, and the simulation of a swarm of 10,000 nodes.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    crate::setup::run(workspace, &crate::setup::SetupArgs::default())?;
    let build = ["build", "--release", "--workspace"];
    process::run(&mut process::cargo(workspace, &build))?;
    // One at a time: most of them measure memory or time.
    let test = ["test", "--release", "--workspace", "--lib", "--bins", "--tests", "--"];
    let chosen = ["--ignored", "soak_", "--test-threads=1", "--nocapture"];
    process::run(process::cargo(workspace, &test).args(chosen))?;
    for arguments in LOADS {
        // By the program's name: `--package` would choose other features, and build libtorch's bindings once more.
        let bench = ["run", "--release", "--bin", "benches", "--", "load"];
        process::run(process::cargo(workspace, &bench).args(arguments.split(' ')))?;
    }
    // Seeded and in virtual time; the thousand nodes of the ordinary tests hide what grows with their number.
    let simulate = ["run", "--release", "--example", "simulate", "--"];
    process::run(process::cargo(workspace, &simulate).args(["--nodes", "10000"]))
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
