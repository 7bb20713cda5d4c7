//! Computed manifests on disk, one file per model, found again by the identity of the model's files
//! (path, length, modification time, inode). A damaged or foreign entry is computed anew, never trusted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::manifest::Manifest;
use proto::{ContentHash, ModelId};

use super::{ComputeError, Described, compute_with};
use crate::checkpoint::{Checkpoint, Container};
use crate::text::TEXT_FILES;

/// Counts changes of what this crate computes from the same files; an older entry is then not found.
const FORMAT_VERSION: u32 = 2;

/// A directory of computed manifests.
#[derive(Clone, Debug)]
pub struct ManifestCache {
    directory: PathBuf,
}

impl ManifestCache {
    /// A cache in that directory, which is made when first written to.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The model's manifest: from the cache if its files are unchanged, otherwise computed and kept.
    /// A cache that cannot be written is logged and costs time only.
    pub fn describe(
        &self,
        checkpoint: &Checkpoint,
        progress: impl FnMut(u64, u64),
    ) -> Result<Described, ComputeError> {
        let text = checkpoint.text()?;
        let Some(path) = self.entry_path(checkpoint) else {
            return compute_with(checkpoint, text, progress);
        };
        if let Some(manifest) = read_entry(&path) {
            // The tokenizer is converted anew each time, so a newer conversion is noticed here.
            let tokenizer = text.tokenizer_json.as_deref().map(ContentHash::of);
            if manifest.tokenizer.map(|entry| entry.blake3) == tokenizer {
                return Ok(Described {
                    id: manifest.model_id(),
                    manifest,
                    tokenizer_json: text.tokenizer_json,
                });
            }
        }
        let described = compute_with(checkpoint, text, progress)?;
        if let Err(error) = write_entry(&path, &described) {
            tracing::warn!(path = %path.display(), %error, "keep the computed manifest");
        }
        Ok(described)
    }

    /// Where the entry of these files is; `None` when a file's identity cannot be read.
    fn entry_path(&self, checkpoint: &Checkpoint) -> Option<PathBuf> {
        let mut key = blake3::Hasher::new();
        key.update(&FORMAT_VERSION.to_le_bytes());
        for path in source_files(checkpoint) {
            match fs::metadata(&path) {
                Ok(metadata) => {
                    let canonical = fs::canonicalize(&path).ok()?;
                    let canonical = canonical.as_os_str().as_encoded_bytes();
                    key.update(&(canonical.len() as u64).to_le_bytes());
                    key.update(canonical);
                    for number in [metadata.len(), metadata.ino(), metadata.dev()] {
                        key.update(&number.to_le_bytes());
                    }
                    for number in [metadata.mtime(), metadata.mtime_nsec()] {
                        key.update(&number.to_le_bytes());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    key.update(&u64::MAX.to_le_bytes());
                }
                Err(_) => return None,
            }
        }
        Some(self.directory.join(format!("{}.manifest", key.finalize().to_hex())))
    }
}

/// Every file that the manifest depends on, in a fixed order.
fn source_files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = checkpoint.files().iter().map(|file| file.path().to_owned()).collect();
    if let Container::Safetensors { .. } = checkpoint.container() {
        let beside = ["config.json", "model.safetensors.index.json"].into_iter().chain(TEXT_FILES);
        files.extend(beside.map(|name| checkpoint.path().join(name)));
    }
    files
}

/// An entry is the model id in hex, a newline, and the manifest's canonical bytes.
fn read_entry(path: &Path) -> Option<Manifest> {
    let bytes = fs::read(path).ok()?;
    let parsed = bytes.split_at_checked(65).and_then(|(head, manifest)| {
        let id: ModelId = std::str::from_utf8(head).ok()?.strip_suffix('\n')?.parse().ok()?;
        Manifest::from_bytes(manifest, id).ok()
    });
    if parsed.is_none() {
        tracing::warn!(path = %path.display(), "a cached manifest is damaged, computing it anew");
    }
    parsed
}

fn write_entry(path: &Path, described: &Described) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory)?;
    let mut bytes = format!("{}\n", described.id).into_bytes();
    bytes.extend_from_slice(&described.manifest.to_bytes());
    // Renamed into place, so that another process never reads half an entry.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}
