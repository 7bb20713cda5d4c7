//! `config.json` of a directory without tensors: the shape that is read of it is one that a manifest may have.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shard_node_weights::{Checkpoint, inspect};

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory for the model").keep();
    let empty = [&2_u64.to_le_bytes()[..], b"{}"].concat();
    std::fs::write(directory.join("model.safetensors"), empty).expect("write the weights");
    directory
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(DIRECTORY.join("config.json"), data).expect("write the configuration");
    let Ok(checkpoint) = Checkpoint::open(&DIRECTORY) else { return };
    if let Ok(reading) = checkpoint.read_architecture() {
        assert!(reading.architecture.check().is_ok());
        let _ = inspect(&checkpoint);
    }
});
