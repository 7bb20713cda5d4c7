//! What is wrong with a request, or with the swarm, in the shape that OpenAI's clients read.
//!
//! Owns the codes, their HTTP status and the JSON. The words are the caller's: they name the thing and the cure.

use std::fmt;
use std::time::Duration;

use crate::json::{write_text, write_u64};

/// A kind of error. A closed set: it is part of the interface and may be a label of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// The body is no JSON, or no UTF-8.
    InvalidJson,
    /// A parameter has a value of the wrong type.
    InvalidType,
    /// A parameter has a value that can't be used.
    InvalidValue,
    /// A parameter that nobody knows.
    UnknownParameter,
    /// A parameter that is needed is not there.
    MissingParameter,
    /// A parameter of OpenAI's API that this server does not have.
    UnsupportedParameter,
    /// A value of OpenAI's API that this server does not take.
    UnsupportedValue,
    /// Images, audio, files.
    UnsupportedContent,
    /// Two parameters that contradict each other.
    Conflict,
    /// More of something than is taken.
    TooMany,
    /// Prompt and answer do not fit the model or any node.
    ContextLengthExceeded,
    /// No such path.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// Nobody serves the model.
    ModelNotFound,
    /// The name stands for several models.
    AmbiguousModel,
    /// No model can do that.
    UnsupportedOperation,
    /// No key, or one that is not known.
    InvalidApiKey,
    /// The key may not do that.
    PermissionDenied,
    /// The key has used up its requests or tokens for now.
    RateLimitExceeded,
    /// The body did not come in time.
    BodyTimeout,
    /// The body is too large.
    BodyTooLarge,
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

impl ErrorCode {
    /// All of them, for documents and metrics.
    pub const ALL: [Self; 31] = [
        Self::InvalidJson,
        Self::InvalidType,
        Self::InvalidValue,
        Self::UnknownParameter,
        Self::MissingParameter,
        Self::UnsupportedParameter,
        Self::UnsupportedValue,
        Self::UnsupportedContent,
        Self::Conflict,
        Self::TooMany,
        Self::ContextLengthExceeded,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::UnsupportedMediaType,
        Self::ModelNotFound,
        Self::AmbiguousModel,
        Self::UnsupportedOperation,
        Self::InvalidApiKey,
        Self::PermissionDenied,
        Self::RateLimitExceeded,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::QueueFull,
        Self::Displaced,
        Self::QueueTimeout,
        Self::NoRoute,
        Self::NodesFailed,
        Self::DeadlineExceeded,
        Self::Busy,
        Self::Draining,
        Self::Internal,
    ];

    /// `code` in the body. Where OpenAI has a word for it, theirs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidType => "invalid_type",
            Self::InvalidValue => "invalid_value",
            Self::UnknownParameter => "unknown_parameter",
            Self::MissingParameter => "missing_required_parameter",
            Self::UnsupportedParameter => "unsupported_parameter",
            Self::UnsupportedValue => "unsupported_value",
            Self::UnsupportedContent => "unsupported_content",
            Self::Conflict => "conflicting_parameters",
            Self::TooMany => "array_above_max_length",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::ModelNotFound => "model_not_found",
            Self::AmbiguousModel => "ambiguous_model",
            Self::UnsupportedOperation => "unsupported_operation",
            Self::InvalidApiKey => "invalid_api_key",
            Self::PermissionDenied => "permission_denied",
            Self::RateLimitExceeded => "rate_limit_exceeded",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
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

    /// `type` in the body: the class of errors that OpenAI's clients know.
    pub const fn kind(self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            409 => "conflict_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidJson
            | Self::InvalidType
            | Self::InvalidValue
            | Self::UnknownParameter
            | Self::MissingParameter
            | Self::UnsupportedParameter
            | Self::UnsupportedValue
            | Self::UnsupportedContent
            | Self::Conflict
            | Self::TooMany
            | Self::ContextLengthExceeded
            | Self::UnsupportedOperation => 400,
            Self::InvalidApiKey => 401,
            Self::PermissionDenied => 403,
            Self::NotFound | Self::ModelNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTimeout => 408,
            Self::AmbiguousModel => 409,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimitExceeded | Self::QueueFull | Self::Displaced => 429,
            Self::Internal => 500,
            Self::NodesFailed => 502,
            Self::QueueTimeout | Self::NoRoute | Self::Busy | Self::Draining => 503,
            Self::DeadlineExceeded => 504,
        }
    }
}

