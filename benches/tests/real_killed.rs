//! Whatever ends a measurement ends the programs that it started.

#![expect(clippy::unwrap_used, reason = "also the functions around the test fail by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::processes::Running;

/// Longer than a swarm of toys and a router take to start on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[test]
fn a_router_ends_with_the_measurement_that_started_it() {
    let home = tempfile::tempdir().unwrap();
    for signal in ["TERM", "KILL"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_benches"));
        // Ten rounds of half a second, each of which is told.
        command.args(["load", "--toy", "--scenario", "cancel", "--step-us", "20000"]);
        let mut running = Running::start(command, &home.path().join("benches.log")).unwrap();
        // Not sooner: a router that can't say that it is ready ends by itself.
        wait_until(|| running.log_text().contains("round 0"))
            .unwrap_or_else(|| panic!("no round: {}", running.log_text()));
        let routers = children(running.pid(), "router");
        assert_eq!(routers.len(), 1);
        running.signal(signal).unwrap();
        running.wait(PATIENCE).unwrap();
        wait_until(|| routers.iter().all(|&router| has_ended(router)))
            .unwrap_or_else(|| panic!("{signal}: the router is left: {routers:?}"));
    }
}

/// The processes of that name that `parent` started.
fn children(parent: u32, name: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|(known, _, of)| known == name && of == parent)).collect()
}

/// Gone, or not yet waited for.
fn has_ended(pid: u32) -> bool {
    stat(pid).is_none_or(|(_, state, _)| state == "Z")
}

/// Name, state and parent.
fn stat(pid: u32) -> Option<(String, String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((name.to_owned(), fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

#[expect(clippy::disallowed_methods, reason = "waits for real processes")]
fn wait_until(mut met: impl FnMut() -> bool) -> Option<()> {
    let begun = Instant::now();
    while !met() {
        if begun.elapsed() > PATIENCE {
            return None;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    Some(())
}
