//! Streams of a serving router whose every token and gap is watched, while nodes are done away with.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::http;
use crate::processes::{NodeProcess, Programs};
use crate::serving::Serving;

/// Clients at once.
pub const STREAMS: usize = 8;
/// Tokens of an answer.
pub const TOKENS: usize = 40;
const PATIENCE: Duration = Duration::from_mins(2);

/// What the client of a stream asks.
fn asked(stream: usize, max_tokens: usize) -> Value {
    // What repeats goes on repeating, and does not end.
    let prompt: Vec<usize> = (0..40).map(|at| 300 + 1000 * stream + at % 10 * 7).collect();
    let mut request = json!({
        "token_ids": prompt,
        "max_tokens": max_tokens,
        "stream": true,
    });
    if stream % 2 == 1 {
        request["temperature"] = json!(0.3);
        request["seed"] = json!(stream);
    }
    request
}

/// One answer as its client saw it.
#[derive(Debug)]
pub struct Answer {
    /// Its tokens.
    pub ids: Vec<u64>,
    /// The longest time from one to the next.
    pub gap: Duration,
    /// How often it went on over another route.
    pub moves: u64,
}

async fn answer(address: SocketAddr, request: Value, tell: mpsc::Sender<usize>) -> Answer {
    let answer = http::post(address, "/v1/generate", &request).await.unwrap();
    if answer.status != 200 {
        let status = answer.status;
        panic!("{status}: {}", answer.text().await.unwrap());
    }
    let mut events = answer.events();
    let (mut ids, mut last, mut gap, mut next) = (Vec::new(), None, Duration::ZERO, None);
    loop {
        let event = events.next().await.unwrap().expect("an end should come");
        let object: Value = serde_json::from_str(&event.data).unwrap();
        match &event.name[..] {
            "" => {
                let now = now();
                let came = object["token_ids"].as_array().unwrap();
                if came.is_empty() {
                    continue;
                }
                gap = gap.max(last.map_or(Duration::ZERO, |last| now - last));
                last = Some(now);
                let position = object["position"].as_u64().unwrap();
                assert!(next.is_none_or(|next| next == position), "a token is lost or doubled: {object}");
                next = Some(position + came.len() as u64);
                ids.extend(came.iter().map(|id| id.as_u64().unwrap()));
                // Nobody may listen any more.
                let _ = tell.try_send(came.len());
            }
            "done" => {
                return Answer { ids, gap, moves: object["moves"].as_u64().unwrap() };
            }
            _ => panic!("{object}"),
        }
    }
}

/// All answers at once, by stream; `blow` falls after so many tokens of all of them.
///
/// # Panics
/// If an answer fails, or a token is lost or doubled.
pub async fn all(address: SocketAddr, after: usize, mut blow: impl FnMut()) -> Vec<Answer> {
    let mut running = JoinSet::new();
    let (tell, mut told) = mpsc::channel(STREAMS * TOKENS);
    for stream in 0..STREAMS {
        let tell = tell.clone();
        running.spawn(async move { (stream, answer(address, asked(stream, TOKENS), tell).await) });
    }
    drop(tell);
    let mut tokens = 0;
    let mut fallen = false;
    while let Some(came) = told.recv().await {
        tokens += came;
        if tokens >= after && !std::mem::replace(&mut fallen, true) {
            blow();
        }
    }
    let mut answers = running.join_all().await;
    answers.sort_by_key(|&(stream, _)| stream);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// A node with the default model in class exact.
pub fn exact_node(
    programs: &Programs,
    home: &Path,
    span: &str,
    bootstrap: Option<&NodeProcess>,
    extra: &[OsString],
) -> Result<NodeProcess> {
    let mut arguments: Vec<OsString> = vec!["--model".into(), programs.model()?.into()];
    arguments.extend(["--layers", span, "--numerics", "exact"].map(OsString::from));
    if let Some(first) = bootstrap {
        arguments.extend(["--bootstrap".into(), first.ready().target().into()]);
    }
    arguments.extend(extra.iter().cloned());
    programs.node(home, &arguments)
}

/// Waits until the router has reached so many nodes.
///
/// # Panics
/// If it does not within two minutes.
pub async fn until_known(router: &Serving, nodes: usize) {
    let wanted = format!("router_nodes {nodes}");
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let known = async {
        while !http::get(router.admin, "/metrics")
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .lines()
            .any(|line| line == wanted)
        {
            look.tick().await;
        }
    };
    let known = tokio::time::timeout(PATIENCE, known).await;
    assert!(known.is_ok(), "the router does not find {nodes} nodes: {}", router.process.log_text());
}

/// The longest gaps of answers that moved.
#[derive(Debug, Default)]
pub struct Gaps {
    // In order.
    moved: Vec<Duration>,
    // Of those that did not move.
    stayed: Vec<Duration>,
    whole: usize,
}

impl Gaps {
    /// Holds `answers` against the same ones undisturbed.
    ///
    /// # Panics
    /// If one of them differs.
    pub fn take(&mut self, what: &str, answers: &[Answer], undisturbed: &[Answer]) {
        for (stream, (answer, truth)) in answers.iter().zip(undisturbed).enumerate() {
            assert_eq!(truth.ids.len(), TOKENS, "{what}, stream {stream}: it should not end by itself");
            assert_eq!(answer.ids, truth.ids, "{what}, stream {stream}, {} moves", answer.moves);
            if answer.moves > 0 {
                self.moved.push(answer.gap);
            } else {
                self.stayed.push(answer.gap);
            }
        }
        self.whole += answers.len();
        self.moved.sort_unstable();
        self.stayed.sort_unstable();
    }

    /// Answers that moved.
    pub const fn moved(&self) -> usize {
        self.moved.len()
    }

    /// A quantile; zero if none moved.
    pub fn at(&self, part: f64) -> Duration {
        let index = (self.moved.len().saturating_sub(1) as f64 * part).round() as usize;
        self.moved.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moved, whole, stayed } = self;
        let usual = stayed.get(stayed.len() / 2).copied().unwrap_or_default();
        let [median, p95, longest] = [0.5, 0.95, 1.0].map(|part| self.at(part));
        let moved = moved.len();
        write!(
            f,
            "{whole} answers identical, {moved} moved; gap p50 {median:?}, p95 {p95:?}, longest {longest:?}; \
             of those that did not move p50 {usual:?}"
        )
    }
}

#[expect(clippy::disallowed_methods, reason = "gaps are what is measured")]
fn now() -> Instant {
    Instant::now()
}
