//! `gpu-check`: is what this engine computes on a GPU right, how fast is it, and does it keep to its memory?
//!
//! `cargo xtask gpu-check` bundles it with small models and a script for a machine that has `PyTorch` and no
//! compiler. Each check prints a line of JSON; a table and a verdict close the run. `--device cpu` runs the same
//! program on the CPU, which shows that the program works and nothing about a GPU, and it says so.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measuring program: prints and reads clocks"
)]

mod memory;
mod model;
mod parity;
mod pipeline;
mod report;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use shard_node_engine::DeviceChoice;

use report::{Report, Status};

/// Checks this engine on a GPU.
#[derive(Parser, Debug)]
#[command(name = "gpu-check")]
struct Arguments {
    /// cuda:N, or cpu to try the program itself
    #[arg(long, default_value = "cuda:0")]
    device: DeviceChoice,
    /// Folder with the small models and their logits by transformers; by default `models` beside this program
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Sizes of what is made at run time; full needs 5 GB in --scratch. By default full on a GPU, small on the CPU
    #[arg(long, value_enum)]
    sizes: Option<Sizes>,
    /// Where synthetic weights are written for the run
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Full,
    Small,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(Status::Failed) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu-check: FAIL: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Status> {
    let device = arguments.device;
    ensure!(device != DeviceChoice::Auto, "name a device: auto could fall back to the CPU");
    // Opens the GPU or says what is missing, before anything is written.
    let memory = shard_node_engine::device_memory(device).context("open the device")?;
    ensure!(memory.is_some() == (device != DeviceChoice::Cpu), "{device} was opened as another device");
    let sizes = arguments.sizes.unwrap_or_else(|| if memory.is_some() { Sizes::Full } else { Sizes::Small });
    let golden = if let Some(folder) = &arguments.models {
        folder.clone()
    } else {
        let program = std::env::current_exe().context("find this program")?;
        program.parent().context("find this program's folder")?.join("models")
    };
    let scratch = Scratch::make(arguments.scratch.as_deref())?;

    let mut report = Report::new(device);
    if let Some(memory) = memory {
        report.figure("device", &[("free_bytes", memory.free as f64), ("total_bytes", memory.total as f64)]);
    }
    parity::check(&mut report, &golden)?;
    speed::check(&mut report, sizes, &scratch.0)?;
    memory::check(&mut report, sizes, &scratch.0)?;
    Ok(report.close())
}

/// A folder for this run's synthetic weights, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: Option<&std::path::Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, std::path::Path::to_owned);
        let folder = parent.join(format!("gpu-check-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("gpu-check: could not remove {}: {error}", self.0.display());
        }
    }
}
