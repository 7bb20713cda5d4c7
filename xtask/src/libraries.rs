//! `cargo xtask verify-libraries`: shows on the built files that only the engine needs libtorch.
//!
//! The sources cannot show it: one careless dependency and the dynamic loader would stop `shard-node` or
//! `router` before `main`, where no message of ours is possible.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::elf;
use crate::workspace::Workspace;

/// The programs and whether each needs libtorch.
const PROGRAMS: &[(&str, Torch)] =
    &[("shard-node", Torch::Never), ("router", Torch::Never), ("shard-node-engine", Torch::Needed)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Torch {
    Needed,
    Never,
}

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut wrong = Vec::new();
    for &(program, rule) in PROGRAMS {
        let path = workspace.release().join(program);
        let needed = read(&path)?;
        println!("{program:18} needs {}", needed.join(" "));
        wrong.extend(judge(program, rule, &needed));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("verify-libraries: only shard-node-engine needs libtorch");
    Ok(())
}

fn read(path: &Path) -> Result<Vec<String>> {
    let file = std::fs::read(path).with_context(|| {
        format!("read {}; build it with `cargo build --release --workspace`", path.display())
    })?;
    elf::needed_libraries(&file).with_context(|| format!("read the libraries of {}", path.display()))
}

/// What is wrong with a program's libraries, if anything.
fn judge(program: &str, rule: Torch, needed: &[String]) -> Option<String> {
    let torch: Vec<&str> = needed.iter().map(String::as_str).filter(|name| is_torch(name)).collect();
    match rule {
        Torch::Never if !torch.is_empty() => Some(format!(
            "{program} needs {}: a crate it depends on names tch or torch-sys (see `cargo xtask layers`)",
            torch.join(" ")
        )),
        Torch::Needed if torch.is_empty() => {
            Some(format!("{program} needs no libtorch: it was linked without its kernels"))
        }
        _ => None,
    }
}

fn is_torch(library: &str) -> bool {
    library.starts_with("libtorch") || library.starts_with("libc10")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_with_libtorch_is_wrong_and_an_engine_without_it_too() {
        let with = ["libtorch_cpu.so".to_owned(), "libc.so.6".to_owned()];
        let without = ["libc.so.6".to_owned(), "libgcc_s.so.1".to_owned()];
        assert!(judge("router", Torch::Never, &with).unwrap().contains("libtorch_cpu.so"));
        assert!(judge("shard-node-engine", Torch::Needed, &without).is_some());
        assert_eq!(judge("router", Torch::Never, &without), None);
        assert_eq!(judge("shard-node-engine", Torch::Needed, &with), None);
    }

    #[test]
    fn libc10_counts_as_libtorch() {
        assert!(is_torch("libc10.so") && !is_torch("libc.so.6"));
    }
}
