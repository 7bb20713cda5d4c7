//! `router serve`: from settings to a serving router, its ready line, and a bounded end.

use std::process::ExitCode;

use anyhow::{Context, bail};
use proto_telemetry::Registry;
use router::serve::{ServeConfig, Server};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output;
use super::swarm::Swarm;

/// Serves until SIGTERM or SIGINT, or until the server fails.
pub(super) async fn run(swarm: &Swarm, config: ServeConfig, registry: Registry) -> anyhow::Result<ExitCode> {
    raise_file_limit();
    let mut signals = Signals::new()?;
    let mut server = tokio::select! {
        bound = Server::bind(config, swarm.router.clone(), registry) => bound?,
        () = signals.next() => bail!("asked to stop while looking for models"),
    };
    output::line(&serde_json::to_string(&server.ready())?)?;
    let fault = tokio::select! {
        fault = server.join() => Some(fault),
        () = signals.next() => None,
    };
    tracing::info!("draining: open answers may finish, a second signal ends them");
    tokio::select! {
        () = server.shutdown() => {}
        () = signals.next() => tracing::warn!("ended without draining"),
    }
    match fault {
        Some(Err(error)) => Err(error).context("serve the admin endpoint"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// SIGTERM and SIGINT as one stream.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Each client takes a file descriptor, and shells hand down a soft limit of 1,024: takes what the hard one allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "raise the limit of open files");
    }
}
