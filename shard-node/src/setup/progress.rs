//! What set-up is doing, for whoever watches. [`Lines`] writes it to a terminal or a log.

use std::io::Write;

use super::packages::Package;

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Another set-up works on the same directory.
    Waiting,
    /// Nothing to do for this part.
    Ready {
        /// The part, with its place.
        what: String,
    },
    /// A download goes on.
    Fetching {
        /// The package.
        package: &'a Package,
        /// Bytes so far.
        bytes: u64,
    },
    /// A file's hash is computed.
    Checking {
        /// The file's name.
        what: &'a str,
    },
    /// A wheel is unpacked.
    Unpacking {
        /// The wheel's name.
        what: &'a str,
        /// Bytes written so far.
        bytes: u64,
    },
}

/// Somebody who watches a set-up.
pub trait Progress {
    /// Called from the thread that sets up, up to some thousand times.
    fn event(&mut self, event: &Event<'_>);
}

/// Writes events as lines. On a terminal the line of a download is rewritten in place; elsewhere one line per
/// tenth appears.
#[derive(Debug)]
pub struct Lines<W> {
    out: W,
    terminal: bool,
    last: Option<(String, u64)>,
    open_line: bool,
}

impl<W: Write> Lines<W> {
    /// Lines for that writer.
    pub fn new(out: W, terminal: bool) -> Self {
        Self { out, terminal, last: None, open_line: false }
    }

    /// The writer, with what was written.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, text: &str) {
        let end = if std::mem::take(&mut self.open_line) { "\n" } else { "" };
        // Nobody may be there to read; set-up goes on all the same.
        let _ = writeln!(self.out, "{end}{text}");
    }

    /// A running count: `step` is what must change before another line is worth it in a log.
    fn count(&mut self, key: &str, step: u64, text: &str) {
        let now = (key.to_owned(), step);
        if self.last.as_ref() == Some(&now) {
            return;
        }
        let same_key = self.last.as_ref().is_some_and(|(last, _)| last == key);
        if self.terminal {
            let begin = if same_key || !self.open_line { "\r" } else { "\n" };
            let _ = write!(self.out, "{begin}{text}\x1b[K");
            let _ = self.out.flush();
            self.open_line = true;
        } else {
            self.line(text);
        }
        self.last = Some(now);
    }
}

impl<W: Write> Progress for Lines<W> {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Waiting => self.line("another set-up works on this directory, waiting for it"),
            Event::Ready { what } => self.line(&format!("ready: {what}")),
            Event::Checking { what } => {
                let key = format!("check {what}");
                self.count(&key, 0, &format!("checking {what}"));
            }
            Event::Fetching { package, bytes } => {
                let total = package.bytes.max(1);
                let text = format!(
                    "fetching {} {} of {}",
                    package.requirement,
                    megabytes(*bytes),
                    megabytes(package.bytes)
                );
                let step = if self.terminal { bytes / 100_000 } else { bytes * 10 / total };
                self.count(&package.requirement, step, &text);
            }
            Event::Unpacking { what, bytes } => {
                let step = bytes / if self.terminal { 10_000_000 } else { 200_000_000 };
                self.count(
                    &format!("unpack {what}"),
                    step,
                    &format!("unpacking {what} {}", megabytes(*bytes)),
                );
            }
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
