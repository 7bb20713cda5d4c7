//! Which web pages may use the API: by default none.
//!
//! A browser sends what any page asks it to, to this machine's own ports too, and keeps only the answer from the page. So a
//! page that is not allowed is refused before anything is done for it, rather than just not shown the answer; and since
//! what it may send without asking is never more than a POST, other methods need no such check.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, Request, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use router_openai::ErrorCode;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use super::Problem;

/// Where a page comes from, `https://chat.example.org` or `http://localhost:3000`; or `*`, any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin(String);

/// A text is no origin.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no origin: give SCHEME://HOST[:PORT] without a path, such as http://localhost:3000, or `*` for any"
)]
pub struct OriginError(String);

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        // Browsers send it in lower case and without a slash behind it; anything else would never match.
        let host = |(scheme, host): (&str, &str)| {
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.:[]_".contains(c);
            !scheme.is_empty() && !host.is_empty() && (scheme.chars().all(known) && host.chars().all(known))
        };
        if text == ANY || text.split_once("://").is_some_and(host) {
            Ok(Self(text.to_owned()))
        } else {
            Err(OriginError(text.to_owned()))
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets pages of these origins use the API, and no others.
pub(super) fn guarded(app: Router, origins: &[Origin]) -> Router {
    let any = origins.iter().any(|origin| origin.0 == ANY);
    // Inside: what it refuses an allowed page may read. There is nothing to refuse where any page is allowed.
    let app =
        if any { app } else { app.layer(from_fn_with_state(Arc::<[Origin]>::from(origins), refuse_others)) };
    if origins.is_empty() {
        return app;
    }
    let allowed = if any {
        AllowOrigin::from(Any)
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(&origin.0).ok()))
    };
    app.layer(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            // `authorization` among them, and what the official JavaScript client sends of itself. No cookies: a page
            // must know the key.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED.map(HeaderName::from_static))
            .max_age(REMEMBERED),
    )
}

async fn refuse_others(
    State(origins): State<Arc<[Origin]>>,
    request: Request<Body>,
    next: Next,
) -> Result<Response, Infallible> {
    let origin = request.headers().get(header::ORIGIN).filter(|_| request.method() == Method::POST);
    let allowed =
        origin.is_none_or(|sent| origins.iter().any(|origin| origin.0.as_bytes() == sent.as_bytes()));
    if allowed {
        return Ok(next.run(request).await);
    }
    let sent = origin.map(|sent| String::from_utf8_lossy(sent.as_bytes()).into_owned()).unwrap_or_default();
    let what = format!("pages of {sent} may not use this router");
    let cure = "start it with --allow-origin and the page's origin";
    // Its body is unread.
    Ok(Problem::new(ErrorCode::PermissionDenied, what, cure).closing().into_response())
}

const ANY: &str = "*";
/// What a page may read of an answer's head beside what it always may.
const EXPOSED: [&str; 4] = ["x-request-id", "layerlane-session", "layerlane-route", "retry-after"];
/// How long browsers remember that they may: the longest that all of them take is two hours.
const REMEMBERED: Duration = Duration::from_hours(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_is_an_origin() {
        for text in [
            "*",
            "http://localhost:3000",
            "https://chat.example.org",
            "app://obsidian.md",
            "http://[::1]:8080",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "null",
            "localhost",
            "http://",
            "://x",
            "http://x/",
            "http://x/y",
            "http://X",
            "http://*.org",
            "http://a b",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
