//! What is wrong with a request, or with the swarm, as clients read it: a status, a code, words and the cure.

use std::fmt::Display;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::status::RefusalCode;
use proto_sampling::ParameterError;
use proto_text::StopError;
use router_openai::{ApiError, ErrorCode};
use router_plan::admission::AdmissionRefusal;
use router_plan::{ResolveError, RouteError};

use crate::driver::StartError;
use crate::generate::GenerateError;
use crate::keys::KeyRefusal;
use crate::model::PromptError;
use crate::session::SessionError;

/// A problem with its words.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    error: ApiError,
    /// The connection can't be used any further: what is left of the request is unread.
    close: bool,
}

impl Problem {
    /// A problem and what helps against it.
    pub fn new(code: ErrorCode, message: impl Display, cure: impl Display) -> Self {
        ApiError::new(code, message, cure).into()
    }

    /// With the time after which it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.error = self.error.retry_after(after);
        self
    }

    /// As the last answer on its connection.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// What clients are told.
    pub const fn error(&self) -> &ApiError {
        &self.error
    }

    /// Its kind.
    pub const fn code(&self) -> ErrorCode {
        self.error.code()
    }

    /// A field of the request that can't be used.
    pub fn field(name: &str, why: impl Display) -> Self {
        let cure = "see docs/OPERATIONS.md for the fields and their values";
        ApiError::new(ErrorCode::InvalidValue, format_args!("`{name}`: {why}"), cure).at(name).into()
    }

    /// A request that got no place. `late`: its own deadline has passed.
    pub fn no_place(refusal: AdmissionRefusal, late: bool) -> Self {
        if !late || !matches!(refusal, AdmissionRefusal::Waited { .. }) {
            return refusal.into();
        }
        let what = format!("the deadline passed while the request waited: {refusal}");
        let cure = "raise `deadline_ms`, or try again after the time given";
        Self::new(ErrorCode::DeadlineExceeded, what, cure).perhaps_after(refusal.retry_after())
    }

    /// Nothing new is taken.
    pub fn draining() -> Self {
        Self::new(ErrorCode::Draining, "the router is draining", "ask another router, or try again later")
            .retry_after(DRAINED_AFTER)
            .closing()
    }

    fn perhaps_after(self, after: Option<Duration>) -> Self {
        match after {
            Some(after) => self.retry_after(after),
            None => self,
        }
    }
}

/// A restarted router is back within this.
const DRAINED_AFTER: Duration = Duration::from_secs(5);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (status, json, self.error.to_json()).into_response();
        if let Some(after) = self.error.try_again_after() {
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

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self { error, close: false }
    }
}

impl From<KeyRefusal> for Problem {
    fn from(refusal: KeyRefusal) -> Self {
        match refusal {
            KeyRefusal::Missing | KeyRefusal::Unknown => {
                Self::new(ErrorCode::InvalidApiKey, refusal, "ask the router's operator for a key").closing()
            }
            KeyRefusal::Exceeded(exceeded) => {
                Self::new(ErrorCode::RateLimitExceeded, exceeded, "try again after the time given")
                    .retry_after(exceeded.retry_after())
            }
        }
    }
}

