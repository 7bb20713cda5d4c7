//! A warm `cargo xtask demo`, from the command to the first character of the answer.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use cluster_tests::processes::Running;
use serde_json::json;

use crate::statistics::{median, percentile};
use crate::{leash, print_result, tell};

/// Options of `first-token`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Demos run
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut seconds = Vec::new();
    for round in 0..options.rounds {
        let started = now();
        let mut command = leash::command("cargo");
        command.args(["xtask", "demo", "--max-tokens", "16"]).stdin(Stdio::null());
        let mut demo = Running::start(command, &home.path().join("demo.log"))?;
        demo.wait_for_output(1, Duration::from_mins(5))?;
        let took = started.elapsed().as_secs_f64();
        demo.wait(Duration::from_mins(2))?;
        tell(&format!("round {round}: first character after {took:.2} s"));
        seconds.push(took);
    }
    print_result(&json!({
        "bench": "first-token",
        "rounds": options.rounds,
        "seconds_p50": median(&seconds),
        "seconds_max": percentile(&seconds, 1.0),
    }));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "times real processes from outside")]
fn now() -> Instant {
    Instant::now()
}
