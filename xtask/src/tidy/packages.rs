//! Rules about packages and the tree: lints are inherited, nothing large is tracked.

use std::path::Path;

use super::{Finding, SourceFile};

/// A package inherits the workspace's lints, or the lints hold for some crates only.
pub(super) fn missing_lints(file: &SourceFile) -> Vec<Finding> {
    let is_package = file.path.ends_with("Cargo.toml") && has_table(&file.text, "[package]");
    // A package that is a workspace of its own (fuzz targets) cannot inherit.
    if !is_package || has_table(&file.text, "[workspace]") || inherits(&file.text) {
        return Vec::new();
    }
    vec![file.finding(1, "add `[lints]` with `workspace = true`")]
}

/// Nothing over [`MAX_BYTES`] is tracked: weights and libraries are fetched by setup.
pub(super) fn oversized(path: &Path, bytes: usize) -> Option<Finding> {
    (bytes > MAX_BYTES).then(|| Finding {
        path: path.to_path_buf(),
        line: 1,
        cure: format!("{bytes} bytes, limit {MAX_BYTES}; make it smaller, or let setup or a test make it"),
    })
}

fn has_table(text: &str, header: &str) -> bool {
    text.lines().any(|line| line.trim() == header)
}

fn inherits(text: &str) -> bool {
    text.lines()
        .skip_while(|line| line.trim() != "[lints]")
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with('['))
        .any(|line| {
            line.split_once('=')
                .is_some_and(|(key, value)| key.trim() == "workspace" && value.trim() == "true")
        })
}

/// Golden files are a few kilobytes; a clone should stay small.
pub(super) const MAX_BYTES: usize = 1 << 20;
