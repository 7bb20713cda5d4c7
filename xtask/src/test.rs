//! `cargo xtask test`: everything that CI checks, in one go, cheap checks first.
//!
//! Owns the order and the verdict. A phase that fails ends the run; the times and the test runner's closing
//! lines come last, so that the end of a log says it all. Tests that need minutes are in `soak`.

mod closing;

use anyhow::{Context, Result, bail};
use clap::Args;
use closing::Closing;

use crate::process::{self, Stopwatch};
use crate::setup::{self, SetupArgs};
use crate::tidy::{SourceFile, ignored_tests};
use crate::workspace::Workspace;
use crate::{layers, libraries, tidy};

/// Options of `cargo xtask test`.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Use `cargo test` even where cargo-nextest is installed
    #[arg(long)]
    no_nextest: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> Result<()> {
    let mut phases = Phases::default();
    let cargo = |arguments: &[&str]| process::run(&mut process::cargo(workspace, arguments));
    let outcome = (|| {
        phases.run("format", || cargo(&["fmt", "--all", "--check"]))?;
        phases.run("tidy", || tidy::run(workspace))?;
        phases.run("layers", || layers::run(workspace))?;
        phases.run("setup", || setup::run(workspace, &SetupArgs::default()))?;
        // By itself: within the whole workspace, feature unification would hide a dependency on libtorch.
        phases.run("check without libtorch", || {
            cargo(&["check", "--release", "--workspace", "--exclude", "shard-node-engine", "--all-targets"])
        })?;
        phases.run("clippy", || {
            cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"])
        })?;
        phases.run("build", || cargo(&["build", "--release", "--workspace", "--all-targets"]))?;
        phases.run("verify-libraries", || libraries::run(workspace))?;
        let lesser = phases.run("engine without AVX-512", || without_avx512(workspace, args))?;
        let closing = phases.run("tests", || tests(workspace, args))?;
        Ok::<_, anyhow::Error>((lesser, closing))
    })();
    phases.print();
    let (lesser, closing) = outcome?;
    println!("engine without AVX-512: {} passed, {} failed", lesser.passed, lesser.failed);
    println!("{closing}");
    Ok(())
}

/// The engine's tests once more, as on a CPU with AVX2 only: other kernels of the library, of oneDNN and of the shim.
/// Its counts are not added to those of [`tests`]: they are the same tests.
fn without_avx512(workspace: &Workspace, args: &TestArgs) -> Result<Closing> {
    // Chosen by a filter: `--package` would build dependencies anew that the workspace unifies otherwise.
    let chosen = "--filterset=package(shard-node-engine)";
    let nextest = ["nextest", "run", "--release", "--workspace", chosen, "--no-fail-fast", "--no-tests=fail"];
    let plain = ["test", "--release", "--package=shard-node-engine", "--no-fail-fast"];
    let arguments: &[&str] = if !args.no_nextest && has_nextest(workspace) { &nextest } else { &plain };
    let mut command = process::cargo(workspace, arguments);
    let (success, lines) = process::run_and_read(command.envs(AVX2_ONLY))?;
    let closing = closing::read(&lines).context("find the closing lines of the test runner")?;
    if !success || closing.failed > 0 || closing.passed == 0 {
        bail!(
            "the engine's tests failed with {}",
            AVX2_ONLY.map(|(name, value)| format!("{name}={value}")).join(" ")
        );
    }
    Ok(closing)
}

/// What makes libtorch, the shim with it, and oneDNN compute as on a CPU without AVX-512.
const AVX2_ONLY: [(&str, &str); 2] = [("ATEN_CPU_CAPABILITY", "avx2"), ("ONEDNN_MAX_CPU_ISA", "AVX2")];

/// Runs all tests and doc tests; gives the runner's closing lines.
fn tests(workspace: &Workspace, args: &TestArgs) -> Result<Closing> {
    let expected = ignored(workspace)?;
    let nextest = !args.no_nextest && has_nextest(workspace);
    let mut output = Vec::new();
    let mut failed = Vec::new();
    let mut run = |arguments: &[&str]| -> Result<()> {
        let (success, lines) = process::run_and_read(&mut process::cargo(workspace, arguments))?;
        if !success {
            failed.push(format!("cargo {}", arguments.join(" ")));
        }
        output.extend(lines);
        Ok(())
    };
    if nextest {
        run(&[
            "nextest",
            "run",
            "--release",
            "--workspace",
            "--no-tests=fail",
            "--no-fail-fast",
            "--status-level=skip",
        ])?;
        run(&["test", "--release", "--workspace", "--doc"])?;
    } else {
        run(&["test", "--release", "--workspace", "--no-fail-fast"])?;
    }
    let closing = closing::read(&output).context("find the closing lines of the test runner")?;
    println!("{}", closing.skips(&expected));
    if !failed.is_empty() {
        println!("{closing}");
        bail!("{} failed", failed.join(" and "));
    }
    let unexpected = closing.unexpected(&expected);
    if !unexpected.is_empty() {
        println!("{closing}");
        bail!(
            "skipped, but not marked to be: {}; run them or mark them with #[ignore = \"..\"]",
            unexpected.join(", ")
        );
    }
    // nextest names what it skips only with --status-level=skip, which this asks for; the sum is the last guard.
    if closing.skipped > expected.len() {
        println!("{closing}");
        bail!(
            "{} tests were skipped, but only {} are marked to be; run the others or mark them with #[ignore = \"..\"]",
            closing.skipped,
            expected.len()
        );
    }
    Ok(closing)
}

/// Names of the tests that are marked as ignored, read from the sources.
fn ignored(workspace: &Workspace) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in workspace.files()?.into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs")) {
        let text = std::fs::read_to_string(workspace.root().join(&path))
            .with_context(|| format!("read {}", path.display()))?;
        names.extend(ignored_tests(&SourceFile { path, text }).into_iter().map(|(_, name)| name));
    }
    Ok(names)
}

fn has_nextest(workspace: &Workspace) -> bool {
    let asked = process::cargo(workspace, &["nextest", "--version"]).output();
    asked.is_ok_and(|output| output.status.success())
}

/// What ran, and for how long.
#[derive(Debug, Default)]
struct Phases(Vec<(&'static str, f64, bool)>);

impl Phases {
    fn run<T>(&mut self, name: &'static str, phase: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n== {name}");
        let watch = Stopwatch::start();
        let outcome = phase();
        self.0.push((name, watch.elapsed().as_secs_f64(), outcome.is_ok()));
        outcome.with_context(|| name)
    }

    fn print(&self) {
        println!("\n== phases");
        for (name, seconds, ok) in &self.0 {
            println!("{seconds:8.1} s  {name}{}", if *ok { "" } else { "  FAILED" });
        }
        println!("{:8.1} s  in all", self.0.iter().map(|(_, seconds, _)| seconds).sum::<f64>());
    }
}
