//! A call written as a JSON object, `{"name":"f","arguments":{..}}`, read while it is being written.
//!
//! ```text
//! before key -> key -> colon -> before value -> name | arguments | other -> after value -> before key | done
//! ```
//! The call begins as soon as its name is certain; from then on arguments come out as they come in. Until then the
//! object may turn out to be something else.

use super::value::ValueScan;
use crate::request::is_function_name;
use crate::writer::Part;

/// An object that may be a call. Its opening brace is behind it.
#[derive(Debug)]
pub(super) struct CallObject {
    at: At,
    key: String,
    name: Option<String>,
    /// Arguments that came before it was certain that this is a call.
    early: String,
    begun: bool,
    /// Arguments have come.
    argued: bool,
}

/// What became of a piece of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// All of it was used.
    More,
    /// The object ends within it.
    Done,
    /// It is no call.
    NoCall,
}

#[derive(Debug)]
enum At {
    BeforeKey,
    Key {
        escaped: bool,
    },
    Colon,
    BeforeValue,
    Name {
        raw: String,
        escaped: bool,
    },
    Arguments(ValueScan),
    /// Arguments as a text of JSON, which some models write.
    Quoted {
        raw: String,
        escaped: bool,
    },
    Other(ValueScan),
    AfterValue,
}

impl CallObject {
    pub(super) const fn new() -> Self {
        Self {
            at: At::BeforeKey,
            key: String::new(),
            name: None,
            early: String::new(),
            begun: false,
            argued: false,
        }
    }

