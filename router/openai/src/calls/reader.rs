//! Reads calls out of a model's text while it is being written.
//!
//! ```text
//! start -> text <-> opened -> object | xml | name -> arguments -> between -> text
//! ```
//! Until a call has begun, everything since its tag is held back (bounded), and given back as content if it turns out to
//! be no call; nothing of it is searched again, so the work is linear. Space in front of calls and behind the last one
//! belongs to nobody and is dropped.

use std::sync::Arc;

use super::ToolFormat;
use super::object::{CallObject, Outcome};
use super::tag::TagScan;
use super::value::ValueScan;
use super::xml::XmlCall;
use crate::request::{Tool, is_function_name};
use crate::writer::Part;

/// A reader of one choice's text.
#[derive(Debug)]
pub(crate) struct CallReader {
    format: ToolFormat,
    tools: Arc<[Tool]>,
    state: State,
    tags: TagScan,
    space: Space,
    /// The text since the tag, as long as no call has begun.
    held: String,
    /// Between the brackets of a list of calls.
    list: bool,
    /// No tag announced the calls, so only what is surely one is one.
    strict: bool,
    last: Last,
}

/// Whether there was a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Last {
    /// Not yet.
    Nothing,
    /// It was the last thing there was.
    Call,
    /// It was, and other things since.
    Text,
}

#[derive(Debug)]
enum State {
    /// Nothing but space so far, where calls need no tag.
    Start,
    /// Content.
    Text,
    /// Behind a tag, a bracket or a comma.
    Opened,
    Object(CallObject),
    Xml(XmlCall),
    /// Mistral's `name[ARGS]`; what follows the name.
    Name {
        name: String,
        tail: String,
    },
    /// Mistral's arguments; whether they have begun.
    Arguments(ValueScan, bool),
    /// Between two calls without tags of their own.
    Between,
}

impl CallReader {
    pub(crate) fn new(format: ToolFormat, tools: Arc<[Tool]>) -> Self {
        let untagged = matches!(format, ToolFormat::Llama | ToolFormat::Json);
        Self {
            format,
            tools,
            state: if untagged { State::Start } else { State::Text },
            tags: TagScan::default(),
            space: Space::default(),
            held: String::new(),
            list: false,
            strict: untagged,
            last: Last::Nothing,
        }
    }

