//! Holds the tensors of a span against the manifest on several threads, beside whoever loads them.
//!
//! Plain reads, not the map: hashing must not make pages resident that the loader has not come to yet, or has given
//! back already.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proto::ContentHash;
use proto::manifest::Manifest;

use super::{READ_BYTES, VerifyError, listed};
use crate::checkpoint::{Checkpoint, StoredTensor};

/// The check of some tensors, shared by the threads that do it.
#[derive(Debug)]
pub struct SpanCheck {
    manifest: Arc<Manifest>,
    checkpoint: Arc<Checkpoint>,
    tensors: Vec<StoredTensor>,
    names: BTreeSet<String>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl SpanCheck {
    /// Checks names, types and shapes at once; the bytes are [`SpanCheck::run`]'s.
    pub fn new(
        manifest: &Arc<Manifest>,
        checkpoint: &Arc<Checkpoint>,
        tensors: &[(String, Vec<u64>)],
    ) -> Result<Self, VerifyError> {
        let mut names = BTreeSet::new();
        let mut distinct = Vec::with_capacity(tensors.len());
        for (name, _) in tensors {
            let stored = listed(manifest, checkpoint, name)?;
            if names.insert(stored.stored_name.clone()) {
                // Of experts in a stack the stack, which is what the manifest lists; once.
                distinct.push(checkpoint.whole(stored).clone());
            }
        }
        Ok(Self {
            manifest: manifest.clone(),
            checkpoint: checkpoint.clone(),
            tensors: distinct,
            names,
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    /// Whether the check includes a tensor.
    pub fn includes(&self, tensor: &StoredTensor) -> bool {
        self.names.contains(&tensor.stored_name)
    }

    /// Hashes tensors until there are none left, one thread's share of them. The first wrong one stops all threads.
    pub fn run(&self) -> Result<(), VerifyError> {
        let mut buffer = vec![0; READ_BYTES];
        while let Some(tensor) = self.tensors.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let checked = self.check(tensor, &mut buffer);
            if checked.is_err() {
                self.stop();
            }
            checked?;
        }
        Ok(())
    }

    /// Makes every [`SpanCheck::run`] return soon: the loading has failed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn check(&self, tensor: &StoredTensor, buffer: &mut [u8]) -> Result<(), VerifyError> {
        let path = || self.checkpoint.file_of(tensor).to_owned();
        let mut hasher = blake3::Hasher::new();
        let (file, mut at) = tensor.place();
        let file = self.checkpoint.files()[file].mapped().file();
        let mut left = tensor.stored_bytes();
        while left > 0 {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let part = &mut buffer[..left.min(READ_BYTES as u64) as usize];
            file.read_exact_at(part, at).map_err(|source| VerifyError::Read {
                path: path(),
                tensor: tensor.name.clone(),
                source,
            })?;
            hasher.update(part);
            (at, left) = (at + part.len() as u64, left - part.len() as u64);
        }
        let hash = ContentHash::from_bytes(*hasher.finalize().as_bytes());
        if self.manifest.tensor(&tensor.stored_name).is_none_or(|entry| entry.blake3 != hash) {
            return Err(VerifyError::WrongBytes {
                path: path(),
                tensor: tensor.name.clone(),
                model: self.manifest.model_id().short(),
            });
        }
        Ok(())
    }
}
