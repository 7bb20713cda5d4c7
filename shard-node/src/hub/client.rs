//! HTTP with a hub: requests with the token where it belongs, and every status as an error that says what to
//! do. It knows nothing of files on disk.

use std::ops::Range;
use std::time::Duration;

use shard_node_weights::HubRef;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::HubOptions;
use super::error::HubError;

/// Largest listing: 20,000 files of 300 bytes.
const MAX_LISTING_BYTES: u64 = 8 << 20;

/// A hub and one of its repositories.
#[derive(Debug)]
pub(super) struct Client<'a> {
    agent: Agent,
    options: &'a HubOptions,
    repository: String,
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a HubOptions, hub: &HubRef) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: the client's own rule would give the token to every port of the
            // hub's host.
            .max_redirects(0)
            .user_agent(concat!("layerlane/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_mins(1)))
            // A body has no limit as a whole, but a server that stays silent for a minute is gone.
            .timeout_per_read(Some(Duration::from_mins(1)))
            .build();
        Self { agent: config.new_agent(), options, repository: hub.repository() }
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// The JSON listing of a revision.
    pub(super) fn listing(&self, revision: &str) -> Result<Vec<u8>, HubError> {
        // A branch such as refs/pr/1 is one component of the route.
        let escaped = revision.replace('/', "%2F");
        let url =
            format!("{}/api/models/{}/revision/{escaped}?blobs=true", self.options.endpoint, self.repository);
        let what = format!("revision {revision}");
        let response = self.get(&url, &what, None)?;
        let body = response.into_body().into_with_config().limit(MAX_LISTING_BYTES).read_to_vec();
        body.map_err(|error| self.unreachable(&what, &error))
    }

    /// A file at a commit, from byte `from` on. Gives where the body really begins, and the body.
    pub(super) fn file(&self, commit: &str, name: &str, from: u64) -> Result<(u64, Body), HubError> {
        let range = format!("bytes={from}-");
        self.resolve(commit, name, Some(&*range).filter(|_| from > 0))
    }

    /// Some bytes of a file, not none. Gives where the body really begins, and the body, which a server that does
    /// not know ranges goes on with to the file's end: drop it early.
    pub(super) fn part(&self, commit: &str, name: &str, range: &Range<u64>) -> Result<(u64, Body), HubError> {
        let last = range.end.saturating_sub(1);
        self.resolve(commit, name, Some(&format!("bytes={}-{last}", range.start)))
    }

    fn resolve(&self, commit: &str, name: &str, range: Option<&str>) -> Result<(u64, Body), HubError> {
        let url = format!("{}/{}/resolve/{commit}/{name}", self.options.endpoint, self.repository);
        let response = self.get(&url, name, range)?;
        let begins = match response.status().as_u16() {
            206 => begin_of_range(response.headers()).ok_or_else(|| HubError::Status {
                repository: self.repository.clone(),
                status: 206,
                what: format!("{name} without a Content-Range"),
            })?,
            _ => 0,
        };
        Ok((begins, response.into_body()))
    }

    fn get(&self, url: &str, what: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        let mut response = self.request(&url, what, range)?;
        for _ in 0..MAX_REDIRECTS {
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                break;
            }
            let location = response.headers().get("location").and_then(|location| location.to_str().ok());
            let Some(next) = location.and_then(|location| redirected(&url, location)) else { break };
            url = next;
            response = self.request(&url, what, range)?;
        }
        let repository = self.repository.clone();
        let what = what.to_owned();
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            status @ (401 | 403) => {
                Err(HubError::Refused { repository, status, had_token: self.options.token.is_some() })
            }
            404 => Err(HubError::NotFound { repository, what }),
            429 => {
                let retry_after = response.headers().get("retry-after");
                let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                Err(HubError::Throttled {
                    repository,
                    retry_after: seconds.map(|seconds| seconds.to_string()),
                })
            }
            status => Err(HubError::Status { repository, status, what }),
        }
    }

    /// One request, with the token if it goes to the hub itself and not to a file server.
    fn request(&self, url: &str, what: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) =
            self.options.token.as_ref().filter(|_| origin(url) == origin(&self.options.endpoint))
        {
            request = request.header("Authorization", format!("Bearer {}", token.reveal()));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        request.call().map_err(|error| self.unreachable(what, &error))
    }

    fn unreachable(&self, what: &str, error: &ureq::Error) -> HubError {
        HubError::Unreachable {
            repository: self.repository.clone(),
            what: what.to_owned(),
            endpoint: self.options.endpoint.clone(),
            said: error.to_string(),
        }
    }
}

/// Hubs redirect once or twice: a renamed repository, then its file server.
const MAX_REDIRECTS: usize = 5;

/// Scheme and authority of an address, without the slash that ends them.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Where a `Location` leads; `None` where it should not be followed, as from https to http.
fn redirected(from: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || (location.starts_with("http://") && from.starts_with("http://")) {
        return Some(location.to_owned());
    }
    // A path on the same server; `//host` would be another one.
    (location.starts_with('/') && !location.starts_with("//")).then(|| format!("{}{location}", origin(from)))
}

/// `Content-Range: bytes 100-199/200` begins at 100.
fn begin_of_range(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_to_their_scheme() {
        let from = "https://hub:1/a/b?c";
        assert_eq!(redirected(from, "/d").as_deref(), Some("https://hub:1/d"));
        assert_eq!(redirected(from, "https://store/d").as_deref(), Some("https://store/d"));
        assert_eq!(redirected("http://hub", "http://store/d").as_deref(), Some("http://store/d"));
        for location in ["http://store/d", "//store/d", "ftp://store", "d", ""] {
            assert_eq!(redirected(from, location), None, "{location}");
        }
        assert_eq!(origin("http://hub"), "http://hub");
        assert_ne!(origin("http://hub:80/a"), origin("http://hub:81/a"));
        assert_ne!(origin("https://hub@evil/a"), origin("https://hub/a"));
    }
}
