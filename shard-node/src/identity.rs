//! A node's key on disk, and the lock that keeps two processes from being one node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::NodeKey;

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
    /// The key file does not hold a key.
    #[error(
        "{0} does not hold a node key (64 hexadecimal digits): restore it from a backup, or move it away to get a new identity"
    )]
    Malformed(PathBuf),
    /// Others may read the key.
    #[error("{path} can be read by others (mode {mode:o}): run `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system gave no randomness.
    #[error("no randomness for a new key: {0}")]
    Random(getrandom::Error),
}

impl Identity {
    /// Opens the folder, creating it and a key on first use, and locks it.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let lock_path = folder.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(IdentityError::Io { path: lock_path, source }),
        }
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
    let path = folder.join(KEY_FILE);
    let io = |source| IdentityError::Io { path: path.clone(), source };
    fs::create_dir_all(folder).map_err(io)?;
    match read_key(&path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(IdentityError::Random)?;
    // Written whole under another name and linked: a crash leaves no half key, and of two processes one wins.
    let draft = folder.join(format!("{KEY_FILE}.{}", std::process::id()));
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft).map_err(io)?;
    file.write_all(hex::encode(seed).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    let linked = fs::hard_link(&draft, &path);
    fs::remove_file(&draft).map_err(io)?;
    match linked {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(io(source)),
        _ => read_key(&path),
    }
}

fn read_key(path: &Path) -> Result<NodeKey, IdentityError> {
    let io = |source| IdentityError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let malformed = || IdentityError::Malformed(path.to_owned());
    file.take(256).read_to_string(&mut text).map_err(|_| malformed())?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| malformed())?;
    Ok(NodeKey::from_seed(&seed))
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
        let mode = fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn two_processes_are_not_one_node() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Identity::open(folder.path()).unwrap();
        let error = Identity::open(folder.path()).unwrap_err();
        assert!(matches!(error, IdentityError::InUse(_)) && error.to_string().contains("--state-dir"));
    }

    #[test]
    fn damaged_and_exposed_keys_are_refused_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        fs::write(&path, "half a ke").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(key_in(folder.path()), Err(IdentityError::Malformed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = key_in(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
