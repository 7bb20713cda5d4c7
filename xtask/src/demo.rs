//! `cargo xtask demo`: skeleton.

use anyhow::{Result, bail};
use clap::Args;

use crate::workspace::Workspace;

/// Options of `cargo xtask demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {}

pub(crate) fn run(_workspace: &Workspace, _args: &DemoArgs) -> Result<()> {
    bail!("the demo is not there yet")
}
