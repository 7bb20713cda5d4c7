//! What is wrong with a request, or with the swarm, as clients read it: a status, a code, words and the cure.

use std::fmt::Display;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::status::RefusalCode;
use proto_sampling::ParameterError;
use proto_text::StopError;
use router_plan::admission::AdmissionRefusal;
use router_plan::{ResolveError, RouteError};
use serde_json::{Value, json};

use crate::driver::StartError;
use crate::generate::GenerateError;
use crate::keys::KeyRefusal;
use crate::model::PromptError;
use crate::session::SessionError;

/// Which kind of problem it is. A closed set: it is a label of a metric and part of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProblemCode {
    /// No API key, or none that is known.
    InvalidKey,
    /// The API key has used what it may.
    RateLimited,
    /// The body is no JSON object of the right shape, or a field's value can't be used.
    BadRequest,
    /// No such path.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// Nobody serves the model.
    UnknownModel,
    /// The name stands for several models.
    AmbiguousModel,
    /// The body did not come in time.
    BodyTimeout,
    /// The body is too large.
    BodyTooLarge,
    /// Prompt and answer do not fit the model or any node.
    TooLong,
    /// As many requests wait as may.
    QueueFull,
    /// It waited, and one of a tenant with fewer requests took its place.
    Displaced,
    /// No place became free in time.
    QueueTimeout,
    /// No nodes hold all of the model's layers.
    NoRoute,
    /// Nodes refused or failed the session, on every route tried.
    NodesFailed,
    /// The request's own deadline has passed.
    DeadlineExceeded,
    /// The router does as much as it may.
    Busy,
    /// The router is on its way out.
    Draining,
    /// A fault of the router.
    Internal,
}

impl ProblemCode {
    /// The word in the body and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidKey => "invalid_api_key",
            Self::RateLimited => "rate_limited",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UnknownModel => "unknown_model",
            Self::AmbiguousModel => "ambiguous_model",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::TooLong => "too_long",
            Self::QueueFull => "queue_full",
            Self::Displaced => "displaced",
            Self::QueueTimeout => "queue_timeout",
            Self::NoRoute => "no_route",
            Self::NodesFailed => "nodes_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::TooLong => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::UnknownModel => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::AmbiguousModel => StatusCode::CONFLICT,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidKey => StatusCode::UNAUTHORIZED,
            Self::QueueFull | Self::Displaced | Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::QueueTimeout | Self::NoRoute | Self::Busy | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NodesFailed => StatusCode::BAD_GATEWAY,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A problem with its words.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    code: ProblemCode,
    message: String,
    cure: String,
    retry_after: Option<Duration>,
    /// The connection can't be used any further: what is left of the request is unread.
    close: bool,
}

impl Problem {
    /// A problem and what helps against it.
    pub fn new(code: ProblemCode, message: impl Display, cure: impl Display) -> Self {
        let mut message = message.to_string();
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push_str(" ...");
        }
        Self { code, message, cure: cure.to_string(), retry_after: None, close: false }
    }

    /// With the time after which it is worth trying again.
    #[must_use]
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// As the last answer on its connection.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What helps.
    pub fn cure(&self) -> &str {
        &self.cure
    }

    /// When it is worth trying again.
    pub const fn try_again_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Its kind.
    pub const fn code(&self) -> ProblemCode {
        self.code
    }

    /// A field of the request that can't be used.
    pub fn field(name: &str, why: impl Display) -> Self {
        Self::new(
            ProblemCode::BadRequest,
            format!("`{name}`: {why}"),
            "see docs/OPERATIONS.md for the fields and their values",
        )
    }

    /// A request that got no place. `late`: its own deadline has passed.
    pub fn no_place(refusal: AdmissionRefusal, late: bool) -> Self {
        if !late || !matches!(refusal, AdmissionRefusal::Waited { .. }) {
            return refusal.into();
        }
        let what = format!("the deadline passed while the request waited: {refusal}");
        let cure = "raise `deadline_ms`, or try again after the time given";
        Self { retry_after: refusal.retry_after(), ..Self::new(ProblemCode::DeadlineExceeded, what, cure) }
    }

    /// Nothing new is taken.
    pub fn draining() -> Self {
        Self::new(ProblemCode::Draining, "the router is draining", "ask another router, or try again later")
            .retry_after(DRAINED_AFTER)
            .closing()
    }

    /// The object that clients get.
    pub fn to_json(&self) -> Value {
        let mut object =
            json!({"error": {"code": self.code.name(), "message": self.message, "cure": self.cure}});
        if let Some(after) = self.retry_after {
            object["error"]["retry_after_ms"] = json!(after.as_millis() as u64);
        }
        object
    }
}

/// Bytes of a message: a parser repeats what it does not understand, which may be all of a body of megabytes.
const MAX_MESSAGE: usize = 2048;
/// A restarted router is back within this.
const DRAINED_AFTER: Duration = Duration::from_secs(5);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (
            self.code.status(),
            [(header::CONTENT_TYPE, "application/json")],
            format!("{}\n", self.to_json()),
        )
            .into_response();
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up; the body has milliseconds.
            let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<KeyRefusal> for Problem {
    fn from(refusal: KeyRefusal) -> Self {
        match refusal {
            KeyRefusal::Missing | KeyRefusal::Unknown => {
                Self::new(ProblemCode::InvalidKey, refusal, "ask the router's operator for a key").closing()
            }
            KeyRefusal::Exceeded(exceeded) => {
                Self::new(ProblemCode::RateLimited, exceeded, "try again after the time given")
                    .retry_after(exceeded.retry_after())
            }
        }
    }
}

