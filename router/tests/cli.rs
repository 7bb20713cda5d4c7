//! The program as a user meets it without a swarm: exit codes, words, settings.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program with nothing of the user's own environment.
fn router(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_router"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn mistakes_of_usage_end_with_2_and_name_the_cure() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["generate"][..], "--prompt"),
        (&["generate", "--prompt", "x", "--token-ids", "1"], "cannot be used with"),
        (&["generate", "--prompt", "x"], "give --bootstrap"),
        (&["generate", "--prompt", "x", "--numerics", "int3", "--bootstrap", "127.0.0.1:1"], "int8 or int4"),
        (&["generate", "--prompt", "x", "--credit", "0", "--bootstrap", "127.0.0.1:1"], "--credit"),
        (&["generate", "--prompt", "x", "--top-p", "-1", "--bootstrap", "127.0.0.1:1"], "top_p is -1"),
        (&["chat", "--timeout", "0", "--bootstrap", "127.0.0.1:1"], "--timeout 0"),
        (&["nodes", "--bootstrap", "nonsense"], "NODEID@HOST:PORT"),
        (&["nodes", "--config", "missing.toml"], "missing.toml"),
        (&["dance"], "dance"),
    ] {
        let output = router(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn a_bare_address_elsewhere_needs_an_id_or_trust() {
    let home = tempfile::tempdir().unwrap();
    let output = router(home.path(), &["models", "--bootstrap", "192.0.2.1:7401"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--trust-first"), "{}", stderr(&output));
}

#[test]
fn nobody_at_the_bootstrap_address_is_a_failure_that_names_it() {
    let home = tempfile::tempdir().unwrap();
    // Taken by this test, which does not answer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let output = router(home.path(), &["generate", "--json", "--prompt", "x", "--bootstrap", &addr]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&addr), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn settings_come_from_the_file_and_flags_beat_them() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/layerlane");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("router.toml"), "bootstrap = [\"127.0.0.1:7401\"]\ncredit = 9\n").unwrap();
    let shown = stdout(&router(home.path(), &["config", "show"]));
    assert!(shown.contains("127.0.0.1:7401") && shown.contains("credit = 9"), "{shown}");
    let shown = stdout(&router(home.path(), &["config", "show", "--bootstrap", "127.0.0.1:1"]));
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("7401"), "{shown}");
    assert_eq!(router(home.path(), &["config", "check"]).status.code(), Some(0));
    std::fs::write(folder.join("router.toml"), "bootstrop = []\n").unwrap();
    let output = router(home.path(), &["config", "check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("bootstrop"), "{}", stderr(&output));
}

#[test]
fn help_and_version_go_to_stdout() {
    let home = tempfile::tempdir().unwrap();
    let output = router(home.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for command in ["generate", "chat", "nodes", "models", "explain", "config"] {
        assert!(stdout(&output).contains(command));
    }
    assert_eq!(router(home.path(), &["--version"]).status.code(), Some(0));
}
