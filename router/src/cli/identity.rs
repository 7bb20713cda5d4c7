//! Who this router is. Without a state folder it is somebody new each time: nodes and other observers can't link two
//! runs, and nothing needs to be kept. With one the key stays, for operators who want to be recognised.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::NodeKey;

#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{0} does not hold a key (64 hexadecimal digits): restore it, or move it away to get a new identity"
    )]
    Malformed(PathBuf),
    #[error("{} can be read by others (mode {mode:o}): run `chmod 600` on it", .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("draw a key: {0}")]
    Random(String),
}

const KEY_FILE: &str = "router.key";

/// The key in the folder, made when first wanted; a fresh one without a folder.
pub(super) fn key(state_dir: Option<&Path>) -> Result<NodeKey, IdentityError> {
    let Some(folder) = state_dir else { return fresh().map(|seed| NodeKey::from_seed(&seed)) };
    let path = folder.join(KEY_FILE);
    let wrap = |source| IdentityError::Io { path: path.clone(), source };
    match read(&path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        known => return known,
    }
    fs::create_dir_all(folder).map_err(wrap)?;
    let seed = fresh()?;
    // Written whole under another name and linked: of two processes one wins, and neither sees half a key.
    let draft = folder.join(format!("{KEY_FILE}.{}", std::process::id()));
    let written = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(hex::encode(seed).as_bytes()))
        .and_then(|()| match fs::hard_link(&draft, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    // A draft left behind does no harm.
    let _ = fs::remove_file(&draft);
    written.map_err(wrap)?;
    read(&path)
}

fn read(path: &Path) -> Result<NodeKey, IdentityError> {
    let wrap = |source| IdentityError::Io { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(wrap)?;
    let mode = fs::metadata(path).map_err(wrap)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| IdentityError::Malformed(path.to_owned()))?;
    Ok(NodeKey::from_seed(&seed))
}

fn fresh() -> Result<[u8; 32], IdentityError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| IdentityError::Random(error.to_string()))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_where_a_folder_is_given_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = key(Some(&state)).unwrap().node_id();
        assert_eq!(key(Some(&state)).unwrap().node_id(), first);
        let mode = fs::metadata(state.join(KEY_FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_ne!(key(None).unwrap().node_id(), key(None).unwrap().node_id());
        fs::write(state.join(KEY_FILE), "short").unwrap();
        assert!(matches!(key(Some(&state)), Err(IdentityError::Malformed(_))));
        fs::set_permissions(state.join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(key(Some(&state)), Err(IdentityError::Exposed { .. })));
    }
}
