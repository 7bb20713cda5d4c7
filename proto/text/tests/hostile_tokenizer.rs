//! A tokenizer with ten million merges is refused by name, quickly, without memory for them. In a process of its own,
//! because it looks at the process's peak memory.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::{Duration, Instant};

use proto_text::{Tokenizer, TokenizerError};

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn ten_million_merges_are_refused_within_bounded_time_and_memory() {
    let mut json = String::from(r#"{"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":["a a""#);
    // As text "a a" it is 60 MB, below the limit on bytes; as pairs 100 MB, above it.
    json.push_str(&r#","a a""#.repeat(9_999_999));
    json.push_str("]}}");
    let (before, start) = (peak_kib(), Instant::now());
    let error = Tokenizer::from_json(json.as_bytes()).unwrap_err();
    let (took, grown) = (start.elapsed(), peak_kib() - before);
    println!("{error} ({took:?}, {grown} KiB)");
    assert!(matches!(error, TokenizerError::TooMany { what: "merges", count: 10_000_000, .. }), "{error}");
    assert!(grown < 16 << 10, "{grown} KiB");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let pairs = json.replace(r#""a a""#, r#"["a","a"]"#);
    let (before, start) = (peak_kib(), Instant::now());
    assert!(matches!(Tokenizer::from_json(pairs.as_bytes()), Err(TokenizerError::TooLarge { .. })));
    assert!(start.elapsed() < Duration::from_secs(1) && peak_kib() - before < 16 << 10);
}
