//! A secret on disk: made once, found again, never read by others. Whose it is, and whether two processes may use it at
//! once, is decided by those who open it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::NodeKey;

/// A secret key's bytes.
pub type Secret = [u8; 32];

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file or its folder can't be read or written.
    #[error("{path}: {source}; choose another folder with --state-dir DIR", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The file does not hold a key.
    #[error(
        "{path} does not hold a key (64 hexadecimal digits): restore it from a backup, or move it away to get a new \
         identity", path = .0.display()
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

/// A new key that is kept nowhere.
pub fn draw_key() -> Result<NodeKey, KeyFileError> {
    draw().map(|seed| NodeKey::from_seed(&seed))
}

/// The key in the file `name` of `folder`; makes both if they are missing.
pub fn key_in(folder: &Path, name: &str) -> Result<NodeKey, KeyFileError> {
    secret_in(folder, name).map(|seed| NodeKey::from_seed(&seed))
}

/// The secret in the file `name` of `folder`; makes both if they are missing.
pub(crate) fn secret_in(folder: &Path, name: &str) -> Result<Secret, KeyFileError> {
    match existing(folder, name)? {
        Some(secret) => Ok(secret),
        None => keep(folder, name, &draw()?),
    }
}

/// The secret in the file `name` of `folder`, if there is such a file.
pub(crate) fn existing(folder: &Path, name: &str) -> Result<Option<Secret>, KeyFileError> {
    match read(&folder.join(name)) {
        Ok(secret) => Ok(Some(secret)),
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps a secret under a name that is free; what is there already wins, and is given back.
pub(crate) fn keep(folder: &Path, name: &str, secret: &Secret) -> Result<Secret, KeyFileError> {
    let path = folder.join(name);
    let io = |source| KeyFileError::Io { path: path.clone(), source };
    fs::create_dir_all(folder).map_err(io)?;
    // Written whole under another name and linked: a crash leaves no half key, and of two processes one wins.
    let draft = folder.join(format!("{name}.{}", std::process::id()));
    // What a crash, or somebody else, left under that name may be open to others.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft).map_err(io)?;
    file.write_all(hex::encode(secret).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    let linked = fs::hard_link(&draft, &path);
    fs::remove_file(&draft).map_err(io)?;
    match linked {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(io(source)),
        _ => read(&path),
    }
}

fn read(path: &Path) -> Result<Secret, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let malformed = || KeyFileError::Malformed(path.to_owned());
    // A key has 64 characters; what is longer is none.
    file.take(256).read_to_string(&mut text).map_err(|_| malformed())?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| malformed())?;
    Ok(seed)
}

pub(crate) fn draw() -> Result<Secret, KeyFileError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeyFileError::Random)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = key_in(&state, "a.key").unwrap().node_id();
        assert_eq!(key_in(&state, "a.key").unwrap().node_id(), first);
        assert_ne!(key_in(&state, "b.key").unwrap().node_id(), first);
        assert_ne!(draw_key().unwrap().node_id(), draw_key().unwrap().node_id());
        let mode = fs::metadata(state.join("a.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_draft_that_a_crash_left_behind_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("a.key.{}", std::process::id())), "half").unwrap();
        key_in(folder.path(), "a.key").unwrap();
    }

    #[test]
    fn damaged_and_exposed_keys_are_refused_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        for damaged in ["half a ke", "", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64), &"0".repeat(5000)]
        {
            fs::write(&path, damaged).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(key_in(folder.path(), "a.key"), Err(KeyFileError::Malformed(_))), "{damaged}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = key_in(folder.path(), "a.key").unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
