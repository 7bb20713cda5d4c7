//! Blobs on disk, named by their hash. A damaged one counts as missing; writing is atomic.

use std::path::{Path, PathBuf};

use proto::ContentHash;

/// A folder of blobs. Any of it may be deleted at any time.
#[derive(Clone, Debug)]
pub struct BlobCache {
    folder: PathBuf,
}

impl BlobCache {
    /// Uses (and makes, when first written) this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The blob, if it is there and intact. A damaged file is removed.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn get(&self, hash: ContentHash) -> Option<Vec<u8>> {
        let path = self.path(hash);
        let bytes = tokio::fs::read(&path).await.ok()?;
        if ContentHash::of(&bytes) == hash {
            return Some(bytes);
        }
        tracing::warn!(path = %path.display(), "cached file is damaged: it will be fetched again");
        // If it can't be removed, it will be replaced.
        let _ = tokio::fs::remove_file(&path).await;
        None
    }

    /// Keeps the blob. It appears under its name only when it is complete.
    ///
    /// # Cancel safety
    /// Dropped half-way it may leave a temporary file behind.
    pub async fn put(&self, hash: ContentHash, bytes: &[u8]) -> std::io::Result<()> {
        tokio::fs::create_dir_all(&self.folder).await?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| std::io::Error::other(error.to_string()))?;
        let partial = self.folder.join(format!("{hash}.{:016x}.partial", u64::from_le_bytes(random)));
        let written = write(&partial, bytes, &self.path(hash)).await;
        if written.is_err() {
            // The first error is the one to report.
            let _ = tokio::fs::remove_file(&partial).await;
        }
        written
    }

    pub(super) fn path(&self, hash: ContentHash) -> PathBuf {
        self.folder.join(hash.to_hex())
    }
}

async fn write(partial: &Path, bytes: &[u8], path: &Path) -> std::io::Result<()> {
    tokio::fs::write(partial, bytes).await?;
    tokio::fs::rename(partial, path).await
}
