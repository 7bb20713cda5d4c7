//! Endpoints of OpenAI's API, and of servers that follow it, that are not served: each is told by what it is for, so that a
//! client's user reads more than that a path is unknown.

use crate::error::{ApiError, ErrorCode, Quote};

/// The error for a path that other servers have; `None` for one that nobody has.
pub fn unsupported_endpoint(path: &str) -> Option<ApiError> {
    let rest = path.strip_prefix("/v1/").unwrap_or_else(|| path.trim_start_matches('/'));
    let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
    let known = |(name, _, _): &&(&str, &str, &str)| *name == first;
    let (what, cure) = match UNSUPPORTED.iter().find(known) {
        Some((_, what, cure)) => (*what, *cure),
        // What was answered earlier, under its id.
        None if first == "responses" && !after.is_empty() => (KEPT, RESEND),
        None => match after.strip_prefix("completions/") {
            Some(id) if first == "chat" && !id.is_empty() => (KEPT, RESEND),
            _ => return None,
        },
    };
    let what = format_args!("{what} are not supported: there is no {}", Quote(path));
    Some(ApiError::new(ErrorCode::UnsupportedOperation, what, cure))
}

const KEPT: &str = "answers that were given earlier";
const RESEND: &str = "none is kept; send the whole conversation again";
const ELSEWHERE: &str = "only models that generate text are served; ask another server";
const STATELESS: &str =
    "nothing is kept here; send the whole conversation to /v1/chat/completions or /v1/responses";
const NO_FILES: &str = "nothing is kept here; put the text into the request";

/// The first part of the path, what it is for, and what to do instead.
const UNSUPPORTED: &[(&str, &str, &str)] = &[
    ("images", "images", ELSEWHERE),
    ("audio", "audio, speech and transcriptions", ELSEWHERE),
    ("videos", "videos", ELSEWHERE),
    ("realtime", "realtime sessions", "use streams of /v1/chat/completions or /v1/responses"),
    ("moderations", "moderations", ELSEWHERE),
    ("rerank", "rankings", ELSEWHERE),
    ("assistants", "assistants", STATELESS),
    ("threads", "threads of assistants", STATELESS),
    ("conversations", "conversations that are kept", STATELESS),
    ("files", "files", NO_FILES),
    ("uploads", "uploads", NO_FILES),
    ("vector_stores", "vector stores", NO_FILES),
    ("containers", "containers", NO_FILES),
    ("batches", "batches", "send the requests one by one, as many at once as you like"),
    ("fine_tuning", "fine-tuning jobs", "train elsewhere and serve the model with `shard-node serve`"),
    ("fine-tunes", "fine-tuning jobs", "train elsewhere and serve the model with `shard-node serve`"),
    ("evals", "evaluations", "run them where your client runs"),
    ("edits", "edits", "use /v1/chat/completions"),
    ("engines", "engines", "use /v1/models, and name the model in the request"),
    ("messages", "messages of Anthropic's API", "use /v1/chat/completions"),
    ("organization", "organizations", "use `router keys`"),
    ("projects", "projects", "use `router keys`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_is_named_and_what_nobody_has_is_not() {
        for (path, word) in [
            ("/v1/images/generations", "images"),
            ("/v1/images", "images"),
            ("/images/edits", "images"),
            ("/v1/audio/speech", "audio"),
            ("/v1/audio/transcriptions", "transcriptions"),
            ("/v1/assistants", "assistants"),
            ("/v1/assistants/asst_1/files", "assistants"),
            ("/v1/threads/thread_1/runs", "threads"),
            ("/v1/files", "files"),
            ("/v1/batches/b_1/cancel", "batches"),
            ("/v1/fine_tuning/jobs", "fine-tuning"),
            ("/v1/moderations", "moderations"),
            ("/v1/vector_stores", "vector stores"),
            ("/v1/responses/resp_1", "given earlier"),
            ("/v1/responses/resp_1/cancel", "given earlier"),
            ("/v1/chat/completions/chatcmpl-1", "given earlier"),
        ] {
            let error = unsupported_endpoint(path).expect(path);
            assert_eq!((error.status(), error.code()), (400, ErrorCode::UnsupportedOperation));
            assert!(error.message().contains(word) && error.message().contains(path), "{}", error.message());
        }
        for path in [
            "/",
            "",
            "//",
            "/v1",
            "/v1/",
            "/v1/imagesx",
            "/v1/chat/completions",
            "/v1/chat/completions/",
            "/v1/chat",
            "/v1/responses",
            "/v1/responses/",
            "/v1/models",
            "/v1/nothing/images",
            "/favicon.ico",
        ] {
            assert_eq!(unsupported_endpoint(path), None, "{path}");
        }
        let long = format!("/v1/images/{}", "\u{fc}\n".repeat(100_000));
        assert!(unsupported_endpoint(&long).unwrap().to_json().len() < 4096);
    }
}
