//! Where things are: the workspace root, the target folder, the files that git knows.
//!
//! Reads paths and file names only; it changes nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use walkdir::WalkDir;

/// The workspace that this program was built from.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the root above this package and the target folder this program lies in.
    pub(crate) fn locate() -> Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.parent().context("find the workspace above xtask")?.to_path_buf();
        ensure!(
            root.join("Cargo.lock").is_file(),
            "the workspace has moved from {}; run `cargo xtask` in its new place",
            root.display()
        );
        // Ours is TARGET/release/xtask, also with CARGO_TARGET_DIR; in tests deps/ lies between.
        let target = std::env::current_exe()
            .ok()
            .and_then(|program| {
                program.ancestors().find(|dir| dir.ends_with("release")).map(Path::to_path_buf)
            })
            .and_then(|release| release.parent().map(Path::to_path_buf))
            .unwrap_or_else(|| root.join("target"));
        Ok(Self { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where the built programs lie.
    pub(crate) fn release(&self) -> PathBuf {
        self.target.join("release")
    }

    pub(crate) fn third_party(&self) -> PathBuf {
        self.root.join("third_party")
    }

    /// All files that git tracks or would track, relative to the root and sorted; without git, all files
    /// that are not build output.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&self.root)
            .output();
        let mut files = match listed {
            Ok(output) if output.status.success() => {
                let names = String::from_utf8(output.stdout).context("read file names from git")?;
                names.split_terminator('\0').map(PathBuf::from).collect()
            }
            _ => self.walk()?,
        };
        // A file that is deleted but not yet committed is still listed.
        files.retain(|file| self.root.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(files)
    }

    fn walk(&self) -> Result<Vec<PathBuf>> {
        let skipped = [self.root.join("target"), self.third_party(), self.root.join(".git")];
        let mut files = Vec::new();
        let entries = WalkDir::new(&self.root).into_iter();
        for entry in entries.filter_entry(|entry| !skipped.iter().any(|dir| dir == entry.path())) {
            let entry = entry.context("walk the workspace")?;
            if entry.file_type().is_file() {
                files.push(entry.path().strip_prefix(&self.root)?.to_path_buf());
            }
        }
        Ok(files)
    }
}
