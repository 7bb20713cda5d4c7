//! A chat's answer as server-sent events: `chat.completion.chunk` objects, byte for byte as OpenAI's clients read them.
//!
//! What all chunks have in common is written once; a token then costs a copy of it, its own text and some digits.

use super::call_id::call_id;
use super::{AnswerWriter, Delta, Finish, Head, Part, Reading, TextReader, Usage, logprobs, write_failure};
use crate::error::ApiError;
use crate::json::{write_text, write_u64};
use crate::request::{ChatRequest, Delivery};

/// Writes a chat's answer as a stream.
#[derive(Debug)]
pub struct ChatStream {
    choices: Vec<Choice>,
    chunk: Chunk,
    include_usage: bool,
    /// Tokens of thoughts.
    reasoning: u64,
}

#[derive(Debug)]
struct Choice {
    reader: TextReader,
    /// Probabilities of tokens whose text has not come out yet, as JSON.
    logprobs: Vec<u8>,
    calls: u32,
}

/// Writes single chunks.
#[derive(Debug)]
struct Chunk {
    id: String,
    /// `data: {..,"choices":[`
    head: Vec<u8>,
    /// What follows the choices: `]`, and `"usage":null` where usage comes at the end.
    tail: &'static [u8],
    logprobs: bool,
    mistral: bool,
}

impl ChatStream {
    /// A stream of the answer to a request, whose text is to be read in a certain way.
    pub fn new(request: &ChatRequest, head: &Head, reading: &Reading) -> Self {
        let include_usage = request.generation.delivery == Delivery::Stream { include_usage: true };
        let mut prefix = b"data: ".to_vec();
        head.write("chat.completion.chunk", &mut prefix);
        prefix.extend_from_slice(b",\"choices\":[");
        let choice = |_| Choice { reader: TextReader::new(reading), logprobs: Vec::new(), calls: 0 };
        Self {
            choices: (0..request.generation.n).map(choice).collect(),
            chunk: Chunk {
                id: head.id.clone(),
                head: prefix,
                tail: if include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" },
                logprobs: request.generation.logprobs.is_some(),
                mistral: reading.wants_mistral_ids(),
            },
            include_usage,
            reasoning: 0,
        }
    }
}

impl AnswerWriter for ChatStream {
    fn begin(&mut self, out: &mut Vec<u8>) {
        for index in 0..self.choices.len() as u32 {
            self.chunk.open(index, out);
            out.extend_from_slice(b"{\"role\":\"assistant\",\"content\":\"\"");
            self.chunk.close(&mut Vec::new(), None, out);
        }
    }

    fn push(&mut self, index: u32, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        if let Some(token) = delta.logprob.as_ref().filter(|_| self.chunk.logprobs) {
            logprobs::write_chat(token, &mut choice.logprobs);
        }
        let Choice { reader, logprobs, calls } = choice;
        reader.push(delta.text, &mut |part| self.chunk.part(index, part, logprobs, calls, out));
        if choice.reader.is_reasoning() {
            self.reasoning += u64::from(delta.tokens);
        }
    }

    fn finish(&mut self, index: u32, finish: Finish, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        let Choice { reader, logprobs, calls } = choice;
        reader.finish(&mut |part| self.chunk.part(index, part, logprobs, calls, out));
        self.chunk.open(index, out);
        out.push(b'{');
        self.chunk.close(logprobs, Some(finish.chat_reason(*calls > 0)), out);
    }

    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            out.extend_from_slice(&self.chunk.head);
            out.extend_from_slice(b"],\"usage\":");
            usage.write_completion(self.reasoning, out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(DONE);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        write_failure(error, out);
    }
}

impl Chunk {
    fn part(&self, index: u32, part: Part<'_>, logprobs: &mut Vec<u8>, calls: &mut u32, out: &mut Vec<u8>) {
        self.open(index, out);
        match part {
            Part::Content(text) => {
                out.extend_from_slice(b"{\"content\":");
                write_text(text, out);
            }
            Part::Reasoning(text) => {
                out.extend_from_slice(b"{\"reasoning_content\":");
                write_text(text, out);
            }
            Part::CallBegin { name } => {
                out.extend_from_slice(b"{\"tool_calls\":[{\"index\":");
                write_u64(u64::from(*calls), out);
                out.extend_from_slice(b",\"id\":");
                write_text(&call_id(&self.id, index, *calls, self.mistral), out);
                out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
                write_text(name, out);
                out.extend_from_slice(b",\"arguments\":\"\"}}]");
                *calls += 1;
            }
            Part::CallArguments(json) => {
                out.extend_from_slice(b"{\"tool_calls\":[{\"index\":");
                write_u64(u64::from(calls.saturating_sub(1)), out);
                out.extend_from_slice(b",\"function\":{\"arguments\":");
                write_text(json, out);
                out.extend_from_slice(b"}}]");
            }
        }
        self.close(logprobs, None, out);
    }

    /// A chunk up to its delta.
    fn open(&self, index: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":");
        write_u64(u64::from(index), out);
        out.extend_from_slice(b",\"delta\":");
    }

    /// A chunk from its delta's closing brace on.
    fn close(&self, logprobs: &mut Vec<u8>, finish: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"},");
        logprobs::write_list(self.logprobs, logprobs, out);
        out.extend_from_slice(b",\"finish_reason\":");
        match finish {
            Some(reason) => write_text(reason, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
        out.extend_from_slice(self.tail);
    }
}

/// The end of every stream of completions.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";
