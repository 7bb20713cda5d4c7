//! The routing table on disk. Owns one small JSON file; what it says is only a list of peers to ping.

use std::io;
use std::path::{Path, PathBuf};

use proto::discovery::Contact;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

/// The file in a state directory.
#[derive(Debug, Clone)]
pub(super) struct TableFile {
    path: PathBuf,
}

/// Why a table could not be read. None of it is fatal.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    contacts: Vec<SavedContact>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedContact {
    node: proto::NodeId,
    addr: std::net::SocketAddr,
}

impl TableFile {
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join("dht-table.json") }
    }

    /// The contacts of an earlier run; none if there is no file or it is of another version.
    pub(super) async fn load(&self) -> Result<Vec<Contact>, LoadError> {
        let read = |source| LoadError::Read { path: self.path.clone(), source };
        let file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).await.map_err(read)?;
        let saved: Saved = serde_json::from_slice(&bytes)
            .map_err(|source| LoadError::Damaged { path: self.path.clone(), source })?;
        if saved.version != VERSION {
            return Ok(Vec::new());
        }
        Ok(saved.contacts.into_iter().map(|held| Contact { node: held.node, addr: held.addr }).collect())
    }

    /// Writes a new file and puts it in the old one's place, so that a crash leaves one of them whole.
    pub(super) async fn save(&self, contacts: &[Contact]) -> io::Result<()> {
        let contacts =
            contacts.iter().map(|held| SavedContact { node: held.node, addr: held.addr }).collect();
        let bytes = serde_json::to_vec_pretty(&Saved { version: VERSION, contacts })?;
        if let Some(dir) = self.path.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        let fresh = self.path.with_extension("json.new");
        tokio::fs::write(&fresh, bytes).await?;
        tokio::fs::rename(&fresh, &self.path).await
    }
}

const VERSION: u32 = 1;
/// A full table has under 5,000 contacts of about 130 bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node_key;

    #[tokio::test]
    async fn a_table_survives_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = TableFile::in_dir(&dir.path().join("new"));
        assert!(file.load().await.unwrap().is_empty());
        let contacts: Vec<Contact> = (0..40)
            .map(|n| Contact { node: node_key(n).node_id(), addr: ([10, 0, 0, n as u8], 7401).into() })
            .collect();
        file.save(&contacts).await.unwrap();
        assert_eq!(file.load().await.unwrap(), contacts);
        for damage in [&b"{"[..], b"", b"null", b"{\"version\":1,\"contacts\":[{}]}", &[0xff; 100]] {
            tokio::fs::write(&file.path, damage).await.unwrap();
            assert!(matches!(file.load().await, Err(LoadError::Damaged { .. })));
        }
        file.save(&contacts).await.unwrap();
        assert_eq!(file.load().await.unwrap().len(), 40);
    }
}
