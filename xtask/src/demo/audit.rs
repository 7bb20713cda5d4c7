//! The demo's answers, audited: `shard-node calibrate` and `shard-node audit` as a user would run them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::DemoArgs;
use super::swarm::{Swarm, empty_config};

/// Who audits what.
#[derive(Debug)]
pub(super) struct Audit<'a> {
    pub(super) programs: &'a Path,
    pub(super) args: &'a DemoArgs,
    pub(super) model: &'a OsString,
    /// Where files go.
    pub(super) directory: &'a Path,
}

impl Audit<'_> {
    /// Measures honest nodes, if the class needs it, and audits these answers; gives the audit's lines.
    pub(super) fn of(&self, swarm: &Swarm, bundles: &[PathBuf], batches: &str) -> Result<String> {
        let calibration = self.directory.join("calibration");
        let calibrated = self.args.numerics != "exact";
        if calibrated {
            let mut calibrate = self.command("calibrate");
            calibrate.args(["--numerics", &self.args.numerics, "--batches", batches]);
            calibrate.args(["--parts", &self.args.nodes.to_string(), "--out"]).arg(&calibration);
            run(&mut calibrate, "calibrate")?;
        }
        let mut audit = self.command("audit");
        audit.args(["--bootstrap", swarm.bootstrap()]);
        audit.arg("--state-dir").arg(self.directory.join("auditor"));
        for bundle in bundles {
            audit.arg("--bundle").arg(bundle);
        }
        if calibrated {
            audit.arg("--calibration").arg(&calibration);
        }
        run(&mut audit, "audit")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join("shard-node"));
        command.arg(name).arg("--model").arg(self.model);
        command.arg("--config").arg(empty_config(self.directory));
        // Who wants to see more says so.
        if std::env::var_os("LAYERLANE_LOG").is_none() {
            command.env("LAYERLANE_LOG", "warn");
        }
        command
    }
}

/// One line of what an audit found.
pub(super) fn summary(text: &str) -> String {
    let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    let audited = text.lines().find(|line| line.starts_with("audited ")).unwrap_or("audited nothing");
    let found = [
        ("pass: ", "pass"),
        ("borderline: ", "borderline"),
        ("uncalibrated: ", "uncalibrated"),
        ("unjudged: ", "unjudged"),
        ("caught: ", "speak against a node"),
    ];
    let found = found.map(|(start, word)| (count(start), word));
    let found: Vec<String> =
        found.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    format!("{audited}: {}", found.join(", "))
}

/// Runs a program of ours; gives its output. An audit that finds something does not end well.
fn run(command: &mut Command, what: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = what == "audit" && text.contains("caught: ");
    ensure!(output.status.success() || found, "`shard-node {what}` failed ({})", output.status);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_was_found() {
        let text =
            "pass: a layers 0..1\npass: b layers 1..2\nborderline: c\naudited 3 receipts of 1 answers\n";
        assert_eq!(summary(text), "audited 3 receipts of 1 answers: 2 pass, 1 borderline");
        assert!(summary("").starts_with("audited nothing"));
    }
}
