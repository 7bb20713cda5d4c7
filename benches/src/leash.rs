//! Programs that must not outlive us: the kernel ends them, whatever ends us, `kill -9` included.
//!
//! `PR_SET_PDEATHSIG` has to be set by the child between fork and exec, which in Rust is `unsafe`. So the child is first
//! ourselves (`benches leash`): that sets the death signal safely and then becomes the program; the setting
//! outlives that, as in `cargo xtask`. It is the *thread* that starts them whose death counts: start them on the main
//! thread.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;
use clap::Args;
use cluster_tests::processes::Programs;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Options of the hidden `leash`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The process to die with
    #[arg(long)]
    parent: i32,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// The programs beside us, on the leash.
pub(crate) fn programs() -> Result<Programs> {
    Ok(Programs::built()?.behind(&words()))
}

/// A command whose program is on the leash.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let [ourselves, words @ ..] = words();
    let mut command = Command::new(ourselves);
    command.args(words).arg(program);
    command
}

/// Becomes the program; returns only if that fails.
pub(crate) fn exec(options: &Options) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the signal was set.
    let parent = getppid().map(Pid::as_raw_nonzero).map(std::num::NonZero::get);
    anyhow::ensure!(parent == Some(options.parent), "the parent {} has ended", options.parent);
    let error = Command::new(&options.command[0]).args(&options.command[1..]).exec();
    Err(anyhow::Error::from(error).context(format!("start {}", options.command[0].display())))
}

/// What stands before a program and its arguments.
fn words() -> [OsString; 5] {
    // Ourselves, also when a build has put a newer program in our place meanwhile.
    ["/proc/self/exe", "leash", "--parent", &std::process::id().to_string(), "--"].map(OsString::from)
}
