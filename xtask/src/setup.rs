//! `cargo xtask setup`: builds `shard-node`, which links no libtorch, and lets it fetch the rest.
//!
//! What is fetched, from where and with which hashes is the business of `shard-node setup`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::process;
use crate::workspace::Workspace;

/// Options of `cargo xtask setup`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SetupArgs {
    /// Also fetch what a GPU needs (about 2.5 GB)
    #[arg(long)]
    cuda: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &SetupArgs) -> Result<()> {
    process::run(&mut process::cargo(workspace, &["build", "--release", "--package", "shard-node"]))?;
    let mut setup = Command::new(workspace.release().join("shard-node"));
    setup.arg("setup").arg("--dir").arg(workspace.third_party()).current_dir(workspace.root());
    if args.cuda {
        setup.arg("--cuda");
    }
    process::run(&mut setup)
}
