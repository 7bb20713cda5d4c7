//! Programs that must not outlive us: started in a group of their own, stopped on drop, killed by the kernel.
//!
//! `PR_SET_PDEATHSIG` has to be set by the child between fork and exec, which in Rust is `unsafe`. So the
//! child is first ourselves (`xtask leash`): that sets the death signal safely and then `exec`s the program;
//! the setting outlives `exec`, also the one from `shard-node` to its engine. Whatever ends us, Ctrl-C and
//! `kill -9` included, ends them. Note that it is the *thread* that starts them whose death counts: start
//! them on the main thread.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};

use crate::process::Stopwatch;

/// Options of the hidden `leash`.
#[derive(Args, Debug)]
pub(crate) struct LeashArgs {
    /// The process to die with
    #[arg(long)]
    parent: i32,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program; returns only if that fails.
pub(crate) fn exec(args: &LeashArgs) -> anyhow::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::Error::from(error).context("set the parent death signal");
    }
    // The parent may have died before the signal was set.
    if getppid().map(Pid::as_raw_nonzero).map(std::num::NonZero::get) != Some(args.parent) {
        return anyhow::anyhow!("the parent {} has ended", args.parent);
    }
    let (program, arguments) = (&args.command[0], &args.command[1..]);
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::from(error).context(format!("start {}", program.display()))
}

/// A running program on the leash. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Leashed {
    child: Child,
    /// Lines of its stdout, if we read it; disconnected when it has closed it, which is when it has ended.
    lines: Receiver<String>,
}

/// Why no line came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoLine {
    /// The program closed its stdout.
    Ended,
    /// The time is over.
    TimedOut,
}

impl Leashed {
    /// Starts `program`; with a piped `stdout` its lines are ours to read.
    pub(crate) fn start(
        program: &Path,
        arguments: &[OsString],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Self> {
        Self::start_with(program, arguments, &[], stdout, stderr)
    }

    /// As [`Leashed::start`], with more in the program's environment.
    pub(crate) fn start_with(
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, &str)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Self> {
        // Ourselves, also when a build has put a newer program in our place meanwhile.
        let mut leash = Command::new("/proc/self/exe");
        // Settings come by the command line; how much to log stays the user's choice.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("LAYERLANE_") && !name.starts_with("LAYERLANE_LOG") {
                leash.env_remove(&*name);
            }
        }
        let mut child = leash
            .arg("leash")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        // A reader that is not kept up with makes the program wait, as a terminal would.
        let (sender, lines) = sync_channel(64);
        if let Some(stdout) = child.stdout.take() {
            std::thread::Builder::new().name("stdout".into()).spawn(move || {
                for line in BufReader::new(stdout).split(b'\n') {
                    let Ok(line) = line else { break };
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        break;
                    }
                }
            })?;
        }
        Ok(Self { child, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its stdout within a time.
    pub(crate) fn line(&self, timeout: Duration) -> Result<String, NoLine> {
        self.lines.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Disconnected => NoLine::Ended,
            RecvTimeoutError::Timeout => NoLine::TimedOut,
        })
    }

    /// The next line of its stdout, or `None` once it has ended.
    pub(crate) fn next_line(&self) -> Option<String> {
        self.lines.recv().ok()
    }

    /// Waits for the program's own end, after its stdout has ended.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("wait for a program")
    }

    /// Asks it to end, so that several can end side by side.
    pub(crate) fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.ask_to_stop();
        let asked = Stopwatch::start();
        while let Some(left) = STOP_TIMEOUT.checked_sub(asked.elapsed()) {
            if self.line(left) == Err(NoLine::Ended) {
                break;
            }
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A node drains for as long as it has sessions; here none is left, so this only covers a slow machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