    /// Takes the next piece of the text.
    pub(crate) fn push(&mut self, text: &str, sink: &mut dyn FnMut(Part<'_>)) {
        let mut rest = text;
        while !rest.is_empty() {
            let used = self.step(rest, sink);
            rest = &rest[used..];
            if self.held.len() > MAX_HELD {
                self.no_call(sink);
            }
        }
    }

    /// The text has ended.
    pub(crate) fn finish(&mut self, sink: &mut dyn FnMut(Part<'_>)) {
        match &mut self.state {
            State::Object(object) => object.finish(sink),
            State::Xml(call) => call.finish(sink),
            _ => {}
        }
        let space = &mut self.space;
        self.tags.give_up(&mut |text| space.content(text, sink));
        let held = std::mem::take(&mut self.held);
        self.space.content(&held, sink);
        if self.last == Last::Nothing {
            self.space.give_back(sink);
        }
    }

    /// Whether as little is held back as promised.
    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.held.len() <= MAX_HELD && self.space.pending.len() <= MAX_SPACE
    }

    /// Uses some of the text, or goes on to another state.
    fn step(&mut self, text: &str, sink: &mut dyn FnMut(Part<'_>)) -> usize {
        let byte = text.as_bytes()[0];
        let space = is_space(byte);
        match &mut self.state {
            State::Start | State::Opened | State::Between if space => self.hold(byte),
            State::Start => match byte {
                b'{' | b'[' => {
                    self.state = State::Opened;
                    0
                }
                _ => self.no_call(sink),
            },
            State::Text => self.text(text, sink),
            State::Opened => self.opened(byte, sink),
            State::Object(object) => {
                let names: Vec<&str>;
                let strict = if self.strict && !object.has_begun() {
                    names = self.tools.iter().map(|tool| tool.name.as_str()).collect();
                    Some(names.as_slice())
                } else {
                    None
                };
                let (used, outcome) = object.push(text, strict, sink);
                let begun = object.has_begun();
                self.after_markup(&text[..used], begun, outcome, sink);
                used
            }
            State::Xml(call) => {
                let (used, outcome) = call.push(text, &self.tools, sink);
                let begun = call.has_begun();
                self.after_markup(&text[..used], begun, outcome, sink);
                used
            }
            State::Name { .. } => self.name(byte, sink),
            State::Arguments(scan, begun) => {
                if space && !*begun {
                    return 1;
                }
                *begun = true;
                let (used, ended) = scan.scan(text);
                if used > 0 {
                    sink(Part::CallArguments(&text[..used]));
                }
                if ended {
                    self.call_ends();
                }
                used
            }
            State::Between => match byte {
                b',' if self.list => {
                    self.state = State::Opened;
                    self.hold(byte)
                }
                b']' if self.list => {
                    self.list = false;
                    self.held.clear();
                    self.state = State::Text;
                    1
                }
                b';' if !self.list => self.hold(byte),
                b'{' if !self.list => {
                    self.state = State::Opened;
                    0
                }
                _ => self.no_call(sink),
            },
        }
    }

    fn text(&mut self, text: &str, sink: &mut dyn FnMut(Part<'_>)) -> usize {
        let tags: &[&str] = match self.format {
            ToolFormat::Hermes => &[CALL, END_CALL],
            ToolFormat::Llama => &["<|python_tag|>"],
            ToolFormat::Mistral => &["[TOOL_CALLS]"],
            ToolFormat::Json => &[],
        };
        let (space, last) = (&mut self.space, &mut self.last);
        let plain = &mut |text: &str| {
            // Some models close one brace too many.
            let text = if *last == Last::Call { text.trim_start_matches(is_leftover) } else { text };
            if !text.is_empty() {
                last.text();
                space.content(text, sink);
            }
        };
        let Some((used, tag)) = self.tags.scan(text, tags, plain) else { return text.len() };
        if tags[tag] == END_CALL {
            // Where no call has ended it is text.
            if self.last != Last::Call {
                self.space.content(END_CALL, sink);
            }
            self.last.text();
        } else {
            self.held = self.space.take();
            self.held.push_str(tags[tag]);
            self.strict = false;
            self.list = false;
            self.state = State::Opened;
        }
        used
    }

    fn opened(&mut self, byte: u8, sink: &mut dyn FnMut(Part<'_>)) -> usize {
        match (byte, self.format) {
            (b'{', _) => {
                self.state = State::Object(CallObject::new());
                self.hold(byte)
            }
            (b'<', ToolFormat::Hermes) => {
                self.state = State::Xml(XmlCall::new());
                0
            }
            (b'[', ToolFormat::Llama | ToolFormat::Mistral | ToolFormat::Json) if !self.list => {
                self.list = true;
                self.hold(byte)
            }
            (_, ToolFormat::Mistral) if !self.list && is_name(byte) => {
                self.state = State::Name { name: String::new(), tail: String::new() };
                0
            }
            _ => self.no_call(sink),
        }
    }

    /// A letter of `name`, or of `[CALL_ID]..` and `[ARGS]` behind it.
    fn name(&mut self, byte: u8, sink: &mut dyn FnMut(Part<'_>)) -> usize {
        let State::Name { name, tail } = &mut self.state else { return 0 };
        if tail.is_empty() && is_name(byte) {
            name.push(char::from(byte));
            return self.hold(byte);
        }
        let arguments = tail.ends_with(ARGS) || (tail.is_empty() && byte == b'{');
        if arguments {
            if !is_function_name(name) {
                return self.no_call(sink);
            }
            sink(Part::CallBegin { name });
            self.held.clear();
            self.state = State::Arguments(ValueScan::default(), false);
            return 0;
        }
        if tail.is_empty() && is_space(byte) {
            return self.hold(byte);
        }
        tail.push(char::from(byte));
        let fits = byte.is_ascii()
            && (ARGS.starts_with(&**tail) || CALL_ID.starts_with(&**tail) || tail.starts_with(CALL_ID))
            && tail.len() <= MAX_TAIL;
        if fits {
            return self.hold(byte);
        }
        self.no_call(sink)
    }

    /// Text went into a call's markup.
    fn after_markup(&mut self, used: &str, begun: bool, outcome: Outcome, sink: &mut dyn FnMut(Part<'_>)) {
        if begun {
            self.held.clear();
        } else {
            self.held.push_str(used);
        }
        match outcome {
            Outcome::More => {}
            Outcome::Done => self.call_ends(),
            // What has begun can't be taken back; the rest is content.
            Outcome::NoCall if begun => self.call_ends(),
            Outcome::NoCall => {
                self.no_call(sink);
            }
        }
    }

    fn call_ends(&mut self) {
        self.last = Last::Call;
        let between = self.list || matches!(self.format, ToolFormat::Llama | ToolFormat::Json);
        self.state = if between { State::Between } else { State::Text };
    }

    /// What was held back is content after all.
    fn no_call(&mut self, sink: &mut dyn FnMut(Part<'_>)) -> usize {
        self.list = false;
        self.state = State::Text;
        let held = std::mem::take(&mut self.held);
        self.space.content(&held, sink);
        0
    }

    fn hold(&mut self, byte: u8) -> usize {
        self.held.push(char::from(byte));
        1
    }
}

impl Last {
    fn text(&mut self) {
        if *self == Self::Call {
            *self = Self::Text;
        }
    }
}

/// Content on its way out. Space at its end waits for what follows.
#[derive(Debug, Default)]
struct Space {
    pending: String,
    /// So much space came that it is content.
    flowing: bool,
}

impl Space {
    fn content(&mut self, text: &str, sink: &mut dyn FnMut(Part<'_>)) {
        let solid = text.trim_end_matches(|c: char| c.is_ascii() && is_space(c as u8));
        if !solid.is_empty() {
            self.flowing = false;
            if self.pending.is_empty() {
                sink(Part::Content(solid));
            } else {
                // One piece, and so one event of a stream.
                self.pending.push_str(solid);
                self.give_back(sink);
            }
        }
        let space = &text[solid.len()..];
        if self.flowing && !space.is_empty() {
            sink(Part::Content(space));
            return;
        }
        self.pending.push_str(space);
        if self.pending.len() > MAX_SPACE {
            self.give_back(sink);
            self.flowing = true;
        }
    }

    fn give_back(&mut self, sink: &mut dyn FnMut(Part<'_>)) {
        if !self.pending.is_empty() {
            sink(Part::Content(&std::mem::take(&mut self.pending)));
        }
    }

    fn take(&mut self) -> String {
        std::mem::take(&mut self.pending)
    }
}

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

const fn is_leftover(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '}')
}

const CALL: &str = "<tool_call>";
const END_CALL: &str = "</tool_call>";
const ARGS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";
/// Between a name and its arguments: both tags and an id of nine letters, with room.
const MAX_TAIL: usize = 64;
/// Space that may belong to nobody; more is content.
const MAX_SPACE: usize = 256;
/// A name and arguments in front of it, with their markup.
const MAX_HELD: usize = 32 << 10;
