//! A router that serves, as a process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::processes::{Programs, Running, metric};

/// A serving router and where its clients connect.
#[derive(Debug)]
pub struct Serving {
    /// The process.
    pub process: Running,
    /// For clients.
    pub listen: SocketAddr,
    /// For metrics and probes.
    pub admin: SocketAddr,
    /// Models it knew when it was ready.
    pub models: usize,
}

impl Serving {
    /// Starts one that joins by `bootstrap`, and waits until it is ready.
    pub fn start(programs: &Programs, home: &Path, bootstrap: &str, extra: &[&str]) -> Result<Self> {
        let mut command = programs.command("router", home);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--bootstrap", bootstrap]).args(extra);
        let mut process = Running::start(command, &home.join("router.log"))?;
        let line = process.line(PATIENCE);
        let line = line.with_context(|| format!("wait for the router: {}", process.log_text()))?;
        let ready: Value = serde_json::from_str(&line)?;
        let addr = |name: &str| -> Result<SocketAddr> {
            Ok(ready[name].as_str().with_context(|| format!("no {name} in {ready}"))?.parse()?)
        };
        let models = ready["models"].as_array().map_or(0, Vec::len);
        Ok(Self { listen: addr("listen")?, admin: addr("admin")?, models, process })
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        metric(&self.admin.to_string(), name)
    }
}

const PATIENCE: Duration = Duration::from_mins(1);
