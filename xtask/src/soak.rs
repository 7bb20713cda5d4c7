//! `cargo xtask soak`: the runs that are too long for every change.
//!
//! They are ordinary tests whose names begin with `soak_` and whose `#[ignore]` says how long they take.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    crate::setup::run(workspace, &crate::setup::SetupArgs::default())?;
    let build = ["build", "--release", "--workspace"];
    process::run(&mut process::cargo(workspace, &build))?;
    // One at a time: most of them measure memory or time.
    let test =
        ["test", "--release", "--workspace", "--", "--ignored", "soak_", "--test-threads=1", "--nocapture"];
    process::run(&mut process::cargo(workspace, &test))
}
