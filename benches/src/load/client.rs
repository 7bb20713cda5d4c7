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
    pub(crate) ids: Vec<u32>,
    pub(crate) tenant: String,
    /// Milliseconds between two reads of a slow client; 0 reads at once.
    pub(crate) pause: Duration,
}

impl Ask {
    /// A prompt of random ids.
    pub(crate) fn draw(length: Length, vocab: u32, rng: &mut impl Rng) -> Self {
        // Small ids are special tokens in many models.
        let ids = (0..length.prompt_tokens).map(|_| rng.random_range(vocab / 8..vocab)).collect();
        Self { length, ids, tenant: String::new(), pause: Duration::ZERO }
    }

    pub(crate) fn body(&self) -> Value {
        json!({"token_ids": self.ids, "max_tokens": self.length.max_tokens, "stream": true, "tenant": self.tenant})
    }
}

/// What came of a request. Times count from the run's beginning.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) sent: Duration,
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

#[derive(Deserialize)]
struct TokenEvent {
    position: u32,
    token_ids: Vec<u32>,
}

/// Sends one request and reads its answer.
pub(crate) async fn ask(address: SocketAddr, ask: &Ask, epoch: Instant) -> Told {
    let mut told = Told { sent: epoch.elapsed(), end: Ending::Done, tokens: Vec::new() };
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
    let first = ask.length.prompt_tokens;
    while let Some(event) = events.next().await? {
        if event.name.is_empty() {
            let token: TokenEvent = serde_json::from_str(&event.data)?;
            let expected = first + told.tokens.len() as u32;
            ensure!(token.position == expected, "position {}, expected {expected}", token.position);
            let now = epoch.elapsed();
            told.tokens.extend(token.token_ids.iter().map(|_| now));
            if !ask.pause.is_zero() {
                tokio::time::sleep(ask.pause).await;
            }
            continue;
        }
        let object: Value = serde_json::from_str(&event.data)?;
        if event.name == "error" {
            let after = epoch.elapsed().saturating_sub(told.sent);
            return Ok(Ending::Problem { code: code(&object), after, hint: false });
        }
        let count = told.tokens.len() as u64;
        ensure!(object["usage"]["completion_tokens"] == count, "{count} tokens came: {object}");
        let length = object["finish_reason"] != "length" || count == u64::from(ask.length.max_tokens);
        ensure!(length, "{count} tokens of {}: {object}", ask.length.max_tokens);
        return Ok(Ending::Done);
    }
    anyhow::bail!("the stream ended without its last event")
}

fn code(object: &Value) -> String {
    object["error"]["code"].as_str().unwrap_or("no code").to_owned()
}
