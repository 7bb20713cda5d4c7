//! Who this router is. Without a state folder it is somebody new each time: nodes and other observers can't link two
//! runs, and nothing needs to be kept. With one the key stays, for operators who want to be recognised.

use std::path::Path;

use proto::NodeKey;
use proto_transport::{KeyFileError, draw_key, key_in};

/// The key in the folder, made when first wanted; a fresh one without a folder.
pub(super) fn key(state_dir: Option<&Path>) -> Result<NodeKey, KeyFileError> {
    state_dir.map_or_else(draw_key, |folder| key_in(folder, KEY_FILE))
}

const KEY_FILE: &str = "router.key";
