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
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use router_openai::{AnswerWriter, Delivery, Generation};
use router_plan::admission::Tenant;
use tokio::time::Instant;

use super::Problem;
use super::answer::Answer;
use super::bill::Bill;
use super::body::Room;
use super::catalogue::Served;
use super::heads::{self, RequestId};
use super::routes::Shared;
use choices::Choices;

/// A request that was let in: whose it is, and its body.
struct Arrived {
    id: RequestId,
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
        let headers = heads::of_answers(answers.iter().map(|answer| &answer.about));
        let stream = asked.delivery != Delivery::Whole;
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
            let reply = match arrive(&shared, request, Instant::now()).await {
                Ok(arrived) => $answer(&shared, arrived).await,
                Err(error) => Err(error),
            };
            respond(&shared, reply).await
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
async fn arrive(shared: &Shared, request: Request<Body>, at: Instant) -> Result<Arrived, Problem> {
    // Before the body: a router on its way out reads no more of it than it must.
    shared.check_open()?;
    let (head, body) = request.into_parts();
    let admitted = shared.admit(&head.headers)?;
    let (body, room) = shared.bodies.read(&head.headers, body).await?;
    let tenant = admitted.key().map(|key| Tenant::of_key(key.as_str())).unwrap_or_default();
    let bill = Arc::new(Bill::new(admitted));
    Ok(Arrived { id: RequestId::of(&head), at, tenant, bill, body, room })
}

async fn respond(shared: &Shared, reply: Result<Reply, Problem>) -> Response {
    let (choices, stream, headers) = match reply {
        Ok(Reply::Answer { choices, stream, headers }) => (choices, stream, headers),
        Ok(Reply::Object(object)) => return json(object),
        Err(problem) => return refused(shared, problem),
    };
    let response = if stream {
        let events = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (events, Body::new(choices)).into_response()
    } else {
        choices.collected().await.map_or_else(|problem| refused(shared, problem), json)
    };
    (headers, response).into_response()
}

fn refused(shared: &Shared, problem: Problem) -> Response {
    shared.desk.router().metrics().request(problem.code().name());
    problem.into_response()
}

fn json(object: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], object).into_response()
}
