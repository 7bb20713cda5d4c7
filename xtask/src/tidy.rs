//! `cargo xtask tidy`: the house rules that can be checked, because prose rules fail and failing checks hold.
//!
//! Owns reading the tree and reporting. Each rule is a pure function in a file below; a finding names the
//! file, the line and the cure.

mod documents;
mod metrics;
mod packages;
mod sources;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub(crate) use sources::ignored_tests;

use crate::workspace::Workspace;

/// A text file of the tree.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: PathBuf,
    line: usize,
    cure: String,
}

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    let mut findings = Vec::new();
    for path in workspace.files()? {
        let bytes = std::fs::read(workspace.root().join(&path))
            .with_context(|| format!("read {}", path.display()))?;
        findings.extend(packages::oversized(&path, bytes.len()));
        // Golden files and the like are not text: only their size is of interest.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path, text });
        }
    }
    findings.extend(check(&files));
    println!("tidy: {}", line_counts(&files));
    if findings.is_empty() {
        println!("tidy: {} files follow the house rules", files.len());
        return Ok(());
    }
    for finding in &findings {
        println!("{finding}");
    }
    bail!("tidy: {} findings", findings.len())
}

/// All rules over all files.
fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files.iter().flat_map(check_alone).collect();
    findings.extend(metrics::undocumented(files));
    findings.extend(metrics::unregistered(files));
    findings.extend(documents::missing_frame_kinds(files));
    findings
}

/// The rules that need one file only.
fn check_alone(file: &SourceFile) -> Vec<Finding> {
    let rules: &[fn(&SourceFile) -> Vec<Finding>] = &[
        sources::too_long,
        sources::missing_module_doc,
        sources::vague_module_name,
        sources::vague_type_name,
        sources::bare_ignore,
        sources::short_name_of_ignored_test,
        sources::allow_attribute,
        sources::bare_spawn,
        packages::missing_lints,
        documents::overclaims,
    ];
    rules.iter().flat_map(|rule| rule(file)).collect()
}

impl SourceFile {
    pub(crate) fn extension(&self) -> &str {
        self.path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    pub(crate) fn is(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }

    /// Lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    pub(crate) fn finding(&self, line: usize, cure: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, cure: cure.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path.display(), self.line, self.cure)
    }
}

/// Median and 90th percentile of lines of Rust files, and the longest.
fn line_counts(files: &[SourceFile]) -> String {
    let mut counts: Vec<(usize, &Path)> = files
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file.text.lines().count(), file.path.as_path()))
        .collect();
    counts.sort_unstable();
    let Some((longest, path)) = counts.last().copied() else { return "no Rust files".into() };
    let at = |percent: usize| counts[(counts.len() - 1) * percent / 100].0;
    format!(
        "{} Rust files, {} lines; median {} (house: 180), p90 {} (house: 400), longest {longest} ({}; limit {})",
        counts.len(),
        counts.iter().map(|(lines, _)| lines).sum::<usize>(),
        at(50),
        at(90),
        path.display(),
        sources::MAX_LINES,
    )
}