impl From<AdmissionRefusal> for Problem {
    fn from(refusal: AdmissionRefusal) -> Self {
        let (code, cure) = match &refusal {
            AdmissionRefusal::QueueFull { .. } => (ProblemCode::QueueFull, "try again after the time given"),
            AdmissionRefusal::Displaced { .. } => {
                (ProblemCode::Displaced, "try again after the time given, with fewer requests at once")
            }
            AdmissionRefusal::Waited { .. } => {
                (ProblemCode::QueueTimeout, "try again after the time given, or add nodes")
            }
            AdmissionRefusal::NoRoute { source, .. } => (
                ProblemCode::NoRoute,
                match source {
                    RouteError::Nobody { .. } => "start nodes for this model, or name another class",
                    RouteError::Gap { .. } => "start a node for the missing layers",
                    RouteError::SpansDoNotMeet { .. } => "start nodes whose spans meet end to start",
                },
            ),
            AdmissionRefusal::TooLarge { .. } => {
                (ProblemCode::TooLong, "shorten the prompt or lower `max_tokens`, or add nodes with more KV")
            }
            AdmissionRefusal::TurnedAway { .. } => {
                (ProblemCode::NodesFailed, "try again after the time given")
            }
            AdmissionRefusal::Closed => return Self::draining(),
        };
        Self { retry_after: refusal.retry_after(), ..Self::new(code, &refusal, cure) }
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match &error {
            SessionError::TimedOut { .. } => {
                Self::new(ProblemCode::DeadlineExceeded, &error, "raise `deadline_ms`, or lower `max_tokens`")
            }
            SessionError::ShuttingDown => Self::draining(),
            SessionError::Refused { refusal, .. } if refusal.code == RefusalCode::BadGrammar => {
                let cure =
                    "use another schema; which parts of JSON Schema are followed is in docs/OPERATIONS.md";
                Self::new(ProblemCode::BadRequest, &refusal.detail, cure)
            }
            _ => Self::new(ProblemCode::NodesFailed, &error, "try again").retry_after(Duration::from_secs(1)),
        }
    }
}

impl From<PromptError> for Problem {
    fn from(error: PromptError) -> Self {
        match &error {
            PromptError::TooLong { .. } | PromptError::TextTooLong { .. } => {
                Self::new(ProblemCode::TooLong, &error, "shorten the prompt")
            }
            PromptError::NoTokenizer(model) => Self::new(
                ProblemCode::BadRequest,
                format!("model {model} has no tokenizer"),
                "give `token_ids` instead of `prompt` or `messages`",
            ),
            PromptError::NoTemplate(model) => Self::new(
                ProblemCode::BadRequest,
                format!("model {model} has no chat template"),
                "give `prompt` instead of `messages`",
            ),
            PromptError::Empty | PromptError::Id { .. } => {
                Self::new(ProblemCode::BadRequest, &error, "give ids of the model's vocabulary, at least one")
            }
            PromptError::Template { .. }
            | PromptError::Slow { .. }
            | PromptError::Broken { .. }
            | PromptError::Encode(_) => Self::new(
                ProblemCode::BadRequest,
                &error,
                "give another prompt, or `token_ids`; if every prompt fails, the model's text files are broken",
            ),
        }
    }
}

impl From<ParameterError> for Problem {
    fn from(error: ParameterError) -> Self {
        Self::new(ProblemCode::BadRequest, error, "give a value within its range")
    }
}

impl From<StopError> for Problem {
    fn from(error: StopError) -> Self {
        Self::field("stop", error)
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        let (code, cure) = match &error {
            ResolveError::Nothing => (ProblemCode::UnknownModel, "start nodes, or look at `router models`"),
            ResolveError::Unknown { .. } => {
                (ProblemCode::UnknownModel, "name one of the models that GET /v1/models lists")
            }
            ResolveError::Ambiguous { .. } | ResolveError::Several { .. } => {
                (ProblemCode::AmbiguousModel, "say which: GET /v1/models lists them")
            }
        };
        Self::new(code, error, cure)
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Busy => Self::new(ProblemCode::Busy, error, "try again, or start another router")
                .retry_after(Duration::from_secs(1)),
            StartError::ShuttingDown => Self::draining(),
        }
    }
}

impl From<GenerateError> for Problem {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Session(error) => error.into(),
            GenerateError::Start(error) => error.into(),
            GenerateError::Prompt(error) => error.into(),
            GenerateError::Sampling(error) => error.into(),
            GenerateError::Stop(error) => error.into(),
            error => Self::new(ProblemCode::Internal, error, "report it with the request's id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_no_more_of_a_request_than_people_read() {
        let problem = Problem::field("x", "\u{1}\u{fc}".repeat(1_000_000));
        assert!(problem.to_json().to_string().len() < 8 * MAX_MESSAGE);
    }

    #[test]
    fn a_deadline_that_passes_in_the_queue_is_told_as_one() {
        let retry_after = Duration::from_secs(2);
        let waited = AdmissionRefusal::Waited { waited: Duration::from_millis(100), retry_after };
        let late = Problem::no_place(waited.clone(), true);
        assert_eq!(
            (late.code(), late.code().status()),
            (ProblemCode::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT)
        );
        assert_eq!(late.retry_after, Some(retry_after));
        assert_eq!(Problem::no_place(waited, false).code(), ProblemCode::QueueTimeout);
        assert_eq!(Problem::no_place(AdmissionRefusal::Closed, true).code(), ProblemCode::Draining);
    }
}
