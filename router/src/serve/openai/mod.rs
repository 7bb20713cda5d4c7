//! The OpenAI-compatible endpoints over a desk. Thin: requests, answers and errors are `router-openai`'s.
//!
//! ```text
//!  key -> body -> request (pure) -> prompt -> n answers at once -> choices (writer: pure) -> stream or one object
//! ```

mod chat;
mod choices;
mod problem;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use router_openai::{ApiError, ErrorCode};
use tokio::time::Instant;

use super::bill::Bill;
use super::body::Room;
use super::routes::{Shared, request_id};
use choices::Choices;

/// A request that was let in: whose it is, and its body.
struct Arrived {
    id: String,
    at: Instant,
    tenant: Option<router_plan::admission::Tenant>,
    bill: Arc<Bill>,
    body: bytes::Bytes,
    room: Room,
}

/// What a request comes to.
enum Reply {
    /// A stream of events, or one object when all choices are complete.
    Answer { choices: Choices, stream: bool, headers: HeaderMap },
}

/// `POST /v1/chat/completions`.
pub(super) async fn chat_completions(State(shared): State<Shared>, request: Request<Body>) -> Response {
    let at = Instant::now();
    let (id, arrived) = match arrive(&shared, request, at).await {
        (id, Ok(arrived)) => (id, arrived),
        (id, Err(error)) => return refused(&shared, &id, &error),
    };
    respond(&shared, &id, chat::answer(&shared, arrived).await).await
}

/// Takes a request by its key and reads its body.
async fn arrive(shared: &Shared, request: Request<Body>, at: Instant) -> (String, Result<Arrived, ApiError>) {
    let id = match request_id() {
        Ok(id) => id,
        Err(problem) => return (String::new(), Err(problem.into())),
    };
    let arrived = async {
        // Before the body: a router on its way out reads no more of it than it must.
        shared.check_open()?;
        let (head, body) = request.into_parts();
        let admitted = shared.admit(&head.headers)?;
        let (body, room) = shared.bodies.read(&head.headers, body).await?;
        let tenant = admitted.key().map(|key| router_plan::admission::Tenant::of_key(key.as_str()));
        let bill = Arc::new(Bill::new(admitted));
        Ok(Arrived { id: id.clone(), at, tenant, bill, body, room })
    };
    let arrived = arrived.await;
    (id.clone(), arrived)
}

async fn respond(shared: &Shared, id: &str, reply: Result<Reply, ApiError>) -> Response {
    let (choices, stream, headers) = match reply {
        Ok(Reply::Answer { choices, stream, headers }) => (choices, stream, headers),
        Err(error) => return refused(shared, id, &error),
    };
    let mut response = if stream {
        let events = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (events, Body::new(choices)).into_response()
    } else {
        match choices.collected().await {
            Ok(object) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], object)
                .into_response(),
            Err(error) => return refused(shared, id, &error),
        }
    };
    response.headers_mut().extend(headers);
    with_id(response, id)
}

fn refused(shared: &Shared, id: &str, error: &ApiError) -> Response {
    shared.desk.router().metrics().request(error.code().name());
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (status, json, error.to_json()).into_response();
    if let Some(after) = error.try_again_after() {
        // Whole seconds, rounded up.
        let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    // What is left of these requests is unread.
    let unread = [
        ErrorCode::InvalidApiKey,
        ErrorCode::Draining,
        ErrorCode::BodyTimeout,
        ErrorCode::BodyTooLarge,
        ErrorCode::Busy,
    ];
    if unread.contains(&error.code()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    with_id(response, id)
}

fn with_id(mut response: Response, id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    response
}
