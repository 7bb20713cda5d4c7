//! `<think>..</think>` in front of an answer, as reasoning models write it.

use crate::calls::TagScan;

/// Where the text of an answer begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Thinking {
    /// In the answer: the model does not think aloud.
    #[default]
    Off,
    /// Thoughts may come first, in tags.
    MayBegin,
    /// Within thoughts: the prompt ends with their opening tag.
    Begun,
}

/// Takes thoughts apart from what follows them.
#[derive(Debug)]
pub(super) struct Thoughts {
    at: At,
    tags: TagScan,
    /// The text so far, until it is known whether it is thoughts.
    beginning: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Start,
    /// Space behind the opening tag.
    Opened,
    Inside,
    /// Space behind the closing tag.
    Closed,
    Answer,
}

impl Thinking {
    /// What a template's text and the end of a prompt that it made tell.
    pub fn detect(template: &str, prompt: &str) -> Self {
        if !template.contains("</think>") {
            return Self::Off;
        }
        if prompt.trim_end().ends_with("<think>") { Self::Begun } else { Self::MayBegin }
    }
}

impl Thoughts {
    pub(super) fn new(thinking: Thinking) -> Self {
        let at = match thinking {
            Thinking::Off => At::Answer,
            Thinking::MayBegin => At::Start,
            Thinking::Begun => At::Opened,
        };
        Self { at, tags: TagScan::default(), beginning: String::new() }
    }

    pub(super) const fn is_inside(&self) -> bool {
        matches!(self.at, At::Opened | At::Inside)
    }

    /// Takes a piece; hands on thoughts (true) and answer (false). Space around the tags is dropped, save in front of the
    /// closing one.
    pub(super) fn push(&mut self, text: &str, sink: &mut dyn FnMut(bool, &str)) {
        let mut rest = text;
        while !rest.is_empty() {
            if matches!(self.at, At::Opened | At::Closed) {
                rest = rest.trim_start();
                if rest.is_empty() {
                    return;
                }
                self.at = if self.at == At::Opened { At::Inside } else { At::Answer };
            }
            match self.at {
                At::Answer => return sink(false, rest),
                At::Start => {
                    let Some(c) = rest.chars().next() else { return };
                    self.beginning.push(c);
                    rest = &rest[c.len_utf8()..];
                    let solid = self.beginning.trim_start();
                    if solid == OPEN {
                        self.beginning.clear();
                        self.at = At::Opened;
                    } else if !OPEN.starts_with(solid) || self.beginning.len() > MAX_BEGINNING {
                        self.at = At::Answer;
                        sink(false, &std::mem::take(&mut self.beginning));
                    }
                }
                _ => {
                    let found = self.tags.scan(rest, &["</think>"], &mut |plain| sink(true, plain));
                    let Some((used, _)) = found else { return };
                    self.at = At::Closed;
                    rest = &rest[used..];
                }
            }
        }
    }

    /// The text has ended.
    pub(super) fn finish(&mut self, sink: &mut dyn FnMut(bool, &str)) {
        let inside = self.is_inside();
        let beginning = std::mem::take(&mut self.beginning);
        if !beginning.is_empty() {
            sink(false, &beginning);
        }
        self.tags.give_up(&mut |plain| sink(inside, plain));
    }
}

const OPEN: &str = "<think>";
/// The tag and space in front of it; with more there are no thoughts.
const MAX_BEGINNING: usize = 64;
