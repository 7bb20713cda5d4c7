//! How long after `kill -9` of a node mid-answer the router ends with an error that names node and span.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use cluster_tests::processes::Running;
use serde_json::json;

use crate::statistics::{median, percentile};
use crate::{leash, print_result, tell};

/// Options of `detection`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Nodes killed, one of each swarm
    #[arg(long, default_value_t = 6)]
    rounds: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = leash::programs()?;
    let mut seconds = Vec::new();
    for round in 0..options.rounds {
        let home = tempfile::tempdir()?;
        let mut swarm = programs.swarm(home.path(), &["0..10", "10..20", "20..30"], &[])?;
        let target = swarm[0].ready().target();
        let mut command = programs.command("router", home.path());
        let arguments = ["generate", "--chat", "--prompt", "Tell me a long story.", "--max-tokens", "2000"];
        command.args(arguments).args(["--bootstrap", &target]);
        let mut router = Running::start(command, &home.path().join("router.log"))?;
        router.wait_for_output(40, Duration::from_mins(1))?;
        let victim = &mut swarm[round % 3];
        let name = victim.ready().node[..8].to_owned();
        let span = victim.ready().layers;
        let killed = now();
        victim.running().kill_hard()?;
        let status = router.wait(Duration::from_secs(30))?;
        let took = killed.elapsed().as_secs_f64();
        let log = router.log_text();
        let named = log.contains(&name) && log.contains(&format!("{}..{}", span[0], span[1]));
        ensure!(
            !status.success() && named,
            "the router's error does not name node {name} and its span: {log}"
        );
        tell(&format!("round {round}: stage {} killed, named after {took:.2} s", round % 3));
        seconds.push(took);
    }
    print_result(&json!({
        "bench": "detection",
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
