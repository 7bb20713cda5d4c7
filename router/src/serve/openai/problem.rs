//! The router's problems in the API's words.

use router_openai::{ApiError, ErrorCode};

use crate::serve::{Problem, ProblemCode};

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let code = match problem.code() {
            ProblemCode::BadRequest => ErrorCode::InvalidValue,
            ProblemCode::InvalidKey => ErrorCode::InvalidApiKey,
            ProblemCode::RateLimited => ErrorCode::RateLimitExceeded,
            ProblemCode::NotFound => ErrorCode::NotFound,
            ProblemCode::MethodNotAllowed => ErrorCode::MethodNotAllowed,
            ProblemCode::UnknownModel => ErrorCode::ModelNotFound,
            ProblemCode::AmbiguousModel => ErrorCode::AmbiguousModel,
            ProblemCode::BodyTimeout => ErrorCode::BodyTimeout,
            ProblemCode::BodyTooLarge => ErrorCode::BodyTooLarge,
            ProblemCode::TooLong => ErrorCode::ContextLengthExceeded,
            ProblemCode::QueueFull => ErrorCode::QueueFull,
            ProblemCode::Displaced => ErrorCode::Displaced,
            ProblemCode::QueueTimeout => ErrorCode::QueueTimeout,
            ProblemCode::NoRoute => ErrorCode::NoRoute,
            ProblemCode::NodesFailed => ErrorCode::NodesFailed,
            ProblemCode::DeadlineExceeded => ErrorCode::DeadlineExceeded,
            ProblemCode::Busy => ErrorCode::Busy,
            ProblemCode::Draining => ErrorCode::Draining,
            ProblemCode::Internal => ErrorCode::Internal,
        };
        let error = Self::new(code, problem.message(), problem.cure());
        match problem.try_again_after() {
            Some(after) => error.retry_after(after),
            None => error,
        }
    }
}
