//! A chat's answer as one `chat.completion` object.

use super::call_id::call_id;
use super::{AnswerWriter, Delta, Finish, Head, Part, Reading, TextReader, Usage, logprobs};
use crate::error::ApiError;
use crate::json::{write_text, write_u64};
use crate::request::ChatRequest;

/// Collects a chat's answer. Nothing is written before the end.
#[derive(Debug)]
pub struct ChatWhole {
    choices: Vec<Choice>,
    head: Head,
    logprobs: bool,
    mistral: bool,
    reasoning: u64,
}

#[derive(Debug)]
struct Choice {
    reader: TextReader,
    message: Message,
    /// As JSON.
    logprobs: Vec<u8>,
    finish: Finish,
}

#[derive(Debug, Default)]
struct Message {
    content: String,
    reasoning: String,
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
}

impl ChatWhole {
    /// The answer to a request, whose text is to be read in a certain way.
    pub fn new(request: &ChatRequest, head: &Head, reading: &Reading) -> Self {
        let choice = |_| Choice {
            reader: TextReader::new(reading),
            message: Message::default(),
            logprobs: Vec::new(),
            finish: Finish::Length,
        };
        Self {
            choices: (0..request.generation.n).map(choice).collect(),
            head: head.clone(),
            logprobs: request.generation.logprobs.is_some(),
            mistral: reading.wants_mistral_ids(),
            reasoning: 0,
        }
    }

    fn write_choice(&self, index: u32, choice: &mut Choice, out: &mut Vec<u8>) {
        let Message { content, reasoning, calls } = &choice.message;
        out.extend_from_slice(b"{\"index\":");
        write_u64(u64::from(index), out);
        out.extend_from_slice(b",\"message\":{\"role\":\"assistant\",\"content\":");
        if content.is_empty() && !calls.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            write_text(content, out);
        }
        out.extend_from_slice(b",\"refusal\":null");
        if !reasoning.is_empty() {
            out.extend_from_slice(b",\"reasoning_content\":");
            write_text(reasoning, out);
        }
        for (at, call) in calls.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b",\"tool_calls\":[{\"id\":" } else { b",{\"id\":" });
            write_text(&call_id(&self.head.id, index, at as u32, self.mistral), out);
            out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            write_text(&call.name, out);
            out.extend_from_slice(b",\"arguments\":");
            write_text(&call.arguments, out);
            out.extend_from_slice(b"}}");
        }
        out.extend_from_slice(if calls.is_empty() { b"}," } else { b"]}," });
        logprobs::write_list(self.logprobs, &mut choice.logprobs, out);
        out.extend_from_slice(b",\"finish_reason\":");
        write_text(choice.finish.chat_reason(!calls.is_empty()), out);
        out.push(b'}');
    }
}

impl AnswerWriter for ChatWhole {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn push(&mut self, index: u32, delta: &Delta<'_>, _: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        if let Some(token) = delta.logprob.as_ref().filter(|_| self.logprobs) {
            logprobs::write_chat(token, &mut choice.logprobs);
        }
        let Choice { reader, message, .. } = choice;
        reader.push(delta.text, &mut |part| message.add(part));
        if reader.is_reasoning() {
            self.reasoning += u64::from(delta.tokens);
        }
    }

    fn finish(&mut self, index: u32, finish: Finish, _: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        let Choice { reader, message, .. } = choice;
        reader.finish(&mut |part| message.add(part));
        choice.finish = finish;
    }

    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        self.head.write("chat.completion", out);
        out.extend_from_slice(b",\"choices\":[");
        let mut choices = std::mem::take(&mut self.choices);
        for (index, choice) in choices.iter_mut().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.write_choice(index as u32, choice, out);
        }
        out.extend_from_slice(b"],\"usage\":");
        usage.write_completion(self.reasoning, out);
        out.push(b'}');
    }

    fn fail(&mut self, _: &ApiError, _: &mut Vec<u8>) {}
}

impl Message {
    fn add(&mut self, part: Part<'_>) {
        match part {
            Part::Content(text) => self.content.push_str(text),
            Part::Reasoning(text) => self.reasoning.push_str(text),
            Part::CallBegin { name } => {
                self.calls.push(Call { name: name.to_owned(), arguments: String::new() });
            }
            Part::CallArguments(json) => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(json);
                }
            }
        }
    }
}
