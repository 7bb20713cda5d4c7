//! From `shard-node` to the engine's process: find libtorch and the engine, set what the OpenMP runtime reads before
//! `main`, and `exec`.
//!
//! A `shard-node` that linked libtorch would die in the dynamic loader when it is missing, before it could say so.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths;

/// Why the engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No engine beside us or on the PATH.
    #[error(
        "the engine `{ENGINE}` was not found beside {beside} or in PATH: install it there, or build it with \
         `cargo build --release -p {ENGINE}`", beside = beside.display()
    )]
    NoEngine {
        /// Our own folder.
        beside: PathBuf,
    },
    /// libtorch is nowhere.
    #[error(
        "libtorch 2.11 was not found in {}: run `shard-node setup`, or set LIBTORCH to its folder",
        list(searched)
    )]
    NoLibtorch {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// LIBTORCH is set, but there is no libtorch.
    #[error(
        "LIBTORCH is {0}, but {0}/lib/{LIBRARY} does not exist: correct it, or unset it and run `shard-node setup`"
    )]
    WrongLibtorch(String),
    /// `exec` failed.
    #[error("could not start {path}: {source}", path = path.display())]
    Exec {
        /// The engine.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Replaces this process by the engine with the same arguments. Returns only if that fails.
pub fn exec_engine(arguments: impl IntoIterator<Item = OsString>) -> LaunchError {
    let (engine, libraries) = match engine().and_then(|engine| Ok((engine, libtorch()?))) {
        Ok(found) => found,
        Err(error) => return error,
    };
    let mut command = Command::new(&engine);
    command.args(arguments);
    for (name, value) in OPENMP {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    if let Some(joined) = library_path(&libraries, std::env::var_os("LD_LIBRARY_PATH")) {
        command.env("LD_LIBRARY_PATH", joined);
    }
    LaunchError::Exec { path: engine, source: command.exec() }
}

fn engine() -> Result<PathBuf, LaunchError> {
    let beside = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let beside = beside.unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside.clone())
        .chain(std::env::split_paths(&path))
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| folder.join(ENGINE))
        .find(|candidate| candidate.is_file())
        .ok_or(LaunchError::NoEngine { beside })
}

/// The folder with libtorch's libraries.
fn libtorch() -> Result<PathBuf, LaunchError> {
    if let Some(set) = std::env::var_os("LIBTORCH").filter(|set| !set.is_empty()) {
        let folder = Path::new(&set).join("lib");
        return if folder.join(LIBRARY).is_file() {
            Ok(folder)
        } else {
            Err(LaunchError::WrongLibtorch(set.to_string_lossy().into_owned()))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("../lib/libtorch")));
    let searched: Vec<PathBuf> = [
        beside.map(|folder| folder.join("torch/lib")),
        paths::build_tree_third_party().map(|folder| folder.join("libtorch/torch/lib")),
        paths::cache_dir().ok().map(|folder| folder.join("libtorch/torch/lib")),
    ]
    .into_iter()
    .flatten()
    .collect();
    match searched.iter().find(|folder| folder.join(LIBRARY).is_file()) {
        Some(folder) => Ok(folder.clone()),
        None => Err(LaunchError::NoLibtorch { searched }),
    }
}

/// `libraries` before what was searched already. An empty entry would be the current folder, from which nothing of
/// ours may be loaded; an absent variable splits into one.
fn library_path(libraries: &Path, old: Option<OsString>) -> Option<OsString> {
    let old = old.unwrap_or_default();
    let old = std::env::split_paths(&old).filter(|folder| !folder.as_os_str().is_empty());
    std::env::join_paths(std::iter::once(libraries.to_owned()).chain(old)).ok()
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

const ENGINE: &str = "shard-node-engine";
const LIBRARY: &str = "libtorch_cpu.so";

/// A waiting compute thread spins for some microseconds, which spans the gap between two operators, and then sleeps:
/// stages of one machine take turns, and one that spins on takes the next one's core. Not spinning cost the demo model
/// on two cores a fifth to a third of its speed, 300,000 (the runtime's default) more than half over three nodes; from
/// 3,000 to 30,000 it made no difference beyond noise. Figures in `docs/BENCHMARKS.md`.
pub const OPENMP: [(&str, &str); 2] = [("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "6000")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_folder_is_never_searched_for_libraries() {
        let path = |old: Option<&str>| library_path(Path::new("/t/lib"), old.map(OsString::from)).unwrap();
        assert_eq!(path(None), "/t/lib");
        assert_eq!(path(Some("")), "/t/lib");
        assert_eq!(path(Some("/a::/b:")), "/t/lib:/a:/b");
    }
}
