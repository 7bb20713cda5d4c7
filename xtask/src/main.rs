//! Chores of the workspace: setup, demo, test, soak, tidy, layers, verify-libraries, gpu-check.
//!
//! Owns what a person or CI types after `cargo xtask`. It depends on nothing of ours, so that it builds
//! first and quickly on a clean clone: whatever needs our code runs one of our programs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

mod demo;
mod elf;
mod gpu_check;
mod layers;
mod leash;
mod libraries;
mod process;
mod setup;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of the workspace", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Fetch libtorch and the demo model into `third_party/` (about 640 MB once; does nothing when done)
    Setup(setup::SetupArgs),
    /// Run a real model over several real processes on this machine and stream its answer
    Demo(demo::DemoArgs),
    /// Everything CI checks: format, lints, tidy, layers, libraries, all tests
    Test(test::TestArgs),
    /// Long runs: the tests named `soak_*`, the 10,000-node simulation among them
    Soak,
    /// Check the house rules that can be checked
    Tidy,
    /// Check the dependency table against `cargo metadata`
    Layers,
    /// Check on the built files that only the engine needs libtorch
    VerifyLibraries,
    /// Make a folder that checks the engine on a machine with a GPU, torch 2.11 and no compiler
    GpuCheck(gpu_check::GpuCheckArgs),
    /// Start a program that dies with its parent
    #[command(hide = true)]
    Leash(leash::LeashArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<()> {
    if let Chore::Leash(args) = chore {
        return Err(leash::exec(&args));
    }
    let workspace = Workspace::locate()?;
    match chore {
        Chore::Setup(args) => setup::run(&workspace, &args),
        Chore::Demo(args) => demo::run(&workspace, &args),
        Chore::Test(args) => test::run(&workspace, &args),
        Chore::Soak => soak::run(&workspace),
        Chore::Tidy => tidy::run(&workspace),
        Chore::Layers => layers::run(&workspace),
        Chore::VerifyLibraries => libraries::run(&workspace),
        Chore::GpuCheck(args) => gpu_check::run(&workspace, &args),
        Chore::Leash(_) => unreachable!("handled above"),
    }
}
