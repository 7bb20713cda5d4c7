//! The items of a response's output: thoughts, a message, a call.

use crate::json::write_text;

/// An item, as far as it is known.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) id: String,
    /// Its text, or a call's arguments.
    pub(super) text: String,
    /// Of the tokens of its text, as JSON without brackets.
    logprobs: Vec<u8>,
    /// It was not finished.
    pub(super) cut_off: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Reasoning,
    Message,
    Call { id: String, name: String },
}

/// What a kind of item is called in events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    prefix: &'static str,
    pub(super) delta: &'static str,
    pub(super) done: &'static str,
    /// The field of `done` with all of the text.
    pub(super) field: &'static str,
    /// The type of its part of content, if it has any.
    pub(super) part: Option<&'static str>,
}

/// How far something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

impl Item {
    /// An empty item. `suffix` and `serial` make its id unique.
    pub(super) fn new(kind: Kind, suffix: &str, serial: usize) -> Self {
        let id = format!("{}_{suffix}_{serial}", kind.names().prefix);
        Self { kind, id, text: String::new(), logprobs: Vec::new(), cut_off: false }
    }

    pub(super) const fn status(&self) -> Status {
        if self.cut_off { Status::Incomplete } else { Status::Completed }
    }

    pub(super) fn add_logprobs(&mut self, list: &[u8]) {
        if !self.logprobs.is_empty() && !list.is_empty() {
            self.logprobs.push(b',');
        }
        self.logprobs.extend_from_slice(list);
    }

    /// Appends it; without its content when it has only just been added.
    pub(super) fn write(&self, status: Status, full: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        write_text(&self.id, out);
        match &self.kind {
            Kind::Reasoning => out.extend_from_slice(b",\"type\":\"reasoning\",\"summary\":[],\"content\":["),
            Kind::Message => {
                out.extend_from_slice(b",\"type\":\"message\",\"role\":\"assistant\",\"content\":[");
            }
            Kind::Call { id, name } => {
                out.extend_from_slice(b",\"type\":\"function_call\",\"call_id\":");
                write_text(id, out);
                out.extend_from_slice(b",\"name\":");
                write_text(name, out);
                out.extend_from_slice(b",\"arguments\":");
                write_text(if full { &self.text } else { "" }, out);
            }
        }
        if self.kind.names().part.is_some() {
            if full {
                self.write_part(true, out);
            }
            out.push(b']');
        }
        out.extend_from_slice(b",\"status\":");
        write_text(status.name(), out);
        out.push(b'}');
    }

    /// Appends its part of content.
    pub(super) fn write_part(&self, full: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":");
        write_text(self.kind.names().part.unwrap_or_default(), out);
        out.extend_from_slice(b",\"text\":");
        write_text(if full { &self.text } else { "" }, out);
        if self.kind == Kind::Message {
            out.extend_from_slice(b",\"annotations\":[]");
            self.write_logprobs(full, out);
        }
        out.push(b'}');
    }

    /// Appends what the event that ends its text or arguments says beside these.
    pub(super) fn write_done_fields(&self, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Reasoning => {}
            Kind::Message => self.write_logprobs(true, out),
            Kind::Call { name, .. } => {
                out.extend_from_slice(b",\"name\":");
                write_text(name, out);
            }
        }
    }

    fn write_logprobs(&self, full: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"logprobs\":[");
        if full {
            out.extend_from_slice(&self.logprobs);
        }
        out.push(b']');
    }
}

impl Kind {
    pub(super) const fn names(&self) -> Names {
        match self {
            Self::Reasoning => Names {
                prefix: "rs",
                delta: "response.reasoning_text.delta",
                done: "response.reasoning_text.done",
                field: "text",
                part: Some("reasoning_text"),
            },
            Self::Message => Names {
                prefix: "msg",
                delta: "response.output_text.delta",
                done: "response.output_text.done",
                field: "text",
                part: Some("output_text"),
            },
            Self::Call { .. } => Names {
                prefix: "fc",
                delta: "response.function_call_arguments.delta",
                done: "response.function_call_arguments.done",
                field: "arguments",
                part: None,
            },
        }
    }
}

impl Status {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}
