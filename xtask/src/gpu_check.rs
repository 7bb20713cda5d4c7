//! `cargo xtask gpu-check`: a folder to carry to a machine with a GPU, `PyTorch` 2.11 and no compiler.
//!
//! It holds the program, small models with their logits by transformers, and a script. What it checks is the
//! program's business (`shard-node/engine/src/bin/gpu_check`); here it is built, stripped, and held against what
//! such a machine has: an older C library, and no patience for large files.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process;
use crate::setup::{self, SetupArgs};
use crate::workspace::Workspace;

/// Options of `cargo xtask gpu-check`.
#[derive(Args, Debug)]
pub(crate) struct GpuCheckArgs {
    /// Also run the bundle here, on the CPU: shows that the program works, and nothing about a GPU
    #[arg(long)]
    on_cpu: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &GpuCheckArgs) -> Result<()> {
    setup::run(workspace, &SetupArgs::default())?;
    // All features of the workspace, so that nothing is built twice.
    process::run(&mut process::cargo(workspace, &["build", "--release", "--workspace", "--bin", PROGRAM]))?;
    let bundle = workspace.target().join("gpu-check");
    if bundle.exists() {
        std::fs::remove_dir_all(&bundle).with_context(|| format!("remove {}", bundle.display()))?;
    }
    let models = bundle.join("models");
    for model in MODELS {
        std::fs::create_dir_all(models.join(model)).with_context(|| format!("make {}", models.display()))?;
    }
    let program = bundle.join(PROGRAM);
    copy(&workspace.release().join(PROGRAM), &program)?;
    process::run(Command::new("strip").arg("--strip-debug").arg(&program))?;
    let engine = workspace.root().join("shard-node/engine");
    copy(&engine.join("gpu-check/run.sh"), &bundle.join("run.sh"))?;
    copy(&engine.join("golden/tokens.json"), &models.join("tokens.json"))?;
    for (model, file) in MODELS.iter().flat_map(|model| FILES.map(|file| (model, file))) {
        copy(&engine.join("golden").join(model).join(file), &models.join(model).join(file))?;
    }
    check_versions(&program)?;
    let bytes = size(&bundle)?;
    println!("{} bytes in {}", bytes, bundle.display());
    ensure!(bytes <= MOST_BYTES, "the bundle has {bytes} bytes, more than {MOST_BYTES}");
    if args.on_cpu {
        // As run.sh: threads that spin would keep what else runs here from its cores.
        let waiting = [("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "6000")];
        process::run(Command::new(&program).args(["--device", "cpu"]).envs(waiting))?;
    }
    println!(
        "gpu-check: carry the folder to the machine and start run.sh there (needs torch 2.11 and a driver, no compiler)"
    );
    Ok(())
}

/// Fails if the program wants a newer C or C++ library than the machines have that it is for.
fn check_versions(program: &Path) -> Result<()> {
    let output = Command::new("objdump")
        .arg("-T")
        .arg(program)
        .output()
        .context("start objdump, which comes with the C++ compiler")?;
    ensure!(output.status.success(), "objdump failed: {}", String::from_utf8_lossy(&output.stderr));
    let symbols = String::from_utf8_lossy(&output.stdout);
    let mut newer = Vec::new();
    for (library, most) in MOST_VERSIONS {
        let newest =
            newest(&symbols, library).with_context(|| format!("the program needs no {library} at all"))?;
        println!("needs {library} {}, at most {} is allowed", show(&newest), show(most));
        if newest.as_slice() > most {
            newer.push(format!("{library}_{}", show(&newest)));
        }
    }
    if newer.is_empty() {
        return Ok(());
    }
    bail!(
        "the program needs {}: older machines could not start it; build on an older system",
        newer.join(" and ")
    )
}

/// The newest version `library_1.2.3` named in objdump's table.
fn newest(symbols: &str, library: &str) -> Option<Vec<u32>> {
    let versions = symbols.split(|c: char| c.is_whitespace() || c == '(' || c == ')').filter_map(|word| {
        let numbers = word.strip_prefix(library)?.strip_prefix('_')?;
        numbers.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    });
    versions.max()
}

fn show(version: &[u32]) -> String {
    version.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.context("walk the bundle")?;
        if entry.file_type().is_file() {
            bytes += entry.metadata().context("read a file's size")?.len();
        }
    }
    Ok(bytes)
}

const PROGRAM: &str = "gpu-check";

/// The small models: one of each family and variant that has a golden.
const MODELS: [&str; 9] = [
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gemma3",
    "qwen3-moe",
    "mixtral",
];

/// What of each goes along.
const FILES: [&str; 3] = ["model.gguf", "logits", "bf16.json"];

/// What an attachment or a slow line still takes.
const MOST_BYTES: u64 = 64 << 20;

/// glibc of 2021, and libstdc++ of GCC 9: what the images hold that `PyTorch` 2.11 is used in.
const MOST_VERSIONS: [(&str, &[u32]); 2] = [("GLIBC", &[2, 34]), ("GLIBCXX", &[3, 4, 26])];

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.34) __libc_start_main
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.2.5) free
0000000000000000      DF *UND*\t0000000000000000  GLIBCXX_3.4.9 _ZNSo9_M_insertIdEERSoT_
0000000000000000      DF *UND*\t0000000000000000  GLIBCXX_3.4.26 _ZNSt
0000000000000000  w   DF *UND*\t0000000000000000  Base        __gmon_start__
";

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(newest(SYMBOLS, "GLIBC").unwrap(), [2, 34]);
        assert_eq!(newest(SYMBOLS, "GLIBCXX").unwrap(), [3, 4, 26]);
        assert_eq!(newest(SYMBOLS, "CXXABI"), None);
        assert!(newest("(GLIBC_2.4) x (GLIBC_2.36) y", "GLIBC").unwrap().as_slice() > MOST_VERSIONS[0].1);
    }

    #[test]
    fn everything_the_bundle_copies_is_in_the_tree() {
        let workspace = Workspace::locate().unwrap();
        let engine = workspace.root().join("shard-node/engine");
        let models = MODELS.iter().flat_map(|model| FILES.map(|file| format!("golden/{model}/{file}")));
        for file in models.chain(["gpu-check/run.sh", "golden/tokens.json"].map(str::to_owned)) {
            assert!(engine.join(&file).is_file(), "{file}");
        }
    }
}
