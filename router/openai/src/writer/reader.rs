//! From a model's text to the parts of an answer: thoughts, content, calls of tools.
//!
//! What comes out does not depend on how the text is cut, and everything that is held back is bounded.

use std::sync::Arc;

use super::thoughts::{Thinking, Thoughts};
use crate::calls::{CallReader, ToolFormat};
use crate::request::{Chat, Constraint, Tool};

/// A part of an answer, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// More of the thoughts before the answer.
    Reasoning(&'a str),
    /// More of the answer's text.
    Content(&'a str),
    /// A call of a tool begins.
    CallBegin {
        /// The tool.
        name: &'a str,
    },
    /// More of the arguments of the call that began last: JSON.
    CallArguments(&'a str),
}

/// How a model's text is to be read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reading {
    /// Whether thoughts come first.
    pub thinking: Thinking,
    /// How calls are written, and which tools there are; `None`: all is text.
    pub calls: Option<(ToolFormat, Arc<[Tool]>)>,
}

/// Reads the text of one choice.
#[derive(Debug)]
pub struct TextReader {
    thoughts: Thoughts,
    calls: Option<CallReader>,
}

impl Reading {
    /// How the answer to a chat is to be read. `template`: the model's; `prompt`: what it made of the chat.
    pub fn new(chat: &Chat, constraint: &Constraint, template: &str, prompt: &str) -> Self {
        let tools = || Arc::from(chat.tools.list.as_slice());
        match constraint {
            // The grammar leaves room for nothing else.
            Constraint::ToolCall(_) => {
                Self { thinking: Thinking::Off, calls: Some((ToolFormat::Json, tools())) }
            }
            Constraint::JsonObject | Constraint::JsonSchema(_) => Self::default(),
            Constraint::None => Self {
                thinking: Thinking::detect(template, prompt),
                calls: chat.tools.may_be_called().then(|| (ToolFormat::detect(template), tools())),
            },
        }
    }

    /// Special tokens that must be shown to the reader as text.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        let thinking: &[&str] = if self.thinking == Thinking::Off { &[] } else { &["<think>", "</think>"] };
        let calls = self.calls.as_ref().map_or(&[][..], |(format, _)| format.markers());
        thinking.iter().chain(calls).copied()
    }

    pub(super) fn wants_mistral_ids(&self) -> bool {
        matches!(self.calls, Some((ToolFormat::Mistral, _)))
    }
}

impl TextReader {
    /// A reader at the beginning of a text.
    pub fn new(reading: &Reading) -> Self {
        let calls = reading.calls.as_ref().map(|(format, tools)| CallReader::new(*format, tools.clone()));
        Self { thoughts: Thoughts::new(reading.thinking), calls }
    }

    /// Takes the next piece and gives the parts that are certain now. No part is empty.
    pub fn push(&mut self, text: &str, sink: &mut dyn FnMut(Part<'_>)) {
        let Self { thoughts, calls } = self;
        thoughts.push(text, &mut |thought, text| part(calls.as_mut(), thought, text, sink));
    }

    /// The text has ended: what was held back is what it looks like.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Part<'_>)) {
        let Self { thoughts, calls } = self;
        thoughts.finish(&mut |thought, text| part(calls.as_mut(), thought, text, sink));
        if let Some(calls) = calls {
            calls.finish(sink);
        }
    }

    /// Whether the text so far ends inside of thoughts.
    pub const fn is_reasoning(&self) -> bool {
        self.thoughts.is_inside()
    }
}

fn part(calls: Option<&mut CallReader>, thought: bool, text: &str, sink: &mut dyn FnMut(Part<'_>)) {
    match calls {
        _ if thought => sink(Part::Reasoning(text)),
        Some(calls) => calls.push(text, sink),
        None => sink(Part::Content(text)),
    }
}