impl From<AdmissionRefusal> for Problem {
    fn from(refusal: AdmissionRefusal) -> Self {
        let (code, cure) = match &refusal {
            AdmissionRefusal::QueueFull { .. } => (ErrorCode::QueueFull, "try again after the time given"),
            AdmissionRefusal::Displaced { .. } => {
                (ErrorCode::Displaced, "try again after the time given, with fewer requests at once")
            }
            AdmissionRefusal::Waited { .. } => {
                (ErrorCode::QueueTimeout, "try again after the time given, or add nodes")
            }
            AdmissionRefusal::NoRoute { source, .. } => (
                ErrorCode::NoRoute,
                match source {
                    RouteError::Nobody { .. } => "start nodes for this model, or name another class",
                    RouteError::Gap { .. } => "start a node for the missing layers",
                },
            ),
            AdmissionRefusal::TooLarge { .. } => (
                ErrorCode::ContextLengthExceeded,
                "shorten the prompt or lower `max_tokens`, or add nodes with more KV",
            ),
            AdmissionRefusal::TurnedAway { .. } => (ErrorCode::NodesFailed, "try again after the time given"),
            AdmissionRefusal::Closed => return Self::draining(),
        };
        Self::new(code, &refusal, cure).perhaps_after(refusal.retry_after())
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match &error {
            SessionError::TimedOut { .. } => {
                Self::new(ErrorCode::DeadlineExceeded, &error, "raise `deadline_ms`, or lower `max_tokens`")
            }
            SessionError::ShuttingDown => Self::draining(),
            SessionError::Refused { refusal, .. } if refusal.code == RefusalCode::BadGrammar => {
                let cure =
                    "use another schema; which parts of JSON Schema are followed is in docs/OPERATIONS.md";
                Self::new(ErrorCode::InvalidValue, &refusal.detail, cure)
            }
            _ => Self::new(ErrorCode::NodesFailed, &error, "try again").retry_after(Duration::from_secs(1)),
        }
    }
}

impl From<PromptError> for Problem {
    fn from(error: PromptError) -> Self {
        match &error {
            PromptError::TooLong { .. } | PromptError::TextTooLong { .. } => {
                Self::new(ErrorCode::ContextLengthExceeded, &error, "shorten the prompt")
            }
            PromptError::NoTokenizer(model) => Self::new(
                ErrorCode::InvalidValue,
                format!("model {model} has no tokenizer"),
                "give `token_ids` instead of `prompt` or `messages`",
            ),
            PromptError::NoTemplate(model) => Self::new(
                ErrorCode::InvalidValue,
                format!("model {model} has no chat template"),
                "give `prompt` instead of `messages`",
            ),
            PromptError::Empty | PromptError::Id { .. } => {
                Self::new(ErrorCode::InvalidValue, &error, "give ids of the model's vocabulary, at least one")
            }
            PromptError::Template { .. }
            | PromptError::Slow { .. }
            | PromptError::Broken { .. }
            | PromptError::Encode(_) => Self::new(
                ErrorCode::InvalidValue,
                &error,
                "give another prompt, or `token_ids`; if every prompt fails, the model's text files are broken",
            ),
        }
    }
}

impl From<ParameterError> for Problem {
    fn from(error: ParameterError) -> Self {
        Self::new(ErrorCode::InvalidValue, error, "give a value within its range")
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
            ResolveError::Nothing => (ErrorCode::ModelNotFound, "start nodes, or look at `router models`"),
            ResolveError::Unknown { .. } => {
                (ErrorCode::ModelNotFound, "name one of the models that GET /v1/models lists")
            }
            ResolveError::Ambiguous { .. } | ResolveError::Several { .. } => {
                (ErrorCode::AmbiguousModel, "say which: GET /v1/models lists them")
            }
        };
        ApiError::new(code, error, cure).at("model").into()
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Busy => Self::new(ErrorCode::Busy, error, "try again, or start another router")
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
            error => Self::new(ErrorCode::Internal, error, "report it with the request's id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_no_more_of_a_request_than_people_read() {
        let problem = Problem::field("x", "\u{1}\u{fc}".repeat(1_000_000));
        assert!(problem.error().to_json().len() < 16_384);
    }

    #[test]
    fn a_deadline_that_passes_in_the_queue_is_told_as_one() {
        let retry_after = Duration::from_secs(2);
        let waited = AdmissionRefusal::Waited { waited: Duration::from_millis(100), retry_after };
        let late = Problem::no_place(waited.clone(), true);
        assert_eq!((late.code(), late.error().status()), (ErrorCode::DeadlineExceeded, 504));
        assert_eq!(late.error().try_again_after(), Some(retry_after));
        assert_eq!(Problem::no_place(waited, false).code(), ErrorCode::QueueTimeout);
        assert_eq!(Problem::no_place(AdmissionRefusal::Closed, true).code(), ErrorCode::Draining);
    }
}
