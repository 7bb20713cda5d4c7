//! One request and its answer, timed and checked: no token lost, none doubled.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::http;
use rand::{Rng, RngExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::mix::Length;

/// What a request is made of.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) length: Length,
    prompt: Prompt,
    pub(crate) tenant: String,
}

#[derive(Clone, Debug)]
enum Prompt {
    Ids(Vec<u32>),
    /// How many tokens it is, the model's tokenizer knows.
    Text(String),
}

/// Makes a word of a number, for prompts of text.
pub(crate) type Word = fn(u32) -> String;

impl Ask {
    /// A prompt of random ids.
    pub(crate) fn draw(length: Length, vocab: u32, rng: &mut impl Rng) -> Self {
        // Small ids are special tokens in many models.
        let ids = (0..length.prompt_tokens).map(|_| rng.random_range(vocab / 8..vocab)).collect();
        Self { length, prompt: Prompt::Ids(ids), tenant: String::new() }
    }

    /// A prompt of as many random words.
    pub(crate) fn draw_text(length: Length, word: Word, vocab: u32, rng: &mut impl Rng) -> Self {
        let words: Vec<String> =
            (0..length.prompt_tokens).map(|_| word(rng.random_range(vocab / 8..vocab))).collect();
        Self { length, prompt: Prompt::Text(words.join(" ")), tenant: String::new() }
    }

    pub(crate) fn body(&self) -> Value {
        let mut body = json!({"max_tokens": self.length.max_tokens, "stream": true, "tenant": self.tenant});
        match &self.prompt {
            Prompt::Ids(ids) => body["token_ids"] = json!(ids),
            Prompt::Text(text) => body["prompt"] = json!(text),
        }
        body
    }
}

/// What came of a request. Times count from the run's beginning.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) sent: Duration,
    pub(crate) tenant: String,
    /// Whether the prompt was text.
    pub(crate) text: bool,
    pub(crate) end: Ending,
    /// When each token came.
    pub(crate) tokens: Vec<Duration>,
}

/// How it ended.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Ending {
    /// Whole.
    Done,
    /// Refused or broken off with a code, after this long; whether a retry hint came with it.
    Problem { code: String, after: Duration, hint: bool },
    /// The stream is not what it says: a token lost or doubled, or a connection lost.
    Broken(String),
}

/// An event of a token.
#[derive(Deserialize)]
pub(crate) struct TokenEvent {
    pub(crate) position: u32,
    pub(crate) token_ids: Vec<u32>,
}

/// Sends one request and reads its answer.
pub(crate) async fn ask(address: SocketAddr, ask: &Ask, epoch: Instant) -> Told {
    let text = matches!(ask.prompt, Prompt::Text(_));
    let (sent, tenant) = (epoch.elapsed(), ask.tenant.clone());
    let mut told = Told { sent, tenant, text, end: Ending::Done, tokens: Vec::new() };
    match converse(address, ask, epoch, &mut told).await {
        Ok(end) => told.end = end,
        Err(error) => told.end = Ending::Broken(format!("{error:#}")),
    }
    told
}

async fn converse(address: SocketAddr, ask: &Ask, epoch: Instant, told: &mut Told) -> Result<Ending> {
    let answer = http::post(address, "/v1/generate", &ask.body()).await?;
    if answer.status != 200 {
        let hint = answer.header("retry-after").is_some();
        let after = epoch.elapsed().saturating_sub(told.sent);
        let object = answer.json().await?;
        return Ok(Ending::Problem { code: code(&object), after, hint });
    }
    let mut events = answer.events();
    let mut first = (!told.text).then_some(ask.length.prompt_tokens);
    while let Some(event) = events.next().await? {
        if event.name.is_empty() {
            let token: TokenEvent = serde_json::from_str(&event.data)?;
            let expected = *first.get_or_insert(token.position) + told.tokens.len() as u32;
            ensure!(token.position == expected, "position {}, expected {expected}", token.position);
            let now = epoch.elapsed();
            told.tokens.extend(token.token_ids.iter().map(|_| now));
            continue;
        }
        let object: Value = serde_json::from_str(&event.data)?;
        if event.name == "error" {
            let after = epoch.elapsed().saturating_sub(told.sent);
            return Ok(Ending::Problem { code: code(&object), after, hint: false });
        }
        let count = told.tokens.len() as u64;
        ensure!(object["usage"]["completion_tokens"] == count, "{count} tokens came: {object}");
        let prompt = first.is_none_or(|first| object["usage"]["prompt_tokens"] == first);
        ensure!(prompt, "tokens from position {first:?} on: {object}");
        let length = object["finish_reason"] != "length" || count == u64::from(ask.length.max_tokens);
        ensure!(length, "{count} tokens of {}: {object}", ask.length.max_tokens);
        return Ok(Ending::Done);
    }
    anyhow::bail!("the stream ended without its last event")
}

fn code(object: &Value) -> String {
    object["error"]["code"].as_str().unwrap_or("no code").to_owned()
}
