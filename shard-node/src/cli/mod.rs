//! The command line, shared by `shard-node` and `shard-node-engine`.
//!
//! Results go to stdout (one JSON line where a program reads it), everything else to stderr.

mod audit;
mod calibrate;
mod commands;
mod inspect;
mod keys;
mod model;
mod serve;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::engine::Engine;
use crate::settings::{Checked, Settings};
use crate::{launch, paths};

/// A node of a Layerlane swarm: serves one shard of a model.
#[derive(Parser, Debug)]
#[command(name = "shard-node", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve the layers of a model
    Serve(NodeArgs),
    /// Let the node of this machine leave: its answers go elsewhere or end, then it ends
    Drain(commands::DrainArgs),
    /// Run a DHT peer without a shard, for others to begin with
    Bootstrap(NodeArgs),
    /// Print this node's id, creating its key on first use
    Identity(commands::IdentityArgs),
    /// Compute again what nodes signed for in an answer, and judge it
    Audit(Box<audit::AuditArgs>),
    /// Measure how far honest nodes are from one another, for audits to judge by
    Calibrate(Box<calibrate::CalibrateArgs>),
    /// Show, renew, save or restore the keys that this node signs its work with
    Keys(keys::KeysArgs),
    /// Say what a model is, how large its parts are in each class, what fits where, and what is not supported
    Inspect(inspect::InspectArgs),
    /// Fetch libtorch and the built-in model
    Setup(commands::SetupArgs),
    /// Show or check the configuration
    Config(commands::ConfigArgs),
}

#[derive(Args, Debug)]
struct NodeArgs {
    #[command(flatten)]
    settings: Settings,
    /// Configuration file instead of layerlane/node.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl NodeArgs {
    fn merged(self) -> Result<Settings> {
        merged(self.settings, self.config)
    }
}

/// Flags and environment over the configuration file.
fn merged(settings: Settings, config: Option<PathBuf>) -> Result<Settings> {
    let asked_for = config.is_some();
    let path = match config {
        Some(path) => path,
        None => paths::config_file()?,
    };
    Ok(settings.or(Settings::read(&path, asked_for)?))
}

/// `main` of `shard-node`, which links no tensor library: everything but computing.
pub fn node_main() -> ExitCode {
    let cli = Cli::parse();
    report(match cli.command {
        Command::Serve(args) => check_then_exec(args),
        command => without_engine(command),
    })
}

/// `main` of the engine's binary: parses the command line (`shard-node-engine serve ...`), serves with `engine`,
/// prints errors to stderr. Installs logging and builds the runtime; the caller does neither.
pub fn engine_main(engine: &dyn Engine) -> ExitCode {
    let cli = Cli::parse();
    report(match cli.command {
        Command::Serve(args) => args.merged().and_then(|settings| {
            let checked = settings.check()?;
            start_logging(&checked)?;
            serve::serve(engine, &checked)
        }),
        Command::Audit(args) => args.checked().and_then(|checked| {
            start_logging(&checked)?;
            audit::audit(engine, &args, &checked)
        }),
        Command::Calibrate(args) => args.checked().and_then(|checked| {
            start_logging(&checked)?;
            calibrate::run(engine, &args, &checked)
        }),
        command => without_engine(command),
    })
}

fn without_engine(command: Command) -> Result<()> {
    match command {
        Command::Serve(args) => check_then_exec(args),
        Command::Bootstrap(args) => {
            let checked = args.merged()?.check()?;
            start_logging(&checked)?;
            serve::bootstrap(&checked)
        }
        Command::Drain(args) => commands::drain(args),
        Command::Identity(args) => commands::identity(args),
        Command::Audit(args) => args.checked().and_then(|_| exec()),
        Command::Calibrate(args) => args.checked().and_then(|_| exec()),
        Command::Keys(args) => keys::run(args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Setup(args) => commands::setup(args),
        Command::Config(args) => commands::config(args),
    }
}

/// Whatever is wrong with the settings is said before libtorch is looked for.
fn check_then_exec(args: NodeArgs) -> Result<()> {
    let checked = args.merged()?.check()?;
    checked.model.as_ref().context(serve::NO_MODEL)?;
    exec()
}

/// The engine goes on with the same command line.
fn exec() -> Result<()> {
    Err(launch::exec_engine(std::env::args_os().skip(1)).into())
}

fn start_logging(checked: &Checked) -> Result<()> {
    proto_telemetry::init_binary_logging(checked.log_format, &checked.log).context("start logging")
}

#[expect(clippy::print_stderr, reason = "the last word of a command-line program")]
fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            for cause in error.chain().skip(1).map(ToString::to_string) {
                // Many errors of the libraries say their cause themselves.
                if !text.contains(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result line to stdout. A reader that has gone away is not an error of ours.
pub(crate) fn print_line(line: &str) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
