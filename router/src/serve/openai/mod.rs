//! The OpenAI-compatible endpoints over a desk. Thin: requests, answers and errors are `router-openai`'s.
//!
//! ```text
//!  key -> body -> request (pure) -> prompt -> n answers at once -> choices (writer: pure) -> stream or one object
//! ```

mod chat;
mod choices;
mod completion;
mod sessions;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use router_openai::{AnswerWriter, Delivery, Generation};
use router_plan::RouteStage;
use router_plan::admission::Tenant;
use tokio::time::Instant;

use super::Problem;
use super::answer::Answer;
use super::bill::Bill;
use super::body::Room;
use super::catalogue::Served;
use super::routes::{Shared, request_id};
use choices::Choices;

/// A request that was let in: whose it is, and its body.
struct Arrived {
    id: String,
    at: Instant,
    tenant: Tenant,
    bill: Arc<Bill>,
    body: bytes::Bytes,
    room: Room,
}

/// What a request comes to.
enum Reply {
    /// A stream of events, or one object when all choices are complete.
    Answer { choices: Box<Choices>, stream: bool, headers: HeaderMap },
    /// One object.
    Object(Vec<u8>),
}

impl Reply {
    /// At least one answer.
    fn new(answers: Vec<Answer>, writer: Box<dyn AnswerWriter>, served: &Served, asked: &Generation) -> Self {
        let (headers, stream) = (headers(&answers), asked.delivery != Delivery::Whole);
        let tokenizer = served.model.tokenizer().cloned();
        let choices = Choices::new(answers, asked.n, writer, tokenizer, asked.logprobs.is_some());
        let choices = Box::new(choices);
        Self::Answer { choices, stream, headers }
    }
}

/// The endpoints.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/responses", post(responses))
        .route("/v1/embeddings", post(embeddings))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
}

macro_rules! endpoint {
    ($name:ident, $answer:expr) => {
        async fn $name(State(shared): State<Shared>, request: Request<Body>) -> Response {
            let (id, arrived) = arrive(&shared, request, Instant::now()).await;
            let reply = match arrived {
                Ok(arrived) => $answer(&shared, arrived).await,
                Err(error) => Err(error),
            };
            respond(&shared, &id, reply).await
        }
    };
}
endpoint!(chat_completions, chat::completion);
endpoint!(completions, completion::completion);
endpoint!(responses, chat::response);
endpoint!(tokenize, tokens::tokenize);
endpoint!(detokenize, tokens::detokenize);
endpoint!(embeddings, |_, arrived: Arrived| std::future::ready(tokens::embeddings(&arrived)));

/// Takes a request by its key and reads its body.
async fn arrive(shared: &Shared, request: Request<Body>, at: Instant) -> (String, Result<Arrived, Problem>) {
    let id = match request_id() {
        Ok(id) => id,
        Err(problem) => return (String::new(), Err(problem)),
    };
    let arrived = async {
        // Before the body: a router on its way out reads no more of it than it must.
        shared.check_open()?;
        let (head, body) = request.into_parts();
        let admitted = shared.admit(&head.headers)?;
        let (body, room) = shared.bodies.read(&head.headers, body).await?;
        let tenant = admitted.key().map(|key| Tenant::of_key(key.as_str())).unwrap_or_default();
        let bill = Arc::new(Bill::new(admitted));
        Ok(Arrived { id: id.clone(), at, tenant, bill, body, room })
    };
    let arrived = arrived.await;
    (id.clone(), arrived)
}

async fn respond(shared: &Shared, id: &str, reply: Result<Reply, Problem>) -> Response {
    let (choices, stream, headers) = match reply {
        Ok(Reply::Answer { choices, stream, headers }) => (choices, stream, headers),
        Ok(Reply::Object(object)) => return with_id(json(object), id),
        Err(problem) => return refused(shared, id, problem),
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
            Err(problem) => return refused(shared, id, problem),
        }
    };
    response.headers_mut().extend(headers);
    with_id(response, id)
}

fn refused(shared: &Shared, id: &str, problem: Problem) -> Response {
    shared.desk.router().metrics().request(problem.code().name());
    with_id(problem.into_response(), id)
}

fn json(object: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], object).into_response()
}

/// Which sessions answer, and by which nodes.
fn headers(answers: &[Answer]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let sessions: Vec<&str> = answers.iter().map(|answer| &answer.about.session[..]).collect();
    let routes: Vec<String> = answers
        .iter()
        .map(|answer| {
            let hop = |stage: &RouteStage| format!("{}[{}]", stage.node.short(), stage.span);
            answer.about.route.stages.iter().map(hop).collect::<Vec<_>>().join(">")
        })
        .collect();
    for (name, value) in [("layerlane-session", sessions.join(",")), ("layerlane-route", routes.join(","))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

fn with_id(mut response: Response, id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    response
}
