//! Bad input to the real programs: each error names the thing and the cure, quickly, and nothing hangs.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::processes::{Programs, Running};

const QUICK: Duration = Duration::from_mins(1);
const ALIAS: &str = "smollm2-135m-instruct";

/// Runs a program that must fail, and checks that its last words hold all of `words`.
fn fails<A: AsRef<OsStr>>(programs: &Programs, home: &Path, name: &str, arguments: &[A], words: &[&str]) {
    let finished = programs.run(name, home, arguments, QUICK).unwrap();
    let said = &finished.stderr;
    assert!(!finished.status.success(), "{name} succeeded: {said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn changed_copy(programs: &Programs, folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(programs.model().unwrap()).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 0x10;
    let path = folder.join("changed.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_node_says_what_is_wrong_before_it_serves() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let model = programs.model().unwrap().display().to_string();
    let serve = |more: &[&str], words: &[&str]| {
        let state = home.join("state").display().to_string();
        let mut arguments = vec!["serve", "--state-dir", &state];
        arguments.extend(more);
        fails(&programs, home, "shard-node", &arguments, words);
    };
    serve(&[], &["--model"]);
    serve(&["--model", "nonesuch"], &["unknown model `nonesuch`", ALIAS]);
    serve(&["--model", "/does/not/exist.gguf"], &["/does/not/exist.gguf", "does not exist"]);
    serve(&["--model", &model, "--layers", "20..31"], &["20..31", "30 layers"]);
    serve(&["--model", &model, "--layers", "7..7"], &["7..7", "start must be below end"]);
    serve(&["--model", &model, "--numerics", "int3"], &["int3", "int8 or int4"]);
    serve(&["--model", &model, "--device", "cuda:x"], &["cuda:x", "cuda:N"]);
    serve(&["--model", &model, "--bootstrap", "10.1.2.3:7401"], &["10.1.2.3:7401", "--trust-first"]);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (listen, port) = (address.to_string(), address.port().to_string());
    serve(&["--model", &model, "--layers", "0..1", "--listen", &listen], &[&port, "in use", "another port"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let admin = ["--model", &model, "--layers", "0..1", "--listen", "127.0.0.1:0", "--admin", &address];
    serve(&admin, &[&address, "--admin"]);
    let cut = home.join("cut.gguf");
    std::fs::write(&cut, &std::fs::read(&model).unwrap()[..40_000_000]).unwrap();
    let cut = cut.display().to_string();
    serve(&["--model", &cut, "--layers", "0..1"], &["cut.gguf", "truncated"]);
    fails(&programs, home, "shard-node", &["config", "check", "--config", "/none.toml"], &["/none.toml"]);
}

#[test]
fn a_missing_libtorch_or_engine_is_a_message_with_the_cure() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let model = programs.model().unwrap();
    let bin = home.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(programs.path("shard-node"), bin.join("shard-node")).unwrap();
    let run = |libtorch: Option<&str>| {
        let mut command = std::process::Command::new(bin.join("shard-node"));
        command.args(["serve", "--layers", "0..1", "--model"]).arg(&model);
        command.env_remove("LIBTORCH").env("HOME", home.path()).env("XDG_CACHE_HOME", home.path());
        if let Some(libtorch) = libtorch {
            command.env("LIBTORCH", libtorch);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(None);
    assert!(said.contains("shard-node-engine") && said.contains("cargo build"), "{said}");
    std::fs::copy(programs.path("shard-node-engine"), bin.join("shard-node-engine")).unwrap();
    let said = run(None);
    assert!(said.contains("libtorch 2.11") && said.contains("shard-node setup"), "{said}");
    let said = run(Some("/nowhere"));
    assert!(said.contains("LIBTORCH is /nowhere") && said.contains("shard-node setup"), "{said}");
}

#[test]
fn a_router_says_what_the_swarm_lacks() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let nodes = programs.swarm(home, &["0..10", "20..30"], &[]).unwrap();
    let target = nodes[0].ready().target();
    let generate = |more: &[&str], words: &[&str]| {
        let mut arguments = vec!["generate", "--bootstrap", &target];
        arguments.extend(more);
        fails(&programs, home, "router", &arguments, words);
    };
    generate(&["--prompt", "x"], &["layers 10..20 are held by nobody"]);
    generate(&["--prompt", "x", "--model", "nonesuch"], &["nonesuch", ALIAS]);
    generate(&["--prompt", "x", "--numerics", "exact"], &["exact", "bf16"]);
    generate(&["--token-ids", "1,x"], &["token-ids"]);
    generate(&[], &["--prompt"]);
    let model = programs.model().unwrap().display().to_string();
    let _middle =
        programs.node(home, &["--model", &model, "--layers", "10..20", "--bootstrap", &target]).unwrap();
    generate(&["--prompt", "x", "--temperature=-1"], &["temperature"]);
    let long = "word ".repeat(9000);
    generate(&["--prompt", &long], &["8192"]);
    generate(&["--token-ids", "1,49152"], &["49152"]);
    let listed = programs.run("router", home, &["nodes", "--json", "--bootstrap", &target], QUICK).unwrap();
    assert!(listed.status.success() && listed.stdout.contains(&nodes[1].ready().node), "{listed:?}");
    let explain = ["explain", "--model", ALIAS, "--bootstrap", &target];
    let explained = programs.run("router", home, &explain, QUICK).unwrap();
    assert!(explained.status.success() && explained.stdout.contains("10..20"), "{explained:?}");
}

#[test]
fn two_nodes_with_different_weights_under_one_name_are_told_apart() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let first = programs.swarm(home, &["0..15"], &[]).unwrap().remove(0);
    let target = first.ready().target();
    let changed = changed_copy(&programs, home).display().to_string();
    let other = ["--model", &changed, "--name", ALIAS, "--layers", "15..30", "--bootstrap", &target];
    let other = programs.node(home, &other).unwrap();
    assert_ne!(first.ready().model_id, other.ready().model_id);
    let (a, b) = (&first.ready().model_id[..8], &other.ready().model_id[..8]);
    let arguments = ["generate", "--prompt", "x", "--model", ALIAS, "--bootstrap", &target];
    fails(&programs, home, "router", &arguments, &[a, b]);
}

#[test]
fn weights_that_changed_behind_the_manifest_are_refused_by_tensor() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    // The manifest is cached by path, size and times, which stay as they are while the bytes change.
    let path = home.join("model.gguf");
    std::fs::copy(programs.model().unwrap(), &path).unwrap();
    let model = path.display().to_string();
    let mut node = programs.node(home, &["--model", &model, "--layers", "29..30"]).unwrap();
    node.running().kill_hard().unwrap();
    let before = std::fs::metadata(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).read(true).open(&path).unwrap();
    // The last bytes belong to a tensor of the last layers or the head; all are loaded by 0..30.
    let (mut byte, at) = ([0], before.len() - 100);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    let state = home.join("again").display().to_string();
    let mut command = programs.command("shard-node", home);
    command.args(["serve", "--model", &model, "--layers", "0..30", "--state-dir", &state]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut running = Running::start(command, &home.join("again.log")).unwrap();
    let status = running.wait(QUICK).unwrap();
    let said = running.log_text();
    assert!(!status.success() && said.contains("model.gguf") && said.contains("tensor"), "{said}");
}
