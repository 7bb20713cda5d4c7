//! Running another program to its end: loudly, and as an error that names the command if it fails.
//!
//! For programs that end by themselves; what has to be stopped is in `leash`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// `cargo`, the one that runs us, in the workspace root.
pub(crate) fn cargo(workspace: &crate::Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace.root()).stdin(Stdio::null());
    command
}

/// Runs with our own output streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Runs, passes both output streams on to stderr line by line, and returns all lines and whether it succeeded.
pub(crate) fn run_and_read(command: &mut Command) -> Result<(bool, Vec<String>)> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let (reader, writer) = std::io::pipe().context("open a pipe")?;
    let mut child = command
        .stdout(writer.try_clone().context("share a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    // The command keeps its copies of the writing end: without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("read output")?).into_owned();
        eprintln!("{line}");
        lines.push(line);
    }
    let status = child.wait().with_context(|| format!("wait for {shown}"))?;
    Ok((status.success(), lines))
}

/// Measures wall time for people.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "the one clock of this tool; it only times what it prints")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The command as a person would type it, near enough.
pub(crate) fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    if let Some(name) = std::path::Path::new(&shown).file_name().filter(|name| *name == "cargo") {
        shown = name.to_string_lossy().into_owned();
    }
    for argument in command.get_args() {
        let _ = write!(shown, " {}", argument.to_string_lossy());
    }
    shown
}
