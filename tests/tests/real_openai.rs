//! The official Python client against a router and two nodes with the real model.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stderr, reason = "the client's own account is worth reading")]

use std::time::Duration;

use cluster_tests::clients;
use cluster_tests::processes::{Programs, Running};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

/// Runs a script of `clients` against a router and two nodes; it must have so many checks, and all must pass.
fn run(script: &str, list: &str, checks: usize) {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let swarm = programs.swarm(home.path(), &["0..15", "15..30"], &[]).unwrap();
    let mut command = programs.command("router", home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--bootstrap", &swarm[0].ready().target()]);
    let mut router = Running::start(command, &home.path().join("router.log")).unwrap();
    let line = router.line(PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", router.log_text()));
    let ready: Value = serde_json::from_str(&line).unwrap();

    let mut python = clients::script(script, list).unwrap();
    python.args([ready["listen"].as_str().unwrap(), ready["models"][0].as_str().unwrap()]);
    let output = python.output().unwrap();
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("{told}");
    assert!(output.status.success(), "{told}{wrong}\n{}", router.log_text());
    assert_eq!(clients::checks_passed(script, &told).unwrap(), checks, "{told}");
}

#[test]
fn the_official_client_is_served() {
    run("openai_client.py", "requirements.txt", 17);
}

#[test]
fn two_hundred_answers_are_json_of_their_schemas() {
    run("json_schema.py", "requirements.txt", 4);
}

#[test]
fn langchain_is_served() {
    run("langchain_client.py", "langchain.txt", 10);
}
