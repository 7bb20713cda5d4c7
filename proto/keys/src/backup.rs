//! All keys of a folder in one file, and back.
//!
//! ```text
//! layerlane keys 1
//! operator.key 64 hexadecimal digits
//! binding ...
//! ```
//! Whoever has the file is this node and its operator: it is written for its owner only, and belongs on another disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::ring::{BINDING, OPERATOR_KEY, RECEIPT_KEY};

/// Why keys can't be backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The folder holds no key.
    #[error("{0} holds no keys")]
    Nothing(PathBuf),
    /// It is something else, or damaged.
    #[error("{0} is no backup of keys, or a damaged one: nothing was restored")]
    Malformed(PathBuf),
    /// Another key is there already.
    #[error(
        "{0} holds another key already: move it away, or restore into another folder with --state-dir DIR"
    )]
    Taken(PathBuf),
}

/// Writes the keys of `folder` into a new file, mode 0600.
///
/// # Errors
/// Also if the file exists: a backup is never overwritten.
pub fn back_up(folder: &Path, file: &Path) -> Result<(), BackupError> {
    let mut lines = vec![HEAD.to_owned()];
    for name in NAMES {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => lines.push(format!("{name} {}", text.trim())),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(BackupError::Io { path, source }),
        }
    }
    if lines.len() == 1 {
        return Err(BackupError::Nothing(folder.to_owned()));
    }
    write_new(file, &(lines.join("\n") + "\n"))
}

/// Puts the keys of a backup into `folder`: all of them or, where another one is there already, none.
pub fn restore(folder: &Path, file: &Path) -> Result<(), BackupError> {
    let malformed = || BackupError::Malformed(file.to_owned());
    let io = |source| BackupError::Io { path: file.to_owned(), source };
    let mut text = String::new();
    let read = fs::File::open(file).map_err(io)?.take(MOST_BYTES).read_to_string(&mut text);
    read.map_err(|_| malformed())?;
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(malformed());
    }
    let mut keys = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(' ').ok_or_else(malformed)?;
        let name = NAMES.into_iter().find(|&known| known == name).ok_or_else(malformed)?;
        let bytes = hex::decode(value).map_err(|_| malformed())?;
        if name != BINDING && bytes.len() != 32 {
            return Err(malformed());
        }
        keys.push((folder.join(name), value));
    }
    if keys.is_empty() {
        return Err(malformed());
    }
    fs::create_dir_all(folder).map_err(io)?;
    for (path, value) in &keys {
        match fs::read_to_string(path) {
            Ok(held) if held.trim() != *value => return Err(BackupError::Taken(path.clone())),
            _ => {}
        }
    }
    for (path, value) in keys.iter().filter(|(path, _)| !path.exists()) {
        write_new(path, value)?;
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> Result<(), BackupError> {
    let io = |source| BackupError::Io { path: path.to_owned(), source };
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)
}

const HEAD: &str = "layerlane keys 1";
/// A node's or a router's own key, and what goes with it.
const NAMES: [&str; 5] = ["node.key", "router.key", OPERATOR_KEY, RECEIPT_KEY, BINDING];
/// Five short lines.
const MOST_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::KeyRing;

    #[test]
    fn keys_come_back_as_they_were_and_overwrite_nothing() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = other.path().join("backup");
        assert!(matches!(back_up(folder.path(), &file), Err(BackupError::Nothing(_))));
        let node = crate::key_in(folder.path(), "node.key").unwrap();
        let ring = KeyRing::open(folder.path(), &node, 1_000_000).unwrap();
        back_up(folder.path(), &file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(back_up(folder.path(), &file).is_err(), "a backup is not overwritten");
        let new = other.path().join("state");
        restore(&new, &file).unwrap();
        restore(&new, &file).unwrap();
        let again = crate::key_in(&new, "node.key").unwrap();
        assert_eq!(again.node_id(), node.node_id());
        assert_eq!(KeyRing::open(&new, &again, 1_000_100).unwrap().binding(), ring.binding());
        let taken = other.path().join("taken");
        crate::key_in(&taken, "node.key").unwrap();
        assert!(matches!(restore(&taken, &file), Err(BackupError::Taken(_))));
        assert!(!taken.join(RECEIPT_KEY).exists(), "all or nothing");
    }

    #[test]
    fn what_is_no_backup_restores_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("backup");
        for text in [
            "",
            "layerlane keys 1",
            "layerlane keys 1\nnode.key",
            "layerlane keys 1\n../x 00",
            "x\n",
            "layerlane keys 1\nnode.key 00",
            "layerlane keys 1\nnode.key zz",
        ] {
            fs::write(&file, text).unwrap();
            let state = folder.path().join("state");
            assert!(matches!(restore(&state, &file), Err(BackupError::Malformed(_))), "{text:?}");
            assert!(!state.join("node.key").exists());
        }
    }
}
