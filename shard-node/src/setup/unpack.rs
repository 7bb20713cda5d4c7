//! Taking the wanted files out of a wheel. Entry names are checked even though the wheels are pinned: no
//! archive may write outside its directory.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;

use super::error::SetupError;
use super::packages::LibtorchSet;

/// Most bytes that one wheel may unpack to: the largest (the whole CUDA set's torch) has 1.5 GB.
const MAX_UNPACKED_BYTES: u64 = 4 << 30;

/// Unpacks the entries of `wheel` that `place` gives a path to, below `into`. Gives the bytes written.
pub(super) fn unpack(
    wheel: &Path,
    into: &Path,
    place: impl Fn(&str) -> Option<PathBuf>,
    mut progress: impl FnMut(u64),
) -> Result<u64, SetupError> {
    let wrong = |what: String| SetupError::Archive { file: wheel.to_owned(), what };
    let file = fs::File::open(wheel).map_err(SetupError::io("open", wheel))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(|error| wrong(error.to_string()))?;
    let mut written = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| wrong(error.to_string()))?;
        let name = entry.name().map_err(|error| wrong(error.to_string()))?.into_owned();
        if !stays_inside(&name) || entry.is_symlink() {
            return Err(wrong(format!("entry {name:?} leads out of the archive")));
        }
        if entry.is_dir() {
            continue;
        }
        let Some(path) = place(&name) else { continue };
        let path = into.join(path);
        let parent = path.parent().unwrap_or(into);
        fs::create_dir_all(parent).map_err(SetupError::io("create", parent))?;
        let mut out = fs::File::create_new(&path).map_err(SetupError::io("create", &path))?;
        let room = MAX_UNPACKED_BYTES.saturating_sub(written);
        let copied = io::copy(&mut entry.take(room), &mut out).map_err(SetupError::io("write", &path))?;
        if copied == room {
            return Err(wrong(format!("it unpacks to more than {MAX_UNPACKED_BYTES} bytes")));
        }
        written += copied;
        progress(written);
    }
    Ok(written)
}

/// A relative path of plain names, without `.`, `..` or a root.
fn stays_inside(name: &str) -> bool {
    !name.contains(['\\', '\0'])
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Where an entry of a libtorch wheel goes, if it is needed: headers, and libraries in the layout that
/// their RPATH expects (`torch/lib` beside `nvidia/cu13/lib`).
pub(super) fn libtorch_place(set: LibtorchSet, name: &str) -> Option<PathBuf> {
    let keep = match set {
        LibtorchSet::Cpu => CPU_LIBRARIES.contains(&name),
        LibtorchSet::Cuda => {
            let library = name.strip_prefix("torch/lib/");
            library.is_some_and(|file| !file.contains('/') && !file.contains("python"))
                || (name.starts_with("nvidia/") && name.contains("/lib/"))
        }
    };
    (keep || name.starts_with("torch/include/") || name == VERSION_ENTRY).then(|| PathBuf::from(name))
}

/// The Python file that says which build it is.
pub(super) const VERSION_ENTRY: &str = "torch/version.py";

/// What `libtorch_cpu.so` needs to be loaded.
const CPU_LIBRARIES: [&str; 5] = [
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
];
