//! What is signed and what travels has fixed bytes: `golden/typed_data.json` holds digests and signatures, made again by
//! an independent implementation (eth-account); `golden/<Kind>.hex` holds encodings.
//!
//! A new one gets its place by `LAYERLANE_WRITE_GOLDEN=1 cargo test -p proto-attest --test golden`; an existing file is
//! never rewritten, since that would be another protocol.

#[cfg(test)]
mod encodings;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod typed_data;

use std::path::{Path, PathBuf};

/// A golden file's text. One that is not there is written, if that was asked for.
#[cfg(test)]
fn golden(name: &str, ours: Option<&str>) -> String {
    let path = folder().join(name);
    if let Some(ours) = ours
        && std::env::var_os("LAYERLANE_WRITE_GOLDEN").is_some()
        && !path.exists()
    {
        std::fs::write(&path, ours).expect("golden directory can be written");
    }
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; see the top of this file", path.display()))
}

#[cfg(test)]
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}
