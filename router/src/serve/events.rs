//! Answers as bytes: server-sent events for streams, one object otherwise. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use router_plan::Route;
use serde_json::{Value, json};

use super::Problem;
use crate::generate::Timings;
use crate::model::Model;

/// What is known of an answer before its first token.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) request: String,
    pub(super) session: String,
    pub(super) model: Model,
    /// Over which it goes at present.
    pub(super) route: Route,
    /// How often it has gone on over another one.
    pub(super) moves: u32,
    pub(super) prompt_tokens: usize,
    /// Those of them that no stage had to compute.
    pub(super) cached: u32,
    /// From the request's arrival to its place on a route.
    pub(super) queued: Duration,
    /// From the request's arrival to the session's start.
    pub(super) started: Duration,
}

/// What an answer came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    /// When each token came, counted from the session's start.
    pub(super) times: Vec<Duration>,
}

impl About {
    /// A stage was lost.
    pub(super) fn moved_to(&mut self, route: Route) {
        self.route = route;
        self.moves += 1;
    }

    /// The object of a whole answer, without its text and ids.
    pub(super) fn end(&self, finish: &str, sum: &Sum) -> Value {
        let since_request: Vec<Duration> = sum.times.iter().map(|&at| at + self.started).collect();
        let timings = Timings::new(self.prompt_tokens, None, &since_request);
        let mut timings = serde_json::to_value(timings).unwrap_or_default();
        timings["queue_ms"] = json!(self.queued.as_secs_f64() * 1000.0);
        let tokens = sum.times.len();
        let route: Vec<_> = self
            .route
            .stages
            .iter()
            .map(|stage| json!({"node": stage.node, "addr": stage.addr.to_string(), "layers": stage.span}))
            .collect();
        json!({
            "finish_reason": finish,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": self.prompt_tokens + tokens,
                "prompt_tokens_details": {"cached_tokens": self.cached},
            },
            "timings": timings,
            "request_id": self.request,
            "session": self.session,
            "model": self.model.name(),
            "model_id": self.model.id(),
            "numerics": self.route.class,
            "route": route,
            "moves": self.moves,
        })
    }
}

/// `data: {"position":7,"token_ids":[42],"text":"abc"}`. Writes into the buffer only.
pub(super) fn token(out: &mut BytesMut, position: u32, id: u32, text: &str) {
    // Writing to memory can't fail.
    let _ = write!(out, "data: {{\"position\":{position},\"token_ids\":[{id}],\"text\":");
    string(out, text);
    out.put_slice(b"}\n\n");
}

/// Text without a token of its own: the end of what was held back.
pub(super) fn rest(out: &mut BytesMut, position: u32, text: &str) {
    let _ = write!(out, "data: {{\"position\":{position},\"token_ids\":[],\"text\":");
    string(out, text);
    out.put_slice(b"}\n\n");
}

/// The last event of a whole answer.
pub(super) fn done(out: &mut BytesMut, end: &Value) {
    let _ = write!(out, "event: done\ndata: {end}\n\n");
}

/// The last event of an answer that broke off.
pub(super) fn error(out: &mut BytesMut, problem: &Problem, end: &Value) {
    let object = problem.error().to_json();
    out.put_slice(b"event: error\ndata: ");
    // Its last brace comes after the answer.
    out.put_slice(&object[..object.len() - 1]);
    let _ = write!(out, ",\"answer\":{end}}}\n\n");
}

/// JSON escapes control characters, so no line of text can end an event.
fn string(out: &mut BytesMut, text: &str) {
    // Strings can always be written as JSON, and memory takes them.
    let _ = serde_json::to_writer(out.writer(), text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_can_not_forge_an_event() {
        let mut out = BytesMut::new();
        token(&mut out, 7, 42, "a\n\nevent: done\r\ndata: \"x\"\u{2028}");
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert_eq!(text.matches('\n').count(), 2, "{text}");
        let object: Value = serde_json::from_str(text.trim().strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(object["text"], "a\n\nevent: done\r\ndata: \"x\"\u{2028}");
        assert_eq!((&object["position"], &object["token_ids"]), (&json!(7), &json!([42])));
    }
}
