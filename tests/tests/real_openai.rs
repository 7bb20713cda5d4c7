//! The official Python client against a router and two nodes with the real model.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stderr, reason = "the client's own account is worth reading")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use cluster_tests::processes::{Programs, Running};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

/// Tests run side by side.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Where the client is installed: once for each list of versions.
fn client() -> PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let list = clients.join("requirements.txt");
    let versions = proto::ContentHash::of(&std::fs::read(&list).unwrap()).to_string();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/clients");
    let folder = root.join(&versions[..16]);
    let _installing = INSTALLING.lock().unwrap();
    if !folder.exists() {
        std::fs::create_dir_all(&root).unwrap();
        let draft = tempfile::tempdir_in(&root).unwrap();
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
        let installed = pip.arg(draft.path()).arg("-r").arg(&list).status().unwrap();
        assert!(installed.success(), "pip could not install the clients of {}", list.display());
        std::fs::rename(draft.keep(), &folder).unwrap();
    }
    folder
}

/// Runs a script of `clients` against a router and two nodes.
fn run(script: &str) {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let swarm = programs.swarm(home.path(), &["0..15", "15..30"], &[]).unwrap();
    let mut command = programs.command("router", home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--bootstrap", &swarm[0].ready().target()]);
    let mut router = Running::start(command, &home.path().join("router.log")).unwrap();
    let line = router.line(PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", router.log_text()));
    let ready: Value = serde_json::from_str(&line).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut python = Command::new("python3");
    python.arg(script).args([ready["listen"].as_str().unwrap(), ready["models"][0].as_str().unwrap()]);
    let output = python.env("PYTHONPATH", client()).env("PYTHONUNBUFFERED", "1").output().unwrap();
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("{told}");
    assert!(output.status.success(), "{told}{wrong}\n{}", router.log_text());
    let last = told.lines().last().unwrap_or_default();
    assert!(last.ends_with("checks passed, 0 skipped"), "nothing may be skipped: {last}");
}

#[test]
fn the_official_client_is_served() {
    run("openai_client.py");
}

#[test]
fn two_hundred_answers_are_json_of_their_schemas() {
    run("json_schema.py");
}
