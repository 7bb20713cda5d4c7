//! Every metric has a row in `docs/OPERATIONS.md`, and every row a metric.
//!
//! A metric is found as a string literal that consists of one of our prefixes and name characters.

use std::collections::BTreeSet;

use super::{Finding, SourceFile};
use crate::layers::CRATES;

/// Metrics that no operator can look up.
pub(super) fn undocumented(files: &[SourceFile]) -> Vec<Finding> {
    let documented = documented(files);
    registered(files)
        .filter(|(_, _, name)| !documented.contains(name))
        .map(|(file, line, name)| {
            file.finding(line, format!("metric `{name}` has no row in {OPERATIONS}; add one"))
        })
        .collect()
}

/// Rows about metrics that are gone.
pub(super) fn unregistered(files: &[SourceFile]) -> Vec<Finding> {
    let registered: BTreeSet<&str> = registered(files).map(|(_, _, name)| name).collect();
    let Some(operations) = files.iter().find(|file| file.is(OPERATIONS)) else { return Vec::new() };
    operations
        .lines()
        .filter(|(_, line)| line.starts_with('|'))
        .flat_map(|(number, line)| backticked(line).map(move |name| (number, name)))
        .filter(|(_, name)| is_metric(name) && !registered.contains(name))
        .map(|(number, name)| operations.finding(number, format!("no code registers `{name}`; drop the row")))
        .collect()
}

fn documented(files: &[SourceFile]) -> BTreeSet<&str> {
    let operations = files.iter().filter(|file| file.is(OPERATIONS));
    operations.flat_map(|file| file.text.lines().flat_map(backticked)).collect()
}

/// Each literal in code outside tests that looks like one of our metrics.
fn registered(files: &[SourceFile]) -> impl Iterator<Item = (&SourceFile, usize, &str)> {
    files.iter().filter(|file| file.is_rust() && is_code(file)).flat_map(|file| {
        let code = file.lines().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
        code.filter(|(_, line)| !line.trim_start().starts_with("//"))
            .flat_map(|(number, line)| literals(line).map(move |literal| (number, literal)))
            .filter(|(_, literal)| is_metric(literal))
            .map(move |(number, literal)| (file, number, literal))
    })
}

/// The string literals of a line, without those that a match arm gives: they are label values.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    let mut parts = line.split('"');
    let mut before = parts.next().unwrap_or_default();
    std::iter::from_fn(move || {
        loop {
            let literal = parts.next()?;
            let is_label = before.trim_end().ends_with("=>");
            before = parts.next().unwrap_or_default();
            if !is_label {
                return Some(literal);
            }
        }
    })
}

/// Not a test or a build script, and not this tool, which speaks about metrics but has none.
fn is_code(file: &SourceFile) -> bool {
    let in_source = file.path.iter().any(|part| part == "src");
    let for_tests =
        file.path.iter().any(|part| ["tests", "tests.rs", "fuzz"].iter().any(|name| part == *name));
    in_source && !for_tests && !file.path.starts_with("xtask")
}

fn is_metric(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let ours = PREFIXES.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
    plain && ours && !CRATES.iter().any(|row| row.name.replace('-', "_") == name)
}

fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

const OPERATIONS: &str = "docs/OPERATIONS.md";

/// Each names the crate or the process that registers the metric.
const PREFIXES: &[&str] = &["layerlane_", "router_", "shard_node_", "transport_", "discovery_", "attest_"];