/// An error with its words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    param: Option<String>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// What is wrong, and what helps.
    pub fn new(code: ErrorCode, what: impl fmt::Display, cure: impl fmt::Display) -> Self {
        let mut message = what.to_string();
        cut(&mut message, MAX_WHAT);
        let mut cure = cure.to_string();
        cut(&mut cure, MAX_WHAT);
        if !cure.is_empty() {
            message.push_str("; ");
            message.push_str(&cure);
        }
        Self { code, message, param: None, retry_after: None }
    }

    /// With the parameter that is to blame, such as `messages[2].content[0]`.
    #[must_use]
    pub fn at(mut self, param: impl fmt::Display) -> Self {
        let mut param = param.to_string();
        cut(&mut param, MAX_PARAM);
        self.param = Some(param);
        self
    }

    /// With the time after which it is worth trying again.
    #[must_use]
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Its kind.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The HTTP status.
    pub const fn status(&self) -> u16 {
        self.code.status()
    }

    /// What is wrong and what helps.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The parameter that is to blame.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// When it is worth trying again, for the header `Retry-After`.
    pub const fn try_again_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Appends `{"error":{..}}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":");
        self.write_inner(out);
        out.push(b'}');
    }

    /// Appends the object inside `error`.
    pub(crate) fn write_inner(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"message\":");
        write_text(&self.message, out);
        out.extend_from_slice(b",\"type\":");
        write_text(self.code.kind(), out);
        out.extend_from_slice(b",\"param\":");
        match &self.param {
            Some(param) => write_text(param, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"code\":");
        write_text(self.code.name(), out);
        if let Some(after) = self.retry_after {
            out.extend_from_slice(b",\"retry_after_ms\":");
            write_u64(u64::try_from(after.as_millis()).unwrap_or(u64::MAX), out);
        }
        out.push(b'}');
    }

    /// The whole body of an error.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out
    }
}

/// A piece of input as an error repeats it: short, in quotes, without control characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote<'a>(pub(crate) &'a str);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut short = &self.0[..self.0.floor_char_boundary(MAX_QUOTE)];
        let cut = short.len() < self.0.len();
        f.write_str("`")?;
        while let Some(c) = short.chars().next() {
            short = &short[c.len_utf8()..];
            fmt::Write::write_char(f, if c.is_control() { ' ' } else { c })?;
        }
        f.write_str(if cut { " ..`" } else { "`" })
    }
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str(" ..");
    }
}

/// Bytes of what is wrong: a parser repeats what it does not understand, which may be all of a body of megabytes.
const MAX_WHAT: usize = 1024;
/// Bytes of a parameter's place: the deepest that are checked have some fifty.
const MAX_PARAM: usize = 256;
/// Bytes of input that are repeated.
const MAX_QUOTE: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_openais() {
        let error = ApiError::new(ErrorCode::InvalidValue, "`n` is 0", "give 1 to 16").at("n");
        let told = String::from_utf8(error.to_json()).unwrap();
        assert_eq!(
            told,
            r#"{"error":{"message":"`n` is 0; give 1 to 16","type":"invalid_request_error","param":"n","code":"invalid_value"}}"#
        );
        let busy = ApiError::new(ErrorCode::Busy, "busy", "").retry_after(Duration::from_millis(1500));
        let told = String::from_utf8(busy.to_json()).unwrap();
        assert!(
            told.contains(r#""type":"server_error","param":null,"code":"busy","retry_after_ms":1500"#),
            "{told}"
        );
        assert_eq!(busy.status(), 503);
    }

    #[test]
    fn no_error_repeats_long_input() {
        let long = "\u{1}\u{fc}".repeat(1 << 20);
        let error = ApiError::new(ErrorCode::InvalidJson, &long, &long).at(&long);
        assert!(error.to_json().len() < 8 * (2 * MAX_WHAT + MAX_PARAM));
        assert!(Quote(&long).to_string().len() < 2 * MAX_QUOTE);
        assert!(!Quote("a\nb\u{1b}").to_string().contains(char::is_control));
    }

    #[test]
    fn codes_have_names_of_their_own() {
        let names: std::collections::HashSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }
}
