//! The command line of `router`: options, settings and the commands.
//!
//! Exit codes: 0 done, 1 failed, 2 not understood (options, configuration).

mod chat;
mod config;
mod explain;
mod generate;
mod identity;
mod keys;
mod list;
mod options;
mod output;
mod serve;
mod serve_settings;
mod settings;
mod swarm;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use proto_telemetry::{Registry, init_binary_logging};
use router::clock::unix_seconds;

use options::{Cli, Command};
use settings::{Settings, UsageError};

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to stdout and end with 0.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::from(if error.is::<UsageError>() { USAGE } else { FAILED })
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Command::Config { serve, command } = &cli.command {
        return config::run(&cli.common, serve, *command);
    }
    if let Command::Verify(arguments) = &cli.command {
        return verify::run(arguments, cli.common.json);
    }
    let mut settings = Settings::load(&cli.common)?;
    if let Command::Keys { command } = &cli.command {
        return keys::run(&settings, command, unix_seconds());
    }
    let served = match &cli.command {
        Command::Serve(arguments) => {
            settings.log_for_a_service(&cli.common);
            Some(serve_settings::config(&settings, arguments)?)
        }
        _ => None,
    };
    init_binary_logging(settings.log_format, &settings.log_filter)?;
    match &cli.command {
        Command::Generate(arguments) => generate::check(&settings, &arguments.sampling)?,
        Command::Chat(arguments) => generate::check(&settings, &arguments.sampling)?,
        _ => {}
    }
    // One thread: small frames pass through it in half the time that handing them between threads takes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let command = async {
        let registry = Registry::new();
        let swarm = swarm::join(&settings, &registry).await?;
        let done = match &cli.command {
            Command::Serve(_) => match served {
                Some(config) => serve::run(&swarm, config, registry).await,
                None => Ok(ExitCode::SUCCESS),
            },
            Command::Generate(arguments) => generate::run(&swarm.router, &settings, arguments).await,
            Command::Chat(arguments) => chat::run(&swarm.router, &settings, arguments).await,
            Command::Nodes => list::nodes(&swarm.router, &settings).await,
            Command::Models => list::models(&swarm.router, &settings).await,
            Command::Explain(arguments) => explain::run(&swarm.router, &settings, arguments).await,
            Command::Config { .. } | Command::Keys { .. } | Command::Verify(_) => Ok(ExitCode::SUCCESS),
        };
        swarm.shutdown().await;
        done
    };
    let done = runtime.block_on(command);
    // A thread that waits for the terminal must not hold the end up.
    runtime.shutdown_background();
    done
}
