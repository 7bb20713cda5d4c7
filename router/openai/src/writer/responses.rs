//! A response: as typed events with sequence numbers, or as one `response` object.
//!
//! ```text
//! created, in_progress, (item added, [part added, delta.., done, part done | argument deltas.., done], item done)..,
//! completed | incomplete | failed
//! ```
//! Thoughts, text and each call are items of their own; a new kind of part closes the item that is open. There is one
//! choice: the API has no `n`.

use super::call_id::call_id;
use super::output::{Item, Kind, Names, Status};
use super::{AnswerWriter, Delta, Finish, Head, Part, Reading, TextReader, Usage, logprobs};
use crate::error::ApiError;
use crate::json::{write_text, write_u64};
use crate::request::{Delivery, ResponsesRequest};

/// Writes a response.
#[derive(Debug)]
pub struct ResponsesWriter {
    reader: TextReader,
    response: Response,
}

/// All but the reader, so that what it reads can be written while it reads.
#[derive(Debug)]
struct Response {
    head: Head,
    echo: Vec<u8>,
    delivery: Delivery,
    logprobs: bool,
    mistral: bool,
    sequence: u64,
    /// All but the last are closed.
    items: Vec<Item>,
    open: bool,
    calls: u32,
    /// Probabilities of tokens whose text has not come out yet, as JSON.
    pending: Vec<u8>,
    finish: Finish,
    reasoning: u64,
}

impl ResponsesWriter {
    /// The answer to a request, whose text is to be read in a certain way, delivered as the request asks.
    pub fn new(request: &ResponsesRequest, head: &Head, reading: &Reading) -> Self {
        Self {
            reader: TextReader::new(reading),
            response: Response {
                head: head.clone(),
                echo: request.echo.clone(),
                delivery: request.generation.delivery,
                logprobs: request.generation.logprobs.is_some(),
                mistral: reading.wants_mistral_ids(),
                sequence: 0,
                items: Vec::new(),
                open: false,
                calls: 0,
                pending: Vec::new(),
                finish: Finish::Length,
                reasoning: 0,
            },
        }
    }
}

impl AnswerWriter for ResponsesWriter {
    fn begin(&mut self, out: &mut Vec<u8>) {
        for name in ["response.created", "response.in_progress"] {
            self.response.whole_event(name, Status::InProgress, None, None, out);
        }
    }

    fn push(&mut self, choice: u32, delta: &Delta<'_>, out: &mut Vec<u8>) {
        if choice != 0 {
            return;
        }
        let Self { reader, response } = self;
        if let Some(token) = delta.logprob.as_ref().filter(|_| response.logprobs) {
            logprobs::write_chat(token, &mut response.pending);
        }
        reader.push(delta.text, &mut |part| response.part(part, out));
        if reader.is_reasoning() {
            response.reasoning += u64::from(delta.tokens);
        }
    }

    fn finish(&mut self, choice: u32, finish: Finish, out: &mut Vec<u8>) {
        if choice != 0 {
            return;
        }
        let Self { reader, response } = self;
        reader.finish(&mut |part| response.part(part, out));
        response.finish = finish;
        if response.items.is_empty() {
            response.add(Kind::Message, out);
        }
        response.close(finish, out);
    }

    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        let response = &mut self.response;
        let (name, status) = match response.finish {
            Finish::Stop => ("response.completed", Status::Completed),
            Finish::Length => ("response.incomplete", Status::Incomplete),
        };
        match response.delivery {
            Delivery::Whole => response.write(status, Some(usage), None, out),
            Delivery::Stream { .. } => response.whole_event(name, status, Some(usage), None, out),
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        self.response.whole_event("response.failed", Status::Failed, None, Some(error), out);
    }
}

impl Response {
    fn part(&mut self, part: Part<'_>, out: &mut Vec<u8>) {
        match part {
            Part::Reasoning(text) => self.text(Kind::Reasoning, text, out),
            Part::Content(text) => self.text(Kind::Message, text, out),
            Part::CallBegin { name } => {
                let id = call_id(&self.head.id, 0, self.calls, self.mistral);
                self.calls += 1;
                self.add(Kind::Call { id, name: name.to_owned() }, out);
            }
            Part::CallArguments(json) => {
                if let Some(item) = self.items.last_mut() {
                    item.text.push_str(json);
                    self.delta("response.function_call_arguments.delta", json, out);
                }
            }
        }
    }

    fn text(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        if !self.open || self.items.last().is_none_or(|item| item.kind != kind) {
            self.add(kind, out);
        }
        let Some(item) = self.items.last_mut() else { return };
        item.text.push_str(text);
        let name = item.kind.names().delta;
        self.delta(name, text, out);
    }

