//! What the head of an answer says: the request's id on every one, sessions and routes where a model answers.

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use router_openai::ErrorCode;
use router_plan::RouteStage;

use super::Problem;
use super::events::About;

/// What a request is called.
#[derive(Clone, Debug)]
pub(super) struct RequestId {
    /// The client's own word if it sent one that can be used, else as [`RequestId::drawn`].
    pub(super) told: String,
    /// Drawn here. Objects are named by it: two requests may be told by the same word.
    pub(super) drawn: String,
}

impl RequestId {
    /// Of a request that has come through [`identified`].
    pub(super) fn of(head: &Parts) -> Self {
        head.extensions.get().cloned().unwrap_or_else(|| Self { told: String::new(), drawn: String::new() })
    }

    fn new(headers: &HeaderMap) -> Result<Self, Problem> {
        let drawn = draw()?;
        let sent = headers.get(REQUEST_ID).and_then(|sent| well_formed(sent.as_bytes()));
        Ok(Self { told: sent.map_or_else(|| drawn.clone(), str::to_owned), drawn })
    }
}

/// Gives every request an id, and every answer the header that tells it: errors and unknown paths, too.
pub(super) async fn identified(mut request: Request<Body>, next: Next) -> Response {
    let id = match RequestId::new(request.headers()) {
        Ok(id) => id,
        Err(problem) => return problem.into_response(),
    };
    let value = HeaderValue::from_str(&id.told);
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    if let Ok(value) = value {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Which sessions answer, and by which nodes, as it was when they began.
pub(super) fn of_answers<'a>(answers: impl Iterator<Item = &'a About> + Clone) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let sessions: Vec<&str> = answers.clone().map(|about| &about.session[..]).collect();
    let routes: Vec<String> = answers
        .map(|about| {
            let hop = |stage: &RouteStage| format!("{}[{}]", stage.node.short(), stage.span);
            about.route.stages.iter().map(hop).collect::<Vec<_>>().join(">")
        })
        .collect();
    for (name, value) in [(SESSION, sessions.join(",")), (ROUTE, routes.join(","))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// A client's id that may stand in answers and logs: short, and without anything that means something there.
fn well_formed(sent: &[u8]) -> Option<&str> {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let taken = (1..=MAX_ID_BYTES).contains(&sent.len()) && sent.iter().all(known);
    if taken { std::str::from_utf8(sent).ok() } else { None }
}

/// Unguessable, so that ids of one client tell nothing about those of another.
fn draw() -> Result<String, Problem> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| {
        Problem::new(ErrorCode::Internal, format!("draw a request id: {error}"), "report it")
    })?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// A UUID has 36; traces and what gateways put together have more.
const MAX_ID_BYTES: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SESSION: HeaderName = HeaderName::from_static("layerlane-session");
const ROUTE: HeaderName = HeaderName::from_static("layerlane-route");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_id_is_taken_if_it_can_be_told_safely() {
        for sent in
            ["1", "b2d1f0de-8a5e-4f0b-9f43-6c2f3f1c2d11", "00-4bf92f35-01", "a/b+c=:_.", &"x".repeat(128)]
        {
            assert_eq!(well_formed(sent.as_bytes()), Some(sent));
        }
        for sent in ["", "a b", "a,b", "a\"b", "{}", "caf\u{e9}", "a\u{1b}[0m", &"x".repeat(129)] {
            assert_eq!(well_formed(sent.as_bytes()), None, "{sent}");
        }
        assert_eq!(well_formed(b"\xff"), None);
        let mut headers = HeaderMap::new();
        let [one, two] = [(); 2].map(|()| RequestId::new(&headers).unwrap());
        assert!(one.told == one.drawn && one.drawn != two.drawn);
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine"));
        let [one, two] = [(); 2].map(|()| RequestId::new(&headers).unwrap());
        assert!((&one.told[..], &two.told[..]) == ("mine", "mine") && one.drawn != two.drawn);
    }
}
