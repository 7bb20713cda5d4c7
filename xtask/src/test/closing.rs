//! What a test runner says at its end: how many tests ran, passed, failed and were skipped.
//!
//! Reads the closing lines of cargo-nextest and of `cargo test`; it does not run anything.

use std::fmt;

/// The sum over all closing lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
    /// Names of skipped tests, without their modules, where the runner tells them.
    pub(super) skipped_names: Vec<String>,
    /// The lines themselves, as the runner wrote them.
    lines: Vec<String>,
}

/// Reads the closing lines; `None` if there are none, as when nothing could be built.
pub(super) fn read(output: &[String]) -> Option<Closing> {
    let mut closing = Closing::default();
    for line in output {
        let plain = without_colours(line);
        let plain = plain.trim();
        if let Some(name) = skipped_test(plain) {
            closing.skipped_names.push(name.to_owned());
        } else if plain.starts_with("Summary [") {
            closing.passed += count(plain, "passed");
            closing.failed += count(plain, "failed") + count(plain, "timed out");
            closing.skipped += count(plain, "skipped");
            closing.lines.push(plain.to_owned());
        } else if plain.starts_with("test result:") {
            closing.passed += count(plain, "passed");
            closing.failed += count(plain, "failed");
            closing.skipped += count(plain, "ignored");
            // One line per test binary; those without tests would only hide the others.
            if count(plain, "passed") + count(plain, "failed") + count(plain, "ignored") > 0 {
                closing.lines.push(plain.to_owned());
            }
        }
    }
    (!closing.lines.is_empty()).then_some(closing)
}

/// The name of a test that was left out: `test a::b ... ignored, why`, and `SKIP [ 0.0s] crate a::b`.
fn skipped_test(line: &str) -> Option<&str> {
    let path = match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... ignored")?.0,
        None => line.strip_prefix("SKIP ")?.rsplit(' ').next()?,
    };
    path.rsplit("::").next()
}

impl Closing {
    /// Tests that were skipped although none of that name is meant to be.
    pub(super) fn unexpected(&self, expected: &[String]) -> Vec<&str> {
        let names = self.skipped_names.iter().map(String::as_str);
        names.filter(|name| !expected.iter().any(|known| known == name)).collect()
    }

    /// How many tests were left out, and which are meant to be.
    pub(super) fn skips(&self, expected: &[String]) -> String {
        let names = if expected.is_empty() { "none".to_owned() } else { expected.join(", ") };
        format!("skipped: {} (marked to be run by `cargo xtask soak` or with a GPU: {names})", self.skipped)
    }
}

impl fmt::Display for Closing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(out, "{line}")?;
        }
        write!(out, "tests: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The number before a word: `3` of `3 skipped`, also of `21 passed (1 slow)`.
fn count(line: &str, word: &str) -> usize {
    line.split([',', ';', ':', '.'])
        .filter_map(|part| part.trim().split_once(' '))
        .find(|(_, rest)| *rest == word || rest.starts_with(&format!("{word} ")))
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

/// Drops ANSI escape sequences.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_and_doc_tests_add_up() {
        let output = lines(&[
            "     Running 1 test",
            "\u{1b}[32;1m     Summary\u{1b}[0m [   0.511s] \u{1b}[1m21\u{1b}[0m tests run: \u{1b}[1m20\u{1b}[0m passed (1 slow), 1 failed, 2 skipped",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        let closing = read(&output).unwrap();
        assert_eq!((closing.passed, closing.failed, closing.skipped), (23, 1, 3));
        assert_eq!(closing.lines.len(), 2);
        assert!(closing.to_string().ends_with("tests: 23 passed, 1 failed, 3 skipped"), "{closing}");
    }

    #[test]
    fn output_without_closing_lines_is_no_success() {
        assert_eq!(read(&lines(&["error: could not compile `router`"])), None);
    }

    #[test]
    fn a_test_skipped_in_place_of_another_is_named() {
        let output = lines(&[
            "test soak::soak_churn ... ignored, soak: an hour",
            "test driver::tests::answers ... ignored",
            "        SKIP [         ] (1/3) router::tests cli::explains",
            "test driver::tests::works ... ok",
            "test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        let expected = ["soak_churn".to_owned(), "soak_other".to_owned(), "soak_third".to_owned()];
        assert_eq!(read(&output).unwrap().unexpected(&expected), ["answers", "explains"]);
    }

    #[test]
    fn timeouts_count_as_failures() {
        let output = lines(&["Summary [ 60.1s] 2 tests run: 1 passed, 1 timed out, 0 skipped"]);
        assert_eq!(read(&output).unwrap().failed, 1);
    }

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(ToString::to_string).collect()
    }
}
