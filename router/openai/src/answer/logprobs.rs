//! Probabilities of tokens, in the two shapes that the API has.

use serde::Serialize;

/// A token with its probability.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenLogprob {
    /// Its text; several tokens may make one character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at its place.
    pub top: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Clone, PartialEq, Debug)]
pub struct TopLogprob {
    /// Its text.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

#[derive(Serialize)]
struct Entry<'a> {
    token: String,
    logprob: f32,
    bytes: &'a [u8],
    top_logprobs: Vec<Alternative<'a>>,
}

#[derive(Serialize)]
struct Alternative<'a> {
    token: String,
    logprob: f32,
    bytes: &'a [u8],
}

/// `{"content": [..], "refusal": null}` of chats.
#[derive(Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<Entry<'a>>,
    refusal: Option<()>,
}

/// The older lists side by side of completions.
#[derive(Serialize, Default)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    text_offset: Vec<usize>,
}

/// Finite, as JSON has no other numbers: the least probability that the API's clients expect.
fn finite(logprob: f32) -> f32 {
    logprob.clamp(-9999.0, 0.0)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl<'a> ChatLogprobs<'a> {
    pub(super) fn new(tokens: &'a [TokenLogprob]) -> Self {
        let content = tokens.iter().map(|token| Entry {
            token: shown(&token.bytes),
            logprob: finite(token.logprob),
            bytes: &token.bytes,
            top_logprobs: token
                .top
                .iter()
                .map(|top| Alternative { token: shown(&top.bytes), logprob: finite(top.logprob), bytes: &top.bytes })
                .collect(),
        });
        Self { content: content.collect(), refusal: None }
    }
}

impl CompletionLogprobs {
    /// `offset` is where the first token's text begins, in characters; it is moved behind the last one's.
    pub(super) fn new(tokens: &[TokenLogprob], offset: &mut usize) -> Self {
        let mut lists = Self::default();
        for token in tokens {
            let text = shown(&token.bytes);
            lists.text_offset.push(*offset);
            *offset += text.chars().count();
            lists.tokens.push(text);
            lists.token_logprobs.push(finite(token.logprob));
            let top = token.top.iter().map(|top| (shown(&top.bytes), finite(top.logprob).into()));
            lists.top_logprobs.push(top.collect());
        }
        lists
    }
}
