//! A node's key on disk, and the lock that keeps two processes from being one node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use proto::NodeKey;
use proto_keys::KeyFileError;

/// A state folder held by this process, with the key in it.
#[derive(Debug)]
pub struct Identity {
    key: NodeKey,
    folder: PathBuf,
    /// Held as long as the process serves; the system lets go of it however we end.
    _lock: File,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error("{path}: {source}; choose another folder with --state-dir DIR")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Another process is this node.
    #[error(
        "another process uses {0} and would be the same node: stop it, or give this one its own --state-dir DIR"
    )]
    InUse(PathBuf),
    /// There is nobody to tell.
    #[error(
        "no node runs with the state folder {0}: name the one of the node that is meant with --state-dir DIR"
    )]
    NotRunning(PathBuf),
    /// The key can't be had.
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

impl Identity {
    /// Opens the folder, creating it and a key on first use, and locks it.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        fs::create_dir_all(folder).map_err(io_at(folder))?;
        let lock_path = folder.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io_at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(IdentityError::Io { path: lock_path, source }),
        }
        // For whoever wants to tell this process something: see `running`.
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(io_at(&lock_path))?;
        Ok(Self { key: key_in(folder)?, folder: folder.to_owned(), _lock: lock })
    }

    /// The key.
    pub const fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Reads the folder's key without locking it; creates one if there is none.
pub fn key_in(folder: &Path) -> Result<NodeKey, IdentityError> {
    Ok(proto_keys::key_in(folder, KEY_FILE)?)
}

/// A process that holds a state folder.
#[derive(Debug)]
pub struct RunningNode {
    /// Its number.
    pub process: u32,
    lock: File,
}

/// The process that holds `folder`.
///
/// # Errors
/// [`IdentityError::NotRunning`] if there is none.
pub fn running(folder: &Path) -> Result<RunningNode, IdentityError> {
    let lock_path = folder.join(LOCK_FILE);
    let not_running = || IdentityError::NotRunning(folder.to_owned());
    let lock = File::open(&lock_path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => not_running(),
        _ => IdentityError::Io { path: lock_path.clone(), source },
    })?;
    match lock.try_lock_shared() {
        Ok(()) => return Err(not_running()),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(source)) => return Err(IdentityError::Io { path: lock_path, source }),
    }
    let text = io::read_to_string(&lock).map_err(io_at(&lock_path))?;
    // One of a version that wrote no number can't be told anything.
    let process = text.parse().map_err(|_| not_running())?;
    if !is_ours(process) {
        return Err(not_running());
    }
    Ok(RunningNode { process, lock })
}

impl RunningNode {
    /// Waits until the process has ended.
    pub fn ended(&self) -> io::Result<()> {
        self.lock.lock_shared()
    }
}

/// Whether the process of this number is a node: the folder may be shared with a machine or container that counts its
/// processes otherwise.
fn is_ours(process: u32) -> bool {
    process == std::process::id()
        || fs::read_to_string(format!("/proc/{process}/comm"))
            .is_ok_and(|name| name.starts_with("shard-node"))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

const KEY_FILE: &str = "node.key";
const LOCK_FILE: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::open(folder.path()).unwrap().key().node_id();
        assert_eq!(Identity::open(folder.path()).unwrap().key().node_id(), first);
        assert_eq!(key_in(folder.path()).unwrap().node_id(), first);
    }

    #[test]
    fn who_holds_the_folder_can_be_found_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(running(folder.path()), Err(IdentityError::NotRunning(_))), "nobody ever");
        let held = Identity::open(folder.path()).unwrap();
        let found = running(folder.path()).unwrap();
        assert_eq!(found.process, std::process::id());
        drop(held);
        found.ended().unwrap();
        drop(found);
        assert!(matches!(running(folder.path()), Err(IdentityError::NotRunning(_))), "nobody any more");
        // A number of more digits is not mixed with an older one's.
        fs::write(folder.path().join(LOCK_FILE), "999999999").unwrap();
        let _held = Identity::open(folder.path()).unwrap();
        assert_eq!(running(folder.path()).unwrap().process, std::process::id());
    }

    #[test]
    fn two_processes_are_not_one_node() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Identity::open(folder.path()).unwrap();
        let error = Identity::open(folder.path()).unwrap_err();
        assert!(matches!(error, IdentityError::InUse(_)) && error.to_string().contains("--state-dir"));
    }
}
