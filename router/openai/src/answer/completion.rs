//! Answers of `/v1/completions`.

use serde::Serialize;

use super::logprobs::{CompletionLogprobs, TokenLogprob};
use super::{AnswerHead, FinishReason, Usage, event};

/// A request's answers under way.
#[derive(Clone, Debug)]
pub struct CompletionAnswer {
    head: AnswerHead,
    choices: Vec<Choice>,
    logprobs: bool,
    include_usage: bool,
}

#[derive(Clone, Debug, Default)]
struct Choice {
    text: String,
    tokens: Vec<TokenLogprob>,
    /// Characters of the tokens told.
    offset: usize,
    finish: Option<FinishReason>,
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
struct WrittenChoice<'a> {
    index: usize,
    text: &'a str,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
}

impl CompletionAnswer {
    /// So many answers.
    pub fn new(head: AnswerHead, choices: usize, logprobs: bool, include_usage: bool) -> Self {
        Self { head, choices: vec![Choice::default(); choices], logprobs, include_usage }
    }

    /// More of a choice: its next text, perhaps none, and the tokens that came with it.
    pub fn push(&mut self, index: usize, text: &str, tokens: &[TokenLogprob], out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        choice.text.push_str(text);
        let told = self.logprobs && !tokens.is_empty();
        if told {
            choice.tokens.extend_from_slice(tokens);
        }
        if !text.is_empty() || told {
            let logprobs = told.then(|| CompletionLogprobs::new(tokens, &mut choice.offset));
            self.chunk(WrittenChoice { index, text, logprobs, finish_reason: None }, out);
        }
    }

    /// A choice is over.
    pub fn end(&mut self, index: usize, reason: FinishReason, out: &mut Vec<u8>) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        choice.finish = Some(reason);
        self.chunk(WrittenChoice { index, text: "", logprobs: None, finish_reason: Some(reason) }, out);
    }

    /// All choices are over: the stream's last events.
    pub fn finish(&self, usage: Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            let choices: [(); 0] = [];
            event(out, &Object { head: &self.head, object: OBJECT, choices, usage: Some(Some(usage)) });
        }
        out.extend_from_slice(super::DONE.as_bytes());
    }

    /// All choices are over: the whole as one object.
    pub fn whole(&self, usage: Usage) -> String {
        let choices: Vec<WrittenChoice<'_>> = self
            .choices
            .iter()
            .enumerate()
            .map(|(index, choice)| WrittenChoice {
                index,
                text: &choice.text,
                logprobs: self.logprobs.then(|| CompletionLogprobs::new(&choice.tokens, &mut 0)),
                finish_reason: choice.finish,
            })
            .collect();
        let object = Object { head: &self.head, object: OBJECT, choices, usage: Some(Some(usage)) };
        // Strings and numbers only: this can't fail.
        serde_json::to_string(&object).unwrap_or_default()
    }

    fn chunk(&self, choice: WrittenChoice<'_>, out: &mut Vec<u8>) {
        let usage = self.include_usage.then_some(None);
        event(out, &Object { head: &self.head, object: OBJECT, choices: [choice], usage });
    }
}

const OBJECT: &str = "text_completion";
