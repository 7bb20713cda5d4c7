//! A text completion's answer: as `text_completion` chunks, or as one such object.

use super::chat_stream::DONE;
use super::logprobs::{CompletionLogprobs, write_nothing};
use super::{AnswerWriter, Delta, Finish, Head, Usage, write_failure};
use crate::error::ApiError;
use crate::json::{write_text, write_u64};
use crate::request::{CompletionRequest, Delivery};

/// Writes a text completion's answer.
#[derive(Debug)]
pub struct CompletionWriter {
    choices: Vec<Choice>,
    delivery: Delivery,
    logprobs: bool,
    /// `{..,"choices":[`
    head: Vec<u8>,
}

#[derive(Debug)]
struct Choice {
    /// Text that has not been written: all of it in a whole answer, none in a stream.
    text: String,
    logprobs: CompletionLogprobs,
    finish: Finish,
}

impl CompletionWriter {
    /// The answer to a request, delivered as it asks.
    pub fn new(request: &CompletionRequest, head: &Head) -> Self {
        let mut prefix = Vec::new();
        head.write("text_completion", &mut prefix);
        prefix.extend_from_slice(b",\"choices\":[");
        let choice = |_| Choice {
            text: String::new(),
            logprobs: CompletionLogprobs::default(),
            finish: Finish::Length,
        };
        Self {
            choices: (0..request.choices()).map(choice).collect(),
            delivery: request.generation.delivery,
            logprobs: request.generation.logprobs.is_some(),
            head: prefix,
        }
    }

    /// A chunk of a stream.
    fn chunk(&mut self, index: u32, text: &str, finish: Option<Finish>, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        choice.write(index, text, self.logprobs, finish, out);
        out.push(b']');
        if self.delivery == (Delivery::Stream { include_usage: true }) {
            out.extend_from_slice(b",\"usage\":null");
        }
        out.extend_from_slice(b"}\n\n");
    }
}

impl AnswerWriter for CompletionWriter {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn push(&mut self, index: u32, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        if let Some(token) = delta.logprob.as_ref().filter(|_| self.logprobs) {
            choice.logprobs.add(token);
        }
        choice.logprobs.advance(delta.text);
        match self.delivery {
            Delivery::Whole => choice.text.push_str(delta.text),
            Delivery::Stream { .. } if delta.text.is_empty() => {}
            Delivery::Stream { .. } => self.chunk(index, delta.text, None, out),
        }
    }

    fn finish(&mut self, index: u32, finish: Finish, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index as usize) else { return };
        choice.finish = finish;
        if matches!(self.delivery, Delivery::Stream { .. }) {
            self.chunk(index, "", Some(finish), out);
        }
    }

    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        match self.delivery {
            Delivery::Stream { include_usage } => {
                if include_usage {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(&self.head);
                    out.extend_from_slice(b"],\"usage\":");
                    usage.write_completion(0, out);
                    out.extend_from_slice(b"}\n\n");
                }
                out.extend_from_slice(DONE);
            }
            Delivery::Whole => {
                out.extend_from_slice(&self.head);
                for (index, choice) in self.choices.iter_mut().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    let (text, finish) = (std::mem::take(&mut choice.text), choice.finish);
                    choice.write(index as u32, &text, self.logprobs, Some(finish), out);
                }
                out.extend_from_slice(b"],\"usage\":");
                usage.write_completion(0, out);
                out.push(b'}');
            }
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        if matches!(self.delivery, Delivery::Stream { .. }) {
            write_failure(error, out);
        }
    }
}

impl Choice {
    fn write(&mut self, index: u32, text: &str, logprobs: bool, finish: Option<Finish>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"index\":");
        write_u64(u64::from(index), out);
        out.extend_from_slice(b",\"text\":");
        write_text(text, out);
        out.extend_from_slice(b",\"logprobs\":");
        if logprobs {
            self.logprobs.write(out);
        } else {
            write_nothing(out);
        }
        out.extend_from_slice(b",\"finish_reason\":");
        match finish {
            Some(finish) => write_text(finish.reason(), out),
            None => write_nothing(out),
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::writer::TokenLogprob;

    fn run(stream: bool, pieces: &[Vec<String>]) -> Vec<Value> {
        let prompts = vec!["x"; pieces.len()];
        let mut body = json!({"prompt": prompts, "stream": stream, "logprobs": 1});
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        let request = CompletionRequest::parse(body.to_string().as_bytes()).unwrap();
        let mut writer = CompletionWriter::new(&request, &Head { id: "cmpl-1".into(), ..Head::default() });
        let mut out = Vec::new();
        writer.begin(&mut out);
        for (index, pieces) in pieces.iter().enumerate() {
            for piece in pieces {
                let top = [(piece.as_bytes(), -1.0)];
                let logprob = TokenLogprob { bytes: piece.as_bytes(), logprob: -1.0, top: &top };
                writer.push(index as u32, &Delta::token(piece).with_logprob(logprob), &mut out);
            }
            writer.finish(index as u32, Finish::Length, &mut out);
        }
        writer.end(&Usage { prompt: 2, cached: 0, completion: 3, waste: 0 }, &mut out);
        let text = String::from_utf8(out).unwrap();
        let Some(events) = text.strip_suffix("data: [DONE]\n\n") else {
            return vec![serde_json::from_str(&text).unwrap()];
        };
        let events = events.split_terminator("\n\n");
        events.map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn a_streams_pieces_are_the_whole_answer(
            pieces in prop::collection::vec(prop::collection::vec("[a-z\u{e9}\u{1f600}\"\\\\\n]{0,4}", 0..6), 1..4),
        ) {
            let (chunks, whole) = (run(true, &pieces), run(false, &pieces).remove(0));
            prop_assert_eq!(&chunks.last().unwrap()["usage"], &whole["usage"]);
            for (index, own) in whole["choices"].as_array().unwrap().iter().enumerate() {
                let mut text = String::new();
                let mut lists = ["text_offset", "token_logprobs", "tokens", "top_logprobs"].map(|name| (name, Vec::new()));
                let mut finish = Value::Null;
                for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
                    if choice["index"] != json!(index) {
                        continue;
                    }
                    text.push_str(choice["text"].as_str().unwrap());
                    for (name, list) in &mut lists {
                        list.extend(choice["logprobs"][*name].as_array().cloned().unwrap_or_default());
                    }
                    finish = choice["finish_reason"].clone();
                }
                prop_assert_eq!(&text, &pieces[index].concat());
                prop_assert_eq!(&json!(text), &own["text"]);
                prop_assert_eq!((&finish, finish.as_str()), (&own["finish_reason"], Some("length")));
                for (name, list) in lists {
                    prop_assert_eq!(list.len(), pieces[index].len());
                    prop_assert_eq!(&list, &own["logprobs"][name].as_array().cloned().unwrap_or_default());
                }
            }
        }
    }
}
