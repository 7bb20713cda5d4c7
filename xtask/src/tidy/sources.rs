//! Rules about source text: length, module docs, names, attributes, spawning.
//!
//! They read lines, not syntax: a rule looks only where a line begins, so that code quoted in a string or a
//! comment is not taken for code.

use std::path::Component;

use super::{Finding, SourceFile};

/// A file over [`MAX_LINES`] lines holds more than one idea.
pub(super) fn too_long(file: &SourceFile) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if !["rs", "py", "sh", "cc", "cu", "h"].contains(&file.extension()) || lines <= MAX_LINES {
        return Vec::new();
    }
    vec![file.finding(lines, format!("{lines} lines, limit {MAX_LINES}; split it by idea"))]
}

/// A Rust file opens with `//!`.
pub(super) fn missing_module_doc(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![file.finding(1, "open the file with `//!`: what it owns and what it does not do")]
}

/// No file, folder or inline module with a name that could hold anything.
pub(super) fn vague_module_name(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let cure = |name: &str| format!("module `{name}` could hold anything; name it after the idea it holds");
    let stems = file.path.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str().map(|name| name.trim_end_matches(".rs")),
        _ => None,
    });
    let mut findings: Vec<Finding> =
        stems.filter(|stem| VAGUE_MODULES.contains(stem)).map(|stem| file.finding(1, cure(stem))).collect();
    for (number, line) in file.lines() {
        let name = after_keywords(line, &["mod"]).unwrap_or_default();
        if line.trim_end().ends_with('{') && VAGUE_MODULES.contains(&name) {
            findings.push(file.finding(number, cure(name)));
        }
    }
    findings
}

/// No type whose name says only that it is a thing.
pub(super) fn vague_type_name(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    file.lines()
        // An associated type has the name that its trait gave it.
        .filter(|(_, line)| !line.starts_with("    type "))
        .filter_map(|(number, line)| {
            let name = after_keywords(line, &["struct", "enum", "trait", "type"])?;
            let suffix = VAGUE_SUFFIXES.iter().find(|suffix| name.ends_with(*suffix))?;
            Some(file.finding(number, format!("type `{name}`: `{suffix}` says nothing; name what it is")))
        })
        .collect()
}

/// An ignored test says why.
pub(super) fn bare_ignore(file: &SourceFile) -> Vec<Finding> {
    starts_with(file, &["#[ignore]", "#[ignore = \"\"]"], "say why: `#[ignore = \"soak: ten minutes\"]`")
}

/// An ignored test is one that `cargo xtask soak` or a machine with a GPU runs; its name says which.
pub(super) fn short_name_of_ignored_test(file: &SourceFile) -> Vec<Finding> {
    ignored_tests(file)
        .into_iter()
        .filter(|(_, name)| !IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .map(|(line, name)| {
            file.finding(
                line,
                format!("nothing runs the ignored test `{name}`; call it soak_.. or cuda_.., or run it"),
            )
        })
        .collect()
}

/// A lint is lifted by `expect` with a reason, which fails once it is no longer needed.
pub(super) fn allow_attribute(file: &SourceFile) -> Vec<Finding> {
    starts_with(file, &["#[allow(", "#![allow("], "write `#[expect(lint, reason = \"..\")]` instead")
}

/// Every task has an owner.
pub(super) fn bare_spawn(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    file.lines()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter(|(_, line)| ["tokio::spawn(", "tokio::task::spawn("].iter().any(|call| has_call(line, call)))
        .map(|(number, _)| file.finding(number, "spawn on a JoinSet or TaskTracker that the parent owns"))
        .collect()
}

/// The ignored tests of a file, with the line of the attribute.
pub(crate) fn ignored_tests(file: &SourceFile) -> Vec<(usize, String)> {
    if !file.is_rust() {
        return Vec::new();
    }
    let mut waiting = None;
    let mut tests = Vec::new();
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("#[ignore") {
            waiting = Some(number);
        } else if let (Some(at), Some(name)) = (waiting, after_keywords(line, &["fn"])) {
            tests.push((at, name.to_owned()));
            waiting = None;
        }
    }
    tests
}

fn starts_with(file: &SourceFile, patterns: &[&str], cure: &str) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    file.lines()
        .filter(|(_, line)| patterns.iter().any(|pattern| line.trim_start().starts_with(pattern)))
        .map(|(number, _)| file.finding(number, cure))
        .collect()
}

/// A call in code: not within a string, as far as one line can tell.
fn has_call(line: &str, call: &str) -> bool {
    line.find(call).is_some_and(|at| line[..at].matches('"').count().is_multiple_of(2))
}

/// The name that follows one of the keywords, after visibility and `async`, where a line begins with it.
fn after_keywords<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    let word = words.find(|word| !(word.starts_with("pub") || *word == "async" || *word == "unsafe"))?;
    if !keywords.contains(&word) {
        return None;
    }
    let name = words.next()?;
    let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
    Some(&name[..end])
}

/// House limit; the median is to stay under 180 and the 90th percentile under 400.
pub(super) const MAX_LINES: usize = 600;

const VAGUE_MODULES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

const VAGUE_SUFFIXES: &[&str] = &["Manager", "Helper", "Data", "Info"];

const IGNORED_PREFIXES: &[&str] = &["soak_", "cuda_"];
