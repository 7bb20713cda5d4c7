//! Why a model could not be fetched from a hub, each with its cure.

use std::io;
use std::path::PathBuf;

/// Why a fetch failed. It can always be run again; finished files and parts of files are kept.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// 401 or 403: hubs say so, too, of repositories that do not exist.
    #[error("{repository}: the hub refuses access ({status}){}; check the name, accept the model's terms on its page, and set HF_TOKEN to a token of an account that may read it", token_note(*.had_token))]
    Refused {
        /// `ORG/NAME`.
        repository: String,
        /// The HTTP status.
        status: u16,
        /// A token was sent.
        had_token: bool,
    },
    /// 404.
    #[error("{repository}: the hub has no {what}; check the spelling of hf:ORG/NAME@REVISION")]
    NotFound {
        /// `ORG/NAME`.
        repository: String,
        /// The repository, revision or file that is missing.
        what: String,
    },
    /// 429.
    #[error("{repository}: the hub asks to slow down (429){}; run again later, with HF_TOKEN set if it is not: the files fetched so far are kept", wait_note(.retry_after.as_deref()))]
    Throttled {
        /// `ORG/NAME`.
        repository: String,
        /// The hub's Retry-After.
        retry_after: Option<String>,
    },
    /// 5xx and everything else that is not success.
    #[error(
        "{repository}: the hub answered {status} for {what}; the fault is on its side: run again later, the files fetched so far are kept"
    )]
    Status {
        /// `ORG/NAME`.
        repository: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
    },
    /// No answer at all.
    #[error(
        "{repository}: {what}: {endpoint} cannot be reached ({said}); check the network, a proxy's HTTPS_PROXY, and HF_ENDPOINT"
    )]
    Unreachable {
        /// `ORG/NAME`.
        repository: String,
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// The client's word.
        said: String,
    },
    /// The connection broke again and again.
    #[error(
        "{repository}: {file} broke off after {have} of {size} bytes ({said}), {attempts} times without getting further; run again to go on from there"
    )]
    BrokenOff {
        /// `ORG/NAME`.
        repository: String,
        /// The file.
        file: String,
        /// Bytes that are here.
        have: u64,
        /// Bytes of the file.
        size: u64,
        /// Attempts that brought nothing.
        attempts: u32,
        /// The last failure.
        said: String,
    },
    /// The bytes are not the listed ones.
    #[error("{repository}: {file} has SHA-256 {got}, the hub lists {expected}; it was removed: run again")]
    Hash {
        /// `ORG/NAME`.
        repository: String,
        /// The file.
        file: String,
        /// The listed hash.
        expected: String,
        /// The hash found.
        got: String,
    },
    /// The listing makes no sense or breaks a limit.
    #[error("{repository}: the hub's listing is unusable: {what}; check HF_ENDPOINT")]
    Listing {
        /// `ORG/NAME`.
        repository: String,
        /// What is wrong.
        what: String,
    },
    /// A file's header has no end within reason.
    #[error(
        "{repository}: the header of {file} does not end within {bytes} bytes, which is as far as is looked without \
         the whole file; if you trust it, fetch the file and inspect it here"
    )]
    HeaderTooLong {
        /// `ORG/NAME`.
        repository: String,
        /// The file.
        file: String,
        /// Bytes that were read.
        bytes: u64,
    },
    /// The repository holds nothing that can be served.
    #[error("{repository}: {what}")]
    NoWeights {
        /// `ORG/NAME`.
        repository: String,
        /// What it holds instead, and the cure.
        what: String,
    },
    /// Not enough space.
    #[error(
        "{directory} has {free} MB free, {repository} needs {needed} MB; free some, or set XDG_CACHE_HOME to a larger disk"
    )]
    Space {
        /// `ORG/NAME`.
        repository: String,
        /// The cache.
        directory: PathBuf,
        /// Megabytes free.
        free: u64,
        /// Megabytes needed.
        needed: u64,
    },
    /// `HF_ENDPOINT` or `HF_TOKEN` cannot be used.
    #[error("{variable} {what}")]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// Verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl HubError {
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// May the same fetch succeed later without the user changing anything?
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. } | Self::Status { .. } | Self::Unreachable { .. } | Self::BrokenOff { .. }
        )
    }
}

fn token_note(had_token: bool) -> &'static str {
    if had_token { " although HF_TOKEN was sent" } else { ", no HF_TOKEN was sent" }
}

fn wait_note(retry_after: Option<&str>) -> String {
    retry_after.map(|seconds| format!(", in {seconds} s")).unwrap_or_default()
}
