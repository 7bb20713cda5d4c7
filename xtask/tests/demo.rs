//! The demo against stub programs: what it starts ends with it, whatever happens.
//!
//! The stubs are shell scripts that speak the command lines and JSON of our programs; the real ones are
//! tested by cluster-tests. Each stub writes its process id, and the tests look those up.

#![expect(clippy::unwrap_used, reason = "also the functions around the tests fail by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

#[test]
fn json_is_the_last_line_and_no_node_is_left() {
    let stubs = Stubs::new(GOOD_ROUTER);
    let output = stubs.demo(&["--json", "--nodes", "3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().last().unwrap(), r#"{"text":"ok","hops":[]}"#);
    assert_eq!(stubs.pids().len(), 4);
    stubs.assert_all_ended();
}

#[test]
fn nodes_get_equal_spans_and_the_first_is_bootstrap_of_all() {
    let stubs = Stubs::new(GOOD_ROUTER);
    stubs.demo(&["--json", "--nodes", "4", "--numerics", "exact", "--token-ids", "1,2", "--seed", "7"]);
    let calls = stubs.calls();
    let nodes: Vec<&String> = calls.iter().filter(|call| call.starts_with("serve ")).collect();
    assert_eq!(nodes.len(), 4);
    for span in ["0..8", "8..16", "16..23", "23..30"] {
        assert!(nodes.iter().any(|call| call.contains(&format!("--layers {span} "))), "{span}: {calls:?}");
    }
    assert_eq!(
        nodes.iter().filter(|call| call.contains("--bootstrap aa11@127.0.0.1:1")).count(),
        3,
        "{calls:?}"
    );
    let generate = calls.iter().find(|call| call.starts_with("generate ")).unwrap();
    for part in
        ["--bootstrap=aa11@127.0.0.1:1", "--model=stub", "--token-ids=1,2", "--seed=7", "--numerics=exact"]
    {
        assert!(generate.contains(part), "{part}: {generate}");
    }
    assert!(!generate.contains("--chat") && !generate.contains("--prompt="), "{generate}");
}

#[test]
fn the_streamed_answer_is_followed_by_a_table() {
    let stubs = Stubs::new(GOOD_ROUTER);
    let output = stubs.demo(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Gravity is") && text.contains("compute ms"), "{text}");
    assert!(text.contains("receipts verified 3/3") && text.contains("audited 1 receipts"), "{text}");
    assert!(
        stubs
            .calls()
            .iter()
            .any(|call| call.contains("--prompt=What is gravity?") && call.contains("--chat"))
    );
    stubs.assert_all_ended();
}

#[test]
fn a_router_that_fails_fails_the_demo_and_leaves_nothing() {
    let stubs = Stubs::new("exit 3\n");
    let output = stubs.demo(&["--json"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("`router generate` failed"));
    stubs.assert_all_ended();
}

#[test]
fn a_node_that_dies_at_start_is_named_with_the_end_of_its_log() {
    let stubs = Stubs::new(GOOD_ROUTER);
    stubs.write("shard-node", &format!("{INSPECT}echo 'libtorch is missing' >&2; exit 1\n"));
    let output = stubs.demo(&["--json"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(errors.contains("node-0") && errors.contains("libtorch is missing"), "{errors}");
}

#[test]
fn nodes_that_ignore_the_polite_signal_are_killed() {
    let stubs = Stubs::new(GOOD_ROUTER);
    stubs.write("shard-node", &format!("{INSPECT}trap '' TERM\n{SERVE}"));
    assert!(stubs.demo(&["--json", "--nodes", "1"]).status.success());
    stubs.assert_all_ended();
}

#[test]
fn interrupting_or_killing_the_demo_ends_its_nodes() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let stubs = Stubs::new("echo waiting; exec sleep 600\n");
        let mut demo = stubs.command(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(demo.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "waiting\n");
        kill_process(Pid::from_child(&demo), signal).unwrap();
        demo.wait().unwrap();
        // The router inherited the pipe: its end is the end of the router.
        stdout.read_to_end(&mut Vec::new()).unwrap();
        stubs.assert_all_ended();
    }
}

/// A folder with stub programs and the traces they leave.
struct Stubs(TempDir);

impl Stubs {
    fn new(router: &str) -> Self {
        let stubs = Self(TempDir::new().unwrap());
        stubs.write("shard-node", &format!("{INSPECT}{SERVE}"));
        stubs.write("router", router);
        stubs
    }

    fn write(&self, name: &str, script: &str) {
        let path = self.0.path().join(name);
        let here = self.0.path().display();
        let head = format!("#!/bin/sh\necho $$ >> {here}/pids\necho \"$*\" >> {here}/calls\n");
        // Written aside and renamed: a program that is open for writing cannot be run.
        let fresh = self.0.path().join(format!("{name}.new"));
        std::fs::write(&fresh, head + script).unwrap();
        std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("demo").args(arguments).args(["--model", "stub.gguf", "--programs"]).arg(self.0.path());
        command
    }

    fn demo(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Processes that served or generated; all others are over by themselves.
    fn pids(&self) -> Vec<i32> {
        let pids = read(&self.0.path().join("pids"));
        let calls = self.calls();
        let started = pids
            .into_iter()
            .zip(calls)
            .filter(|(_, call)| call.starts_with("serve ") || call.starts_with("generate "));
        started.map(|(pid, _)| pid.parse().unwrap()).collect()
    }

    fn calls(&self) -> Vec<String> {
        read(&self.0.path().join("calls"))
    }

    /// Ended and reaped, or at least ended: an orphan may wait for its new parent to look after it.
    fn assert_all_ended(&self) {
        let pids = self.pids();
        assert!(!pids.is_empty());
        for pid in pids {
            let alive = || {
                let known = test_kill_process(Pid::from_raw(pid).unwrap()).is_ok();
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                known && !stat.is_empty() && !stat.contains(") Z ")
            };
            // The kernel delivers the death signal after the parent's end has been reported.
            for _ in 0..10_000 {
                if !alive() {
                    break;
                }
                std::thread::yield_now();
            }
            assert!(!alive(), "process {pid} is left");
        }
    }
}

fn read(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

const INSPECT: &str = "if [ \"$1\" = inspect ]; then echo '{\"name\":\"stub\",\"layers\":30}'; exit 0; fi\n\
if [ \"$1\" = calibrate ]; then exit 0; fi\n\
if [ \"$1\" = audit ]; then echo 'pass: aa11'; echo 'audited 1 receipts of 1 answers'; exit 0; fi\n";

/// Says that it is ready and waits; its stdout stays open until it ends.
const SERVE: &str = "echo loading\necho '{\"event\":\"ready\",\"node\":\"aa11\",\"listen\":\"127.0.0.1:1\",\
\"admin\":\"127.0.0.1:2\",\"model\":\"stub\",\"model_id\":\"00\",\"layers\":[0,8]}'\nexec sleep 600\n";

/// Streams a word, or prints its object; writes the report where it is told.
const GOOD_ROUTER: &str = "if [ \"$1\" = verify ]; then\n\
echo '{\"receipts_verified\":3,\"receipts_shown\":3,\"tokens_signed\":2,\"tokens_delivered\":2}'; exit 0; fi\n\
object='{\"text\":\"ok\",\"hops\":[]}'\nwhile [ $# -gt 0 ]; do\n\
if [ \"$1\" = --report ]; then echo \"$object\" > \"$2\"; echo 'Gravity is'; exit 0; fi\n\
if [ \"$1\" = --json ]; then echo noise; echo \"$object\"; exit 0; fi\nshift\ndone\nexit 9\n";
