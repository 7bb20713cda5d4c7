//! What a finished answer consists of, and its object for `--json`.

use proto::session::Ended;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeId};
use router_plan::{Route, RouteStage};
use serde::Serialize;
use serde_json::{Value, json};

use super::Timings;
use crate::attest::AnswerEvidence;

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end-of-sequence id or a stop string.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// The user gave up.
    Cancelled,
}

/// One stage's part in an answer, by its own account.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Hop {
    /// Who.
    pub node: NodeId,
    /// Which layers, half-open.
    pub layers: LayerSpan,
    /// Median compute time of a decode step, milliseconds.
    pub compute_ms: Option<f64>,
    /// Median time from the end of the upstream stage's compute to the beginning of this one's, milliseconds.
    pub network_ms: Option<f64>,
    /// Bytes sent downstream for each generated token.
    pub bytes_per_token: Option<u64>,
    /// Prompt rows that it held already and did not compute.
    pub skipped_rows: Option<u32>,
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// The model's name.
    pub model: String,
    /// Its id.
    pub model_id: ModelId,
    /// How it was computed.
    pub class: NumericsClass,
    /// The text, cut before a stop string.
    pub text: String,
    /// The prompt as the model saw it.
    pub prompt_token_ids: Vec<u32>,
    /// The generated ids, an end-of-sequence id included.
    pub token_ids: Vec<u32>,
    /// For each generated token the lead of the largest logit over the second.
    pub margins: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// How fast it came.
    pub timings: Timings,
    /// The stages in order.
    pub stages: Vec<RouteStage>,
    /// Their accounts.
    pub hops: Vec<Hop>,
    /// How often a node was lost and the answer went on over another route.
    pub moves: u32,
    /// What the stages signed; `None` if nobody was asked to.
    pub evidence: Option<AnswerEvidence>,
}

impl Reply {
    /// The object of `generate --json`; `margins` are part of it on demand.
    pub fn to_json(&self, margins: bool) -> Value {
        let route: Vec<_> = self
            .stages
            .iter()
            .map(|stage| json!({"node": stage.node, "addr": stage.addr.to_string(), "layers": stage.span}))
            .collect();
        let mut object = json!({
            "model": self.model,
            "model_id": self.model_id,
            "numerics": self.class,
            "text": self.text,
            "prompt_token_ids": self.prompt_token_ids,
            "token_ids": self.token_ids,
            "finish_reason": self.finish,
            "timings": self.timings,
            "route": route,
            "moves": self.moves,
            "receipts": self.evidence.as_ref().map(|evidence| evidence.collected().receipts),
            "hops": self.hops,
        });
        if margins {
            object["margins"] = json!(self.margins);
        }
        object
    }
}

/// Stages with their accounts; figures are missing where an account is.
pub(super) fn hops(route: &Route, accounts: &[Option<Ended>]) -> Vec<Hop> {
    route
        .stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let account = accounts.get(index).copied().flatten();
            let decoded = account.filter(|account| account.decode_steps > 0);
            Hop {
                node: stage.node,
                layers: stage.span,
                compute_ms: decoded.map(|account| millis(account.decode_us)),
                network_ms: decoded.map(|account| millis(account.hop_us)),
                bytes_per_token: decoded
                    .map(|account| account.decode_bytes / u64::from(account.decode_steps)),
                skipped_rows: account.map(|account| *account.skipped_rows),
            }
        })
        .collect()
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1000.0
}
