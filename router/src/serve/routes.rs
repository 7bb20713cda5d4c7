//! The paths of the API. Thin: what a request means is decided by [`super::request`] and [`super::desk`].

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use router_openai::ErrorCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use router_plan::admission::Tenant;

use super::bill::Bill;
use super::body::BodyReader;
use super::catalogue::Served;
use super::desk::Desk;
use super::heads::{self, RequestId};
use super::openai;
use super::ready;
use super::{Asked, Problem};
use crate::keys::{Admitted, Keyring};

/// What handlers share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) desk: Arc<Desk>,
    pub(super) bodies: Arc<BodyReader>,
    keys: Keyring,
}

impl Shared {
    /// Refuses everything on the way out.
    pub(super) fn check_open(&self) -> Result<(), Problem> {
        if self.desk.is_draining() { Err(Problem::draining()) } else { Ok(()) }
    }

    /// Takes a request by its key, before anything of its body is read.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Admitted, Problem> {
        let sent = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        Ok(self.keys.admit(sent)?)
    }
}

/// The API over a desk.
pub(super) fn routes(desk: Arc<Desk>, bodies: BodyReader, keys: Keyring) -> Router {
    Router::new()
        .route("/v1/generate", post(generate))
        .merge(openai::routes())
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(one_model))
        .route("/health", get(health))
        .route("/ready", get(is_ready))
        .route("/info", get(info))
        .route("/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Shared { desk, bodies: Arc::new(bodies), keys })
}

async fn generate(State(shared): State<Shared>, request: Request<Body>) -> Response {
    let answered = answer(&shared, request, Instant::now()).await;
    answered.unwrap_or_else(|problem| {
        shared.desk.router().metrics().request(problem.code().name());
        problem.into_response()
    })
}

async fn answer(shared: &Shared, request: Request<Body>, arrived: Instant) -> Result<Response, Problem> {
    // Before the body: a router on its way out reads no more of it than it must.
    shared.check_open()?;
    let (head, body) = request.into_parts();
    let admitted = shared.admit(&head.headers)?;
    let (bytes, room) = shared.bodies.read(&head.headers, body).await?;
    let mut asked = Asked::parse(&bytes)?;
    drop(bytes);
    if let Some(key) = admitted.key() {
        // A key has one share, whatever names its requests give.
        asked.tenant = Tenant::of_key(key.as_str());
    }
    let (stream, bill, id) = (asked.stream, Arc::new(Bill::new(admitted)), RequestId::of(&head).told);
    let answer = shared.desk.answer(asked, room, bill, id, arrived).await?;
    let about = heads::of_answers(std::iter::once(&answer.about));
    if stream {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        return Ok((about, headers, Body::new(answer.streamed())).into_response());
    }
    let whole = answer.collected().await;
    let response = whole.map_or_else(
        |problem| {
            shared.desk.router().metrics().request(problem.code().name());
            problem.into_response()
        },
        |whole| object(&whole),
    );
    Ok((about, response).into_response())
}

async fn models(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Err(problem) = shared.admit(&headers) {
        return problem.into_response();
    }
    let models: Vec<Value> =
        shared.desk.catalogue().list().iter().map(|served| model(&shared, served)).collect();
    object(&json!({"object": "list", "data": models}))
}

async fn one_model(
    State(shared): State<Shared>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let found = shared.admit(&headers).and_then(|_| {
        let Path(name) = name.map_err(|error| Problem::field("model", error))?;
        let name =
            name.parse().map_err(|error: router_plan::ModelRefError| Problem::field("model", error))?;
        shared.desk.catalogue().find(Some(&name))
    });
    match found {
        Ok(served) => object(&model(&shared, &served)),
        Err(problem) => problem.into_response(),
    }
}

/// A model as the API lists it, with what else there is to know.
fn model(shared: &Shared, served: &Served) -> Value {
    let (waiting, running) = served.gate.counts();
    let manifest = served.model.manifest();
    let (classes, missing) = shared.desk.catalogue().coverage(served);
    json!({
        "id": shared.desk.catalogue().id_of(served),
        "object": "model",
        // Nobody announces when weights were made.
        "created": 0,
        "owned_by": "layerlane",
        "model_id": served.model.id(),
        "context_length": served.model.context(),
        "classes": classes,
        "missing_layers": missing,
        "licence": manifest.licence,
        "waiting": waiting,
        "running": running,
    })
}

async fn health(State(shared): State<Shared>) -> Response {
    if shared.desk.is_draining() {
        return Problem::draining().into_response();
    }
    object(&json!({"status": "ok"}))
}

/// Whether requests are answered: what the router is for is whole.
async fn is_ready(State(shared): State<Shared>) -> Response {
    let judged = shared.check_open().and_then(|()| ready::judge(&shared.desk.catalogue().standings()));
    match judged {
        Ok(incomplete) if incomplete.is_empty() => object(&json!({"status": "ok"})),
        Ok(incomplete) => object(&json!({"status": "ok", "incomplete": incomplete})),
        Err(problem) => problem.into_response(),
    }
}

async fn info() -> Response {
    object(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn openapi() -> Response {
    object(&router_openai::openapi_document(env!("CARGO_PKG_VERSION")))
}

async fn not_found(request: Request<Body>) -> Problem {
    if let Some(error) = router_openai::unsupported_endpoint(request.uri().path()) {
        // Its body, which may be a file, is unread.
        return Problem::from(error).closing();
    }
    Problem::new(
        ErrorCode::NotFound,
        format!("there is no {}", request.uri().path()),
        "GET /openapi.json lists the endpoints",
    )
}

async fn method_not_allowed(request: Request<Body>) -> Problem {
    Problem::new(
        ErrorCode::MethodNotAllowed,
        format!("{} does not take {}", request.uri().path(), request.method()),
        "GET /openapi.json lists the endpoints",
    )
}

fn object(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], format!("{value}\n"))
        .into_response()
}
