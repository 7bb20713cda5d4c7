//! The files of keys and of their usage: locked while they are changed, replaced whole, readable by their owner only.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{KeyId, KeySet, KeySetError, KeyUsage};

/// A router's keys on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    folder: PathBuf,
}

/// The keys can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system says no.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what this program writes.
    #[error("{} is damaged: {source}; mend it by hand, or move it away to begin without keys", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The change itself is refused.
    #[error(transparent)]
    Change(#[from] KeySetError),
}

const KEYS: &str = "keys.json";
const USAGE: &str = "key-usage.json";
const LOCK: &str = "keys.lock";

impl KeyFile {
    /// In this folder, which need not exist yet.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the keys are.
    pub fn path(&self) -> PathBuf {
        self.folder.join(KEYS)
    }

    /// Whether keys were ever made.
    pub fn exists(&self) -> bool {
        self.changed().is_some()
    }

    /// All keys; none if there is no file.
    pub fn load(&self) -> Result<KeySet, KeyFileError> {
        read(&self.path())
    }

    /// What each key has used, as far as it was written down.
    pub fn usage(&self) -> Result<BTreeMap<KeyId, KeyUsage>, KeyFileError> {
        read(&self.folder.join(USAGE))
    }

    /// Changes the keys; nothing if the change is refused.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut KeySet) -> Result<T, KeySetError>,
    ) -> Result<T, KeyFileError> {
        let _lock = self.lock()?;
        let mut set = self.load()?;
        let changed = change(&mut set)?;
        self.replace(KEYS, &set)?;
        Ok(changed)
    }

    /// Adds to what keys have used.
    pub fn add_usage(&self, used: &BTreeMap<KeyId, KeyUsage>) -> Result<(), KeyFileError> {
        let _lock = self.lock()?;
        let mut usage = self.usage()?;
        for (key, more) in used {
            let sum = usage.entry(key.clone()).or_default();
            sum.requests += more.requests;
            sum.prompt_tokens += more.prompt_tokens;
            sum.completion_tokens += more.completion_tokens;
        }
        self.replace(USAGE, &usage)
    }

    /// What tells one state of the keys from another: when they were changed last, and the file's number, as each
    /// change is a new file and two may come within one tick of the file system's clock. `None` if there are none.
    pub fn changed(&self) -> Option<(SystemTime, u64)> {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.path()).and_then(|meta| Ok((meta.modified()?, meta.ino()))).ok()
    }

    /// Held until it is dropped.
    fn lock(&self) -> Result<File, KeyFileError> {
        fs::create_dir_all(&self.folder).map_err(io(&self.folder))?;
        let path = self.folder.join(LOCK);
        let lock =
            OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(io(&path))?;
        lock.lock().map_err(io(&path))?;
        Ok(lock)
    }

    fn replace(&self, name: &str, value: &impl Serialize) -> Result<(), KeyFileError> {
        let (path, draft) = (self.folder.join(name), self.folder.join(format!("{name}.draft")));
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|source| KeyFileError::Damaged { path: path.clone(), source })?;
        bytes.push(b'\n');
        // A draft that a crash left is nobody's: the lock is held.
        match fs::remove_file(&draft) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(io(&draft)(source)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft).map_err(io(&draft))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io(&draft))?;
        fs::rename(&draft, &path).map_err(io(&path))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io(&self.folder))
    }
}

fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, KeyFileError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| KeyFileError::Damaged { path: path.to_owned(), source }),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(T::default()),
        Err(source) => Err(io(path)(source)),
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::keys::{KeyLimits, Secret};

    #[test]
    fn keys_are_kept_for_their_owner_only_and_a_refused_change_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().join("new"));
        assert_eq!((file.load().unwrap(), file.changed()), (KeySet::default(), None));
        let secret = Secret::of_random([7; 32]);
        let id = file.change(|set| set.create(&secret, "a", 1, KeyLimits::default())).unwrap();
        assert!(file.change(|set| set.revoke("nobody", 1).cloned()).is_err());
        assert_eq!(file.load().unwrap().find(&secret).unwrap().id, id);
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let used = KeyUsage { requests: 1, prompt_tokens: 2, completion_tokens: 3 };
        for _ in 0..2 {
            file.add_usage(&[(id.clone(), used)].into()).unwrap();
        }
        assert_eq!(file.usage().unwrap()[&id].completion_tokens, 6);
        // A crash between draft and rename.
        fs::write(file.path().with_file_name("keys.json.draft"), "{").unwrap();
        file.change(|set| set.revoke("a", 1).cloned()).unwrap();
        fs::write(file.path(), "{").unwrap();
        assert!(file.load().unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn changes_at_once_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().to_owned());
        std::thread::scope(|scope| {
            for byte in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    let secret = Secret::of_random([byte; 32]);
                    file.change(|set| set.create(&secret, &format!("k{byte}"), 1, KeyLimits::default()))
                        .unwrap();
                });
            }
        });
        assert_eq!(file.load().unwrap().keys.len(), 8);
    }
}
