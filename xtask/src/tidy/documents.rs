//! Rules about prose: the protocol document knows every frame, and no document claims what is not so.

use super::{Finding, SourceFile};

/// Every frame kind stands in `docs/PROTOCOL.md`, in backticks.
pub(super) fn missing_frame_kinds(files: &[SourceFile]) -> Vec<Finding> {
    let protocol = files.iter().find(|file| file.is(PROTOCOL)).map_or("", |file| file.text.as_str());
    let Some(frames) = files.iter().find(|file| file.is(FRAMES)) else { return Vec::new() };
    let kinds = frame_kinds(frames);
    if kinds.is_empty() {
        return vec![
            frames.finding(1, "no frame kinds found here; teach xtask/src/tidy/documents.rs the new form"),
        ];
    }
    kinds
        .into_iter()
        .filter(|(_, kind)| !protocol.contains(&format!("`{kind}`")))
        .map(|(line, kind)| {
            frames.finding(line, format!("frame kind `{kind}` is missing from {PROTOCOL}; describe it"))
        })
        .collect()
}

/// Words that promise more than this system gives.
pub(super) fn overclaims(file: &SourceFile) -> Vec<Finding> {
    if file.extension() != "md" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        let line = line.to_lowercase();
        for (word, cure) in OVERCLAIMS {
            if says(&line, word) {
                findings.push(file.finding(number, format!("\"{word}\": {cure}")));
            }
        }
    }
    findings
}

/// The lines `Name = number, limit ..;` of the table `kinds! { .. }`, with the names.
fn frame_kinds(file: &SourceFile) -> Vec<(usize, String)> {
    let table = file.lines().skip_while(|(_, line)| line.trim() != "kinds! {").skip(1);
    table
        .take_while(|(_, line)| line.trim() != "}")
        .filter_map(|(number, line)| {
            let (name, _) = line.trim().split_once(" = ")?;
            name.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| (number, name.to_owned()))
        })
        .collect()
}

/// Whether a lower-case line uses the word outside the phrases in which it is true.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let whole = !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        whole && !TRUE_PHRASES.iter().any(|phrase| phrase.starts_with(word) && line[at..].starts_with(phrase))
    })
}

const PROTOCOL: &str = "docs/PROTOCOL.md";
const FRAMES: &str = "proto/src/frame.rs";

/// What may not be claimed, and what to say instead.
const OVERCLAIMS: &[(&str, &str)] = &[
    ("trustless", "someone is always trusted; say who and for what"),
    ("zero-knowledge", "nothing of that kind is here; say that work is re-executed and judged"),
    ("zero knowledge", "nothing of that kind is here; say that work is re-executed and judged"),
    ("provably", "say what is checked, by whom, and with which error rate"),
    ("proved", "say what was measured or checked, and how"),
    ("private", "nodes that compute a prompt can read it; say who sees what"),
    ("anonymous", "peers and routers see addresses and keys; say who sees what"),
    ("tamper-proof", "say what is detected and by whom"),
    ("uncensorable", "anyone may run every part; blocking is not prevented"),
    ("unstoppable", "say which processes may die and what happens then"),
];

/// Where such a word is a term of its own.
const TRUE_PHRASES: &[&str] = &["private key"];
