//! The commands that end by themselves: identity, setup, config.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{merged, print_line};
use crate::settings::Settings;
use crate::{identity, paths, setup};

/// Options of `identity`.
#[derive(Args, Debug)]
pub(super) struct IdentityArgs {
    /// Folder of the node's key
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn identity(args: IdentityArgs) -> Result<()> {
    let folder = args.state_dir.map_or_else(paths::state_dir, Ok)?;
    let node = identity::key_in(&folder)?.node_id();
    if args.json {
        print_line(&json!({ "node": node, "state_dir": folder }).to_string());
    } else {
        print_line(&node.to_hex());
    }
    Ok(())
}

/// Options of `drain`.
#[derive(Args, Debug)]
pub(super) struct DrainArgs {
    /// Folder of the node's key
    #[arg(long, env = "LAYERLANE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Tells the node of a state folder to leave, and waits until it has.
pub(super) fn drain(args: DrainArgs) -> Result<()> {
    let folder = args.state_dir.map_or_else(paths::state_dir, Ok)?;
    let node = identity::running(&folder)?;
    let process =
        i32::try_from(node.process).ok().and_then(Pid::from_raw).context("read the process number")?;
    kill_process(process, Signal::TERM).with_context(|| format!("tell process {} to drain", node.process))?;
    print_line(&format!("process {} drains", node.process));
    node.ended().context("wait for its end")?;
    print_line("it has left");
    Ok(())
}

/// Options of `setup`.
#[derive(Args, Debug)]
pub(super) struct SetupArgs {
    /// Where to put libtorch and the model; the per-user cache by default
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Fetch the CUDA libraries as well (about 2.5 GB)
    #[arg(long)]
    cuda: bool,
}

pub(super) fn setup(args: SetupArgs) -> Result<()> {
    let folder = args.dir.map_or_else(paths::cache_dir, Ok)?;
    setup::run(&setup::SetupOptions::from_environment(folder, args.cuda)).context("set up")?;
    Ok(())
}

/// Options of `config`.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
    /// Configuration file instead of layerlane/node.toml
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Print what is in force: flags over environment over file
    Show {
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Say whether the configuration is valid
    Check,
}

pub(super) fn config(args: ConfigArgs) -> Result<()> {
    match args.command {
        ConfigCommand::Show { settings } => {
            let text = toml::to_string(&merged(*settings, args.config)?).context("write TOML")?;
            print_line(text.trim_end());
        }
        ConfigCommand::Check => {
            merged(Settings::default(), args.config)?.check()?;
            print_line("the configuration is valid");
        }
    }
    Ok(())
}
