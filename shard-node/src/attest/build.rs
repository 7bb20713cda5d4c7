//! What computes: a hash of the program, for receipts.

use std::fs::File;
use std::sync::OnceLock;

use proto_attest::Digest;

/// BLAKE3 of this process's program file; zero where it can't be read.
pub(crate) fn exec_build() -> Digest {
    static BUILD: OnceLock<Digest> = OnceLock::new();
    *BUILD.get_or_init(|| match hash() {
        Ok(digest) => digest,
        Err(error) => {
            tracing::warn!(%error, "receipts name no program: its file can't be read");
            Digest::ZERO
        }
    })
}

fn hash() -> std::io::Result<Digest> {
    let program = File::open(std::env::current_exe()?)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(program)?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}