    /// Closes the item that is open and opens another.
    fn add(&mut self, kind: Kind, out: &mut Vec<u8>) {
        self.close(Finish::Stop, out);
        let serial = self.items.len();
        let suffix = self.head.id.strip_prefix("resp_").unwrap_or(&self.head.id);
        let item = Item::new(kind, suffix, serial);
        let has_part = item.kind.names().part.is_some();
        self.items.push(item);
        self.open = true;
        self.event("response.output_item.added", out, |response, out| {
            response.write_index(out);
            out.extend_from_slice(b",\"item\":");
            response.items[serial].write(Status::InProgress, false, out);
        });
        if has_part {
            self.event("response.content_part.added", out, |response, out| {
                response.write_part_place(out);
                out.extend_from_slice(b",\"part\":");
                response.items[serial].write_part(false, out);
            });
        }
    }

    fn delta(&mut self, name: &'static str, text: &str, out: &mut Vec<u8>) {
        let mut logprobs = Vec::new();
        let is_text = self.items.last().is_some_and(|item| item.kind == Kind::Message);
        if is_text && !self.pending.is_empty() {
            logprobs.append(&mut self.pending);
            if let Some(item) = self.items.last_mut() {
                item.add_logprobs(&logprobs);
            }
        }
        self.event(name, out, |response, out| {
            response.write_part_place(out);
            out.extend_from_slice(b",\"delta\":");
            write_text(text, out);
            if is_text {
                out.extend_from_slice(b",\"logprobs\":[");
                out.append(&mut logprobs);
                out.push(b']');
            }
        });
    }

    /// The item that is open is complete, or cut off.
    fn close(&mut self, finish: Finish, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.open) || self.items.is_empty() {
            return;
        }
        let last = self.items.len() - 1;
        let item = &mut self.items[last];
        if item.kind == Kind::Message && !self.pending.is_empty() {
            let rest = std::mem::take(&mut self.pending);
            item.add_logprobs(&rest);
        }
        item.cut_off = finish == Finish::Length;
        let status = item.status();
        let Names { done, field, part, .. } = item.kind.names();
        self.event(done, out, |response, out| {
            response.write_part_place(out);
            let item = &response.items[last];
            out.extend_from_slice(b",\"");
            out.extend_from_slice(field.as_bytes());
            out.extend_from_slice(b"\":");
            write_text(&item.text, out);
            item.write_done_fields(out);
        });
        if part.is_some() {
            self.event("response.content_part.done", out, |response, out| {
                response.write_part_place(out);
                out.extend_from_slice(b",\"part\":");
                response.items[last].write_part(true, out);
            });
        }
        self.event("response.output_item.done", out, |response, out| {
            response.write_index(out);
            out.extend_from_slice(b",\"item\":");
            response.items[last].write(status, true, out);
        });
    }

    /// An event with the whole response.
    fn whole_event(
        &mut self,
        name: &'static str,
        status: Status,
        usage: Option<&Usage>,
        error: Option<&ApiError>,
        out: &mut Vec<u8>,
    ) {
        self.event(name, out, |response, out| {
            out.extend_from_slice(b",\"response\":");
            response.write(status, usage, error, out);
        });
    }

    /// Writes an event of a stream; a whole answer has none.
    fn event(&mut self, name: &'static str, out: &mut Vec<u8>, fields: impl FnOnce(&Self, &mut Vec<u8>)) {
        if self.delivery == Delivery::Whole {
            return;
        }
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\ndata: {\"type\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"sequence_number\":");
        write_u64(self.sequence, out);
        self.sequence += 1;
        fields(self, out);
        out.extend_from_slice(b"}\n\n");
    }

    fn write_index(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"output_index\":");
        write_u64(self.items.len().saturating_sub(1) as u64, out);
    }

    fn write_part_place(&self, out: &mut Vec<u8>) {
        let Some(item) = self.items.last() else { return };
        out.extend_from_slice(b",\"item_id\":");
        write_text(&item.id, out);
        self.write_index(out);
        if item.kind.names().part.is_some() {
            out.extend_from_slice(b",\"content_index\":0");
        }
    }

    fn write(&self, status: Status, usage: Option<&Usage>, error: Option<&ApiError>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        write_text(&self.head.id, out);
        out.extend_from_slice(b",\"object\":\"response\",\"created_at\":");
        write_u64(self.head.created, out);
        out.extend_from_slice(b",\"status\":");
        write_text(status.name(), out);
        out.extend_from_slice(b",\"error\":");
        match error {
            Some(error) => {
                out.extend_from_slice(b"{\"code\":\"server_error\",\"message\":");
                write_text(error.message(), out);
                out.push(b'}');
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(match status {
            Status::Incomplete => b",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}",
            _ => b",\"incomplete_details\":null".as_slice(),
        });
        out.extend_from_slice(b",\"model\":");
        write_text(&self.head.model, out);
        out.extend_from_slice(b",\"system_fingerprint\":");
        write_text(&self.head.system_fingerprint, out);
        out.extend_from_slice(&self.echo);
        out.extend_from_slice(b",\"output\":[");
        if status != Status::InProgress {
            for (at, item) in self.items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                item.write(item.status(), true, out);
            }
        }
        out.extend_from_slice(b"],\"usage\":");
        match usage {
            Some(usage) => usage.write_response(self.reasoning, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests;
