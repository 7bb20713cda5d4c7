//! Who is measured: a stage in each numerics class, `transformers`, and the memory itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Measurement;
use super::memory::Memory;
use crate::asked::Asked;
use crate::leash;
use crate::statistics::median;
use crate::tell;

/// A process that measures itself when asked.
#[derive(Debug)]
pub(super) struct Contestant {
    name: String,
    process: Asked,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Stage { loaded: Value, load_seconds: Vec<f64> },
    Transformers,
}

impl Contestant {
    /// A stage of all layers in a numerics class. Loads several times, the last one stays.
    pub(super) fn class(class: &str, model: &Path, threads: usize) -> Result<Self> {
        let mut load_seconds = Vec::new();
        loop {
            let mut process = stage(Some((model, class)), threads)?;
            let loaded = process.told()?;
            load_seconds.push(number(&loaded, "seconds")?);
            if load_seconds.len() == LOADS {
                tell(&format!("{class}: loaded in {:.2} s at the median", median(&load_seconds)));
                return Ok(Self { name: class.into(), process, kind: Kind::Stage { loaded, load_seconds } });
            }
        }
    }

    /// `transformers` in bf16.
    pub(super) fn transformers(python: &Path, model: &Path, threads: usize) -> Result<Self> {
        let script = workspace().join("benches/reference/transformers_speed.py");
        let mut command = leash::command(python);
        command.arg(script).arg(model).args(["--threads", &threads.to_string()]);
        let mut process = Asked::start("transformers", &mut command)?;
        let versions = process.told()?;
        tell(&format!("transformers: {versions}"));
        Ok(Self { name: TRANSFORMERS.into(), process, kind: Kind::Transformers })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of weights that a decode step reads.
    pub(super) fn decode_bytes(&self) -> Option<f64> {
        match &self.kind {
            Kind::Stage { loaded, .. } => loaded["decode_bytes"].as_f64(),
            Kind::Transformers => None,
        }
    }

    /// Seconds; `None` where it would take too long to be of use.
    pub(super) fn measure(&mut self, measurement: Measurement) -> Result<Option<f64>> {
        let skipped = match (measurement, &self.kind) {
            // Filling the KV of more sessions takes minutes: attention goes row by row on one thread.
            (Measurement::Decode(9..), Kind::Stage { .. }) => self.name == "exact",
            (Measurement::Decode(sessions), Kind::Transformers) => !matches!(sessions, 1 | 8),
            _ => false,
        };
        if skipped {
            return Ok(None);
        }
        let line = match measurement {
            Measurement::Decode(sessions) => format!("decode {sessions}"),
            Measurement::Prefill { rows, chunk } => format!("prefill {rows} {chunk}"),
        };
        self.process.number(&line, "seconds").map(Some)
    }

    /// What it held at most; `None` for those that are not ours.
    pub(super) fn memory(&mut self, library: &[(String, u64)]) -> Result<Option<Memory>> {
        let Kind::Stage { loaded, load_seconds } = &self.kind else { return Ok(None) };
        let (stored, seconds) = (number(loaded, "stored_bytes")?, median(load_seconds));
        let (weights, peak_loaded) = (number(loaded, "held_bytes")?, number(loaded, "peak_bytes")?);
        let library = library.iter().find(|(class, _)| *class == self.name).map_or(0, |(_, bytes)| *bytes);
        let now = self.process.ask("memory")?;
        Ok(Some(Memory {
            class: self.name.clone(),
            stored,
            load_seconds: seconds,
            weights,
            kv: number(&now, "kv_bytes")?,
            library: library as f64,
            peak_loaded,
            peak: number(&now, "peak_bytes")?,
        }))
    }
}

/// How fast the memory is read, by a process of its own.
#[derive(Debug)]
pub(super) struct Limit(Asked);

impl Limit {
    pub(super) fn start(threads: usize) -> Result<Self> {
        stage(None, threads).map(Self)
    }

    /// The best of a few passes.
    pub(super) fn bytes_per_second(&mut self) -> Result<f64> {
        self.0.number("limit", "bytes_per_second")
    }
}

/// Starts the engine's measuring program as a node would start the engine.
pub(super) fn stage(model: Option<(&Path, &str)>, threads: usize) -> Result<Asked> {
    let mut command = leash::command(program()?);
    let mut name = "read limit".to_owned();
    if let Some((model, class)) = model {
        command.arg(model).args(["--numerics", class]);
        class.clone_into(&mut name);
    }
    command.args(["--threads", &threads.to_string()]);
    for (variable, value) in shard_node::launch::OPENMP {
        if std::env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    Asked::start(name, &mut command)
}

/// Builds the engine's measuring program: an example, which may link libtorch where `benches` may not. As a part of
/// the workspace, since a package by itself is built with other features, and torch-sys would be compiled anew.
pub(super) fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--release", "--quiet", "--workspace", "--example", "stage_speed"];
    let status = Command::new(cargo).args(arguments).current_dir(workspace()).status();
    ensure!(status.context("start cargo")?.success(), "building the engine's measuring program failed");
    Ok(())
}

fn program() -> Result<PathBuf> {
    let beside = std::env::current_exe().context("find our own program")?;
    Ok(beside.with_file_name("examples").join("stage_speed"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(super) fn number(answer: &Value, key: &str) -> Result<f64> {
    answer[key].as_f64().with_context(|| format!("no {key} in {answer}"))
}

/// The reference's name in the tables.
pub(super) const TRANSFORMERS: &str = "transformers";

/// Loads of each class.
const LOADS: usize = 3;
