//! Answers of `/v1/chat/completions`.

use serde::Serialize;

use super::logprobs::{ChatLogprobs, TokenLogprob};
use super::{AnswerHead, FinishReason, Usage, event};
use crate::tools::{ToolCallParser, ToolFormat, ToolPart};

/// A request's answers under way.
#[derive(Clone, Debug)]
pub struct ChatAnswer {
    head: AnswerHead,
    choices: Vec<Choice>,
    /// Calls are named by it and their number.
    include_usage: bool,
    logprobs: bool,
}

#[derive(Clone, Debug, Default)]
struct Choice {
    calls: Option<ToolCallParser>,
    text: String,
    found: Vec<Call>,
    tokens: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

#[derive(Clone, Debug, Serialize)]
struct Call {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Clone, Debug, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

#[derive(Serialize)]
struct Object<'a, C: Serialize> {
    #[serde(flatten)]
    head: &'a AnswerHead,
    object: &'static str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[DeltaCall<'a>; 1]>,
}

#[derive(Serialize)]
struct DeltaCall<'a> {
    index: u32,
    #[serde(flatten)]
    call: &'a Call,
}

#[derive(Serialize)]
struct WholeChoice<'a> {
    index: usize,
    message: Message<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "<[Call]>::is_empty")]
    tool_calls: &'a [Call],
}

impl ChatAnswer {
    /// So many answers. `calls` is the format of the calls that may stand in them.
    pub fn new(
        head: AnswerHead,
        choices: usize,
        calls: Option<ToolFormat>,
        logprobs: bool,
        include_usage: bool,
    ) -> Self {
        let choice = Choice { calls: calls.map(ToolCallParser::new), ..Choice::default() };
        Self { head, choices: vec![choice; choices], include_usage, logprobs }
    }

    /// The first chunk of a choice: who speaks.
    pub fn begin(&self, index: usize, out: &mut Vec<u8>) {
        let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
        self.chunk(index, delta, &[], None, out);
    }

    /// More of a choice: its next text, perhaps none, and the tokens that came with it. Appends what a stream tells of
    /// it.
    pub fn push(&mut self, index: usize, text: &str, tokens: &[TokenLogprob], out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        if self.logprobs {
            choice.tokens.extend_from_slice(tokens);
        }
        let Some(calls) = &mut choice.calls else {
            choice.text.push_str(text);
            if !text.is_empty() || (self.logprobs && !tokens.is_empty()) {
                self.say(index, text, tokens, out);
            }
            return;
        };
        let parts = calls.push(text);
        self.parts(index, parts, tokens, out);
    }

    /// A choice is over.
    pub fn end(&mut self, index: usize, mut reason: FinishReason, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        let rest = choice.calls.as_mut().map(ToolCallParser::finish).unwrap_or_default();
        self.parts(index, rest, &[], out);
        let choice = &mut self.choices[index];
        if !choice.found.is_empty() && reason == FinishReason::Stop {
            reason = FinishReason::ToolCalls;
        }
        choice.finish = Some(reason);
        self.chunk(index, Delta::default(), &[], Some(reason), out);
    }

    /// All choices are over: the stream's last events.
    pub fn finish(&self, usage: Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            let choices: [(); 0] = [];
            event(out, &Object { head: &self.head, object: CHUNK, choices, usage: Some(Some(usage)) });
        }
        out.extend_from_slice(super::DONE.as_bytes());
    }

    /// All choices are over: the whole as one object.
    pub fn whole(&self, usage: Usage) -> String {
        let choices: Vec<WholeChoice<'_>> = self
            .choices
            .iter()
            .enumerate()
            .map(|(index, choice)| WholeChoice {
                index,
                message: Message {
                    role: "assistant",
                    content: (choice.found.is_empty() || !choice.text.is_empty()).then_some(&choice.text[..]),
                    refusal: None,
                    tool_calls: &choice.found,
                },
                logprobs: self.logprobs.then(|| ChatLogprobs::new(&choice.tokens)),
                finish_reason: choice.finish,
            })
            .collect();
        let object = Object { head: &self.head, object: "chat.completion", choices, usage: Some(Some(usage)) };
        // Strings and numbers only: this can't fail.
        serde_json::to_string(&object).unwrap_or_default()
    }

    fn parts(&mut self, index: usize, parts: Vec<ToolPart>, tokens: &[TokenLogprob], out: &mut Vec<u8>) {
        let mut tokens = tokens;
        for part in parts {
            match part {
                ToolPart::Text(text) => {
                    self.choices[index].text.push_str(&text);
                    self.say(index, &text, std::mem::take(&mut tokens), out);
                }
                ToolPart::Call { index: number, name, arguments } => {
                    let id = format!("call_{}_{index}_{number}", self.head.id);
                    let call = Call { id, r#type: "function", function: Function { name, arguments } };
                    let delta =
                        Delta { tool_calls: Some([DeltaCall { index: number, call: &call }]), ..Delta::default() };
                    self.chunk(index, delta, std::mem::take(&mut tokens), None, out);
                    self.choices[index].found.push(call);
                }
            }
        }
        if self.logprobs && !tokens.is_empty() {
            self.say(index, "", tokens, out);
        }
    }

    fn say(&self, index: usize, text: &str, tokens: &[TokenLogprob], out: &mut Vec<u8>) {
        self.chunk(index, Delta { content: Some(text), ..Delta::default() }, tokens, None, out);
    }

    fn chunk(
        &self,
        index: usize,
        delta: Delta<'_>,
        tokens: &[TokenLogprob],
        finish_reason: Option<FinishReason>,
        out: &mut Vec<u8>,
    ) {
        let logprobs = (self.logprobs && !tokens.is_empty()).then(|| ChatLogprobs::new(tokens));
        let choices = [ChunkChoice { index, delta, logprobs, finish_reason }];
        let usage = self.include_usage.then_some(None);
        event(out, &Object { head: &self.head, object: CHUNK, choices, usage });
    }
}

const CHUNK: &str = "chat.completion.chunk";
