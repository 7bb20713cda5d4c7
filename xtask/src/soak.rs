//! `cargo xtask soak`: the runs that are too long for every change.
//!
//! Ordinary tests whose names begin with `soak_` and whose `#[ignore]` says how long they take, and the
//! simulation of a swarm of 10,000 nodes.

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
    // Seeded and in virtual time; the thousand nodes of the ordinary tests hide what grows with their number.
    let simulate = ["run", "--release", "--package", "kademlia-dht", "--example", "simulate", "--"];
    process::run(process::cargo(workspace, &simulate).args(["--nodes", "10000"]))
}
