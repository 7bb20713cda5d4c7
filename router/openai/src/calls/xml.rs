//! Qwen3-Coder's calls: `<function=f><parameter=x>1</parameter></function>`, read while they are being written.
//!
//! Values are bare text. What the tool's schema calls a string goes out letter by letter; the rest waits for its end and
//! is JSON if it reads as such, and a string otherwise.

use serde_json::Value;

use super::object::Outcome;
use super::reader::is_space;
use super::tag::TagScan;
use crate::json::{write_escaped, write_text};
use crate::request::{Tool, is_function_name};
use crate::writer::Part;

/// A call, from its first `<` on.
#[derive(Debug)]
pub(super) struct XmlCall {
    at: At,
    name: Option<String>,
    /// Parameters so far.
    count: u32,
}

#[derive(Debug)]
enum At {
    BeforeTag,
    Tag(String),
    Parameter(Parameter),
}

#[derive(Debug)]
struct Parameter {
    end: TagScan,
    /// Nothing of it has been seen.
    fresh: bool,
    /// A line break that belongs to the markup if it is the last letter.
    line: bool,
    /// What waits; `None` once it goes out as a string.
    waiting: Option<String>,
}

impl XmlCall {
    pub(super) const fn new() -> Self {
        Self { at: At::BeforeTag, name: None, count: 0 }
    }

    /// Whether the call has begun: it can't be taken back then.
    pub(super) const fn has_begun(&self) -> bool {
        self.name.is_some()
    }

    /// Takes text up to the call's end; gives how much of it was used.
    pub(super) fn push(
        &mut self,
        text: &str,
        tools: &[Tool],
        sink: &mut dyn FnMut(Part<'_>),
    ) -> (usize, Outcome) {
        let mut used = 0;
        while used < text.len() {
            let rest = &text[used..];
            let byte = rest.as_bytes()[0];
            match &mut self.at {
                At::BeforeTag if is_space(byte) => used += 1,
                At::BeforeTag if byte == b'<' => {
                    self.at = At::Tag(String::new());
                    used += 1;
                }
                At::BeforeTag => return (used, Outcome::NoCall),
                At::Tag(tag) if byte == b'>' => {
                    let tag = std::mem::take(tag);
                    used += 1;
                    let outcome = self.tag(&tag, tools, sink);
                    if outcome != Outcome::More {
                        return (used, outcome);
                    }
                }
                At::Tag(tag) => {
                    let c = rest.chars().next().unwrap_or_default();
                    tag.push(c);
                    used += c.len_utf8();
                    if tag.len() > MAX_TAG {
                        return (used, Outcome::NoCall);
                    }
                }
                At::Parameter(parameter) => {
                    let Parameter { end, fresh, line, waiting } = parameter;
                    let found = end.scan(rest, &["</parameter>"], &mut |text| {
                        value(text, fresh, line, waiting, sink);
                    });
                    used += found.map_or(rest.len(), |(used, _)| used);
                    if found.is_some() {
                        close(waiting.take(), sink);
                        self.at = At::BeforeTag;
                    }
                }
            }
        }
        (used, Outcome::More)
    }

    /// The text has ended: what is known of a value is shown.
    pub(super) fn finish(&mut self, sink: &mut dyn FnMut(Part<'_>)) {
        if let At::Parameter(Parameter { end, fresh, line, waiting }) = &mut self.at {
            end.give_up(&mut |text| value(text, fresh, line, waiting, sink));
            if let Some(text) = waiting.take().filter(|text| !text.is_empty()) {
                sink(Part::CallArguments(&text));
            }
        }
    }

    fn tag(&mut self, tag: &str, tools: &[Tool], sink: &mut dyn FnMut(Part<'_>)) -> Outcome {
        self.at = At::BeforeTag;
        let Some(function) = &self.name else {
            let name = tag.strip_prefix("function=").map(str::trim).filter(|name| is_function_name(name));
            let Some(name) = name else { return Outcome::NoCall };
            sink(Part::CallBegin { name });
            self.name = Some(name.to_owned());
            return Outcome::More;
        };
        if tag == "/function" {
            sink(Part::CallArguments(if self.count == 0 { "{}" } else { "}" }));
            return Outcome::Done;
        }
        let Some(key) = tag.strip_prefix("parameter=").map(str::trim) else { return Outcome::NoCall };
        let is_string = is_string(function, key, tools);
        let mut json = if self.count == 0 { b"{".to_vec() } else { b", ".to_vec() };
        write_text(key, &mut json);
        json.extend_from_slice(if is_string { b": \"" } else { b": " });
        sink(Part::CallArguments(&String::from_utf8_lossy(&json)));
        self.count += 1;
        let waiting = (!is_string).then(String::new);
        self.at = At::Parameter(Parameter { end: TagScan::default(), fresh: true, line: false, waiting });
        Outcome::More
    }
}

/// More of a value. One line break at its beginning and one at its end belong to the markup.
fn value(
    text: &str,
    fresh: &mut bool,
    line: &mut bool,
    waiting: &mut Option<String>,
    sink: &mut dyn FnMut(Part<'_>),
) {
    let text = if *fresh { text.strip_prefix('\n').unwrap_or(text) } else { text };
    *fresh = false;
    if text.is_empty() {
        return;
    }
    let mut whole = if std::mem::take(line) { "\n".to_owned() } else { String::new() };
    match text.strip_suffix('\n') {
        Some(text) => {
            *line = true;
            whole.push_str(text);
        }
        None => whole.push_str(text),
    }
    match waiting {
        None => string(&whole, sink),
        Some(waits) => {
            waits.push_str(&whole);
            if waits.len() > MAX_WAITING {
                let long = std::mem::take(waits);
                *waiting = None;
                sink(Part::CallArguments("\""));
                string(&long, sink);
            }
        }
    }
}

fn close(waiting: Option<String>, sink: &mut dyn FnMut(Part<'_>)) {
    let Some(text) = waiting else { return sink(Part::CallArguments("\"")) };
    if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
        return sink(Part::CallArguments(&text));
    }
    let mut json = Vec::new();
    write_text(&text, &mut json);
    sink(Part::CallArguments(&String::from_utf8_lossy(&json)));
}

fn string(text: &str, sink: &mut dyn FnMut(Part<'_>)) {
    let mut json = Vec::with_capacity(text.len());
    write_escaped(text, &mut json);
    if !json.is_empty() {
        sink(Part::CallArguments(&String::from_utf8_lossy(&json)));
    }
}

/// Whether the schema wants text, which is also what is written where there is no schema.
fn is_string(function: &str, key: &str, tools: &[Tool]) -> bool {
    let schema = tools.iter().find(|tool| tool.name == function).and_then(|tool| tool.parameters.as_ref());
    let wanted = schema.and_then(|schema| schema.get("properties")?.get(key));
    wanted.is_none_or(|wanted| wanted.get("type").and_then(Value::as_str) == Some("string"))
}

/// `parameter=` and a name.
const MAX_TAG: usize = 256;
/// A value that is no string and still not at its end goes out as one.
const MAX_WAITING: usize = 64 << 10;
