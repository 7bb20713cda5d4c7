//! Who this router is. Without a state folder it is somebody new each time: nodes and other observers can't link two
//! runs, and nothing needs to be kept. With one the key stays, for operators who want to be recognised.

use std::path::Path;
use std::sync::Arc;

use proto::NodeKey;
use proto_keys::{KeyFileError, KeyRing, KeyRingError, draw_key, key_in};
use router::clock::unix_seconds;

/// The key in the folder, made when first wanted; a fresh one without a folder.
pub(super) fn key(state_dir: Option<&Path>) -> Result<NodeKey, KeyFileError> {
    state_dir.map_or_else(draw_key, |folder| key_in(folder, KEY_FILE))
}

/// The keys that it signs with: kept beside it, or for this run.
pub(super) fn ring(state_dir: Option<&Path>, key: &NodeKey) -> Result<Arc<KeyRing>, KeyRingError> {
    let now = unix_seconds();
    let ring = state_dir.map_or_else(|| KeyRing::fresh(key, now), |folder| KeyRing::open(folder, key, now));
    ring.map(Arc::new)
}

const KEY_FILE: &str = "router.key";