    /// Whether the call has begun: it can't be taken back then.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Takes text up to the object's end; gives how much of it was used. `strict`: without a tag around it, an object is
    /// a call only if it names one of these tools and has arguments.
    pub(super) fn push(
        &mut self,
        text: &str,
        strict: Option<&[&str]>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> (usize, Outcome) {
        let mut used = 0;
        while used < text.len() {
            let (more, outcome) = self.step(&text[used..], strict, sink);
            used += more;
            if outcome != Outcome::More {
                return (used, outcome);
            }
        }
        (used, Outcome::More)
    }

    /// The text has ended: what is known of the arguments is shown.
    pub(super) fn finish(&mut self, sink: &mut dyn FnMut(Part<'_>)) {
        if let At::Quoted { raw, .. } = &mut self.at
            && self.begun
        {
            let raw = std::mem::take(raw);
            // At most an escape is cut off, of twelve letters for a pair of surrogates.
            let json = (0..=12).find_map(|cut| unescaped(raw.get(..raw.len().checked_sub(cut)?)?));
            self.argue(&json.unwrap_or_default(), sink);
        }
    }

    fn step(
        &mut self,
        text: &str,
        strict: Option<&[&str]>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> (usize, Outcome) {
        let byte = text.as_bytes()[0];
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match &mut self.at {
            At::BeforeKey | At::Colon | At::BeforeValue | At::AfterValue if space => (1, Outcome::More),
            At::BeforeKey => match byte {
                b'"' => self.go(At::Key { escaped: false }),
                b'}' => self.end(strict, sink),
                _ => (0, Outcome::NoCall),
            },
            At::Key { escaped } => {
                if *escaped || byte == b'\\' {
                    *escaped = !*escaped;
                } else if byte == b'"' {
                    return self.go(At::Colon);
                }
                let c = text.chars().next().unwrap_or_default();
                if self.key.len() < MAX_KEY {
                    self.key.push(c);
                }
                (c.len_utf8(), Outcome::More)
            }
            At::Colon if byte == b':' => self.go(At::BeforeValue),
            At::Colon => (0, Outcome::NoCall),
            At::BeforeValue => self.begin_value(byte, strict, sink),
            At::Name { raw, escaped } => {
                let (used, ended) = quoted(text, raw, escaped, MAX_NAME);
                match ended {
                    Some(true) => {
                        let name = unescaped(raw);
                        (used, self.named(name, strict, sink))
                    }
                    Some(false) => (used, Outcome::NoCall),
                    None => (used, Outcome::More),
                }
            }
            At::Arguments(scan) => {
                let (used, ended) = scan.scan(text);
                if used > 0 {
                    self.argue(&text[..used], sink);
                }
                if ended {
                    self.at = At::AfterValue;
                }
                (used, if self.early.len() > MAX_EARLY { Outcome::NoCall } else { Outcome::More })
            }
            At::Quoted { raw, escaped } => {
                let (used, ended) = quoted(text, raw, escaped, MAX_EARLY);
                match ended {
                    Some(true) => {
                        let json = unescaped(raw).unwrap_or_default();
                        self.argue(&json, sink);
                        self.at = At::AfterValue;
                        (used, Outcome::More)
                    }
                    Some(false) => {
                        self.finish(sink);
                        (used, Outcome::NoCall)
                    }
                    None => (used, Outcome::More),
                }
            }
            At::Other(scan) => {
                let (used, ended) = scan.scan(text);
                if ended {
                    self.at = At::AfterValue;
                }
                (used, Outcome::More)
            }
            At::AfterValue => match byte {
                b',' => {
                    self.key.clear();
                    self.go(At::BeforeKey)
                }
                b'}' => self.end(strict, sink),
                _ => (0, Outcome::NoCall),
            },
        }
    }

    fn go(&mut self, to: At) -> (usize, Outcome) {
        self.at = to;
        (1, Outcome::More)
    }

    fn begin_value(
        &mut self,
        byte: u8,
        strict: Option<&[&str]>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> (usize, Outcome) {
        if matches!(byte, b',' | b'}' | b']' | b':') {
            return (0, Outcome::NoCall);
        }
        match self.key.as_str() {
            "name" if self.name.is_none() => {
                if byte != b'"' {
                    return (0, Outcome::NoCall);
                }
                self.go(At::Name { raw: String::new(), escaped: false })
            }
            "arguments" | "parameters" if !self.argued => {
                self.argued = true;
                if self.name.is_some() {
                    self.begin(sink);
                }
                if byte == b'"' {
                    return self.go(At::Quoted { raw: String::new(), escaped: false });
                }
                self.at = At::Arguments(ValueScan::default());
                (0, Outcome::More)
            }
            // What calls have beside name and arguments: anything, but not where every object looks like a call.
            "type" | "id" => self.other(),
            _ if strict.is_some() && !self.begun => (0, Outcome::NoCall),
            _ => self.other(),
        }
    }

    fn other(&mut self) -> (usize, Outcome) {
        self.at = At::Other(ValueScan::default());
        (0, Outcome::More)
    }

    fn named(
        &mut self,
        name: Option<String>,
        strict: Option<&[&str]>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Outcome {
        let Some(name) = name.filter(|name| is_function_name(name)) else { return Outcome::NoCall };
        if strict.is_some_and(|known| !known.contains(&name.as_str())) {
            return Outcome::NoCall;
        }
        self.name = Some(name);
        self.at = At::AfterValue;
        if strict.is_none() || self.argued {
            self.begin(sink);
        }
        Outcome::More
    }

    fn begin(&mut self, sink: &mut dyn FnMut(Part<'_>)) {
        if let Some(name) = self.name.as_deref().filter(|_| !self.begun) {
            sink(Part::CallBegin { name });
            self.begun = true;
            if !self.early.is_empty() {
                sink(Part::CallArguments(&std::mem::take(&mut self.early)));
            }
        }
    }

    fn argue(&mut self, json: &str, sink: &mut dyn FnMut(Part<'_>)) {
        if !self.begun {
            self.early.push_str(json);
        } else if !json.is_empty() {
            sink(Part::CallArguments(json));
        }
    }

    fn end(&mut self, strict: Option<&[&str]>, sink: &mut dyn FnMut(Part<'_>)) -> (usize, Outcome) {
        if !self.begun && (self.name.is_none() || strict.is_some()) {
            return (0, Outcome::NoCall);
        }
        self.begin(sink);
        if !self.argued {
            sink(Part::CallArguments("{}"));
        }
        (1, Outcome::Done)
    }
}

/// Takes a string's inside up to its closing quote: how much was used, and whether it ended (true) or is too long (false).
fn quoted(text: &str, raw: &mut String, escaped: &mut bool, most: usize) -> (usize, Option<bool>) {
    for (at, byte) in text.bytes().enumerate() {
        match (*escaped, byte) {
            (true, _) => *escaped = false,
            (false, b'\\') => *escaped = true,
            (false, b'"') => {
                raw.push_str(&text[..at]);
                return (at + 1, Some(true));
            }
            (false, _) => {}
        }
    }
    raw.push_str(text);
    (text.len(), (raw.len() > most).then_some(false))
}

fn unescaped(raw: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{raw}\"")).ok()
}

/// A key that is longer is none of ours.
const MAX_KEY: usize = 32;
/// A name of 64 letters, each escaped as six.
const MAX_NAME: usize = 384;
/// Arguments that can't be shown yet. Models write the name first.
const MAX_EARLY: usize = 16 << 10;
