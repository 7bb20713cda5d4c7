//! Models from a hub: `hf:ORG/NAME[@REV]` becomes a directory on this machine with the files that a span needs.
//!
//! ```text
//! CACHE/ORG--NAME/refs/REV               the commit that a branch or tag stood for when it was last asked
//! CACHE/ORG--NAME/COMMIT/.listing.json   what the commit holds
//! CACHE/ORG--NAME/COMMIT/config.json ... its files; `.NAME.part` while they come
//! CACHE/ORG--NAME/.lock                  held by the process that fetches
//! ```
//!
//! [`glance`] reads headers only, into a folder of its own, and leaves nothing here.
//!
//! A commit never changes, so what is there is not asked for again; a hub that cannot be reached matters only
//! for files that are missing. Blocking: call it from a thread of its own. It does not read weights.

mod client;
mod download;
mod error;
mod glance;
mod listing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proto::LayerSpan;
use shard_node_weights::HubRef;

use client::Client;
pub use error::HubError;
pub use glance::{Glance, glance};
use listing::{INDEX, Listing, Wanted, Weights, shards_for};

/// Which hub, with which credentials, and where its files are kept.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Sent to the hub, not to the servers it redirects to.
    pub token: Option<HubToken>,
    /// Where fetched models are kept.
    pub cache: PathBuf,
}

/// An access token; it does not show itself in logs.
#[derive(Clone)]
pub struct HubToken(String);

impl HubToken {
    fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubToken(..)")
    }
}

/// Where `hf:` leads when `HF_ENDPOINT` is not set.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

impl HubOptions {
    /// `HF_ENDPOINT` and `HF_TOKEN`, with files kept in `cache`.
    pub fn from_environment(cache: PathBuf) -> Result<Self, HubError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self::new(&endpoint, variable("HF_TOKEN").as_deref(), cache)
    }

    /// Options from values as the environment has them.
    pub fn new(endpoint: &str, token: Option<&str>, cache: PathBuf) -> Result<Self, HubError> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            return Err(HubError::Setting {
                variable: "HF_ENDPOINT",
                what: "is not an http(s) address; unset it to use the default hub",
            });
        }
        let token = token.map(str::trim);
        if token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Setting {
                variable: "HF_TOKEN",
                what: "holds characters that no token has",
            });
        }
        Ok(Self {
            endpoint: endpoint.to_owned(),
            token: token.map(|token| HubToken(token.to_owned())),
            cache,
        })
    }
}

/// How far a fetch is.
#[derive(Debug)]
pub struct HubProgress<'a> {
    /// The file that comes.
    pub file: &'a str,
    /// Bytes of it so far.
    pub bytes: u64,
    /// Bytes of it in all.
    pub of: u64,
}

/// Fetches what is missing of a model and gives its path: a directory in the HF layout, or a GGUF file where
/// the repository holds just one. With a span, only the shard files of its layers are fetched.
pub fn fetch(
    hub: &HubRef,
    span: Option<LayerSpan>,
    options: &HubOptions,
    mut progress: impl FnMut(HubProgress<'_>),
) -> Result<PathBuf, HubError> {
    let client = Client::new(options, hub);
    let home = options.cache.join(format!("{}--{}", hub.organisation, hub.name));
    fs::create_dir_all(&home).map_err(HubError::io("create", &home))?;
    let _lock = lock(&home)?;
    let (directory, listing) = listing(&client, hub, &home)?;
    let unusable = |what: String| HubError::Listing { repository: hub.repository(), what };
    let no_weights = |what: String| HubError::NoWeights { repository: hub.repository(), what };
    let mut get = |files: &[Wanted]| -> Result<(), HubError> {
        check_space(&client, &directory, files)?;
        for file in files {
            let tell = |bytes| progress(HubProgress { file: &file.name, bytes, of: file.bytes });
            download::download(&client, &listing.sha, file, &directory, tell)?;
        }
        Ok(())
    };
    let weights = listing.weights().map_err(unusable)?.map_err(no_weights)?;
    if let Weights::Gguf(file) = weights {
        get(std::slice::from_ref(&file))?;
        return Ok(directory.join(file.name));
    }
    let text_files = listing.text_files().map_err(unusable)?;
    if !text_files.iter().any(|file| file.name == "config.json") {
        return Err(no_weights("it holds no config.json; it is not a model in the HF layout".to_owned()));
    }
    get(&text_files)?;
    match weights {
        Weights::Single(file) | Weights::Gguf(file) => get(&[file])?,
        Weights::Index(index) => {
            get(&[index])?;
            let path = directory.join(INDEX);
            let bytes = fs::read(&path).map_err(HubError::io("read", &path))?;
            let shards = shards_for(&bytes, span, is_tied(&directory)).map_err(unusable)?;
            let find = |name: &String| {
                let file = listing.file(name).map_err(unusable)?;
                file.ok_or_else(|| unusable(format!("{INDEX} names {name}, which is not there")))
            };
            get(&shards.iter().map(find).collect::<Result<Vec<_>, _>>()?)?;
        }
    }
    Ok(directory)
}

/// The listing of the wanted commit with its directory, kept for later.
fn listing(client: &Client<'_>, hub: &HubRef, home: &Path) -> Result<(PathBuf, Listing), HubError> {
    if let Some(seen) = seen_listing(hub, home) {
        return Ok(seen);
    }
    let listing = known_listing(client, hub, home)?;
    let directory = home.join(&listing.sha);
    fs::create_dir_all(&directory).map_err(HubError::io("create", &directory))?;
    let path = directory.join(LISTING);
    let json =
        serde_json::to_vec(&listing).map_err(std::io::Error::from).map_err(HubError::io("write", &path))?;
    write_whole(&path, &json)?;
    write_whole(&reference(hub, home), listing.sha.as_bytes())?;
    Ok((directory, listing))
}

/// The kept listing of a revision that is a commit: that never changes.
fn seen_listing(hub: &HubRef, home: &Path) -> Option<(PathBuf, Listing)> {
    let commit = hub.revision.as_deref().filter(|revision| revision.len() == 40)?;
    cached_listing(home, commit)
}

/// The listing of a branch, tag or new commit: the hub's, or the one that was kept if the hub cannot be reached.
fn known_listing(client: &Client<'_>, hub: &HubRef, home: &Path) -> Result<Listing, HubError> {
    let bytes = match client.listing(revision(hub)) {
        Err(error) if error.is_retryable() => {
            let commit = fs::read_to_string(reference(hub, home)).ok();
            let cached = commit.and_then(|commit| cached_listing(home, commit.trim()));
            if cached.is_some() {
                tracing::warn!(%error, "the hub cannot be asked, using the revision last seen");
            }
            return cached.map(|(_, listing)| listing).ok_or(error);
        }
        other => other?,
    };
    Listing::parse(&bytes).map_err(|what| HubError::Listing { repository: hub.repository(), what })
}

fn revision(hub: &HubRef) -> &str {
    hub.revision.as_deref().unwrap_or("main")
}

/// Where the commit that a revision stood for is kept.
fn reference(hub: &HubRef, home: &Path) -> PathBuf {
    home.join("refs").join(revision(hub).replace('/', "%2F"))
}

const LISTING: &str = ".listing.json";

fn cached_listing(home: &Path, commit: &str) -> Option<(PathBuf, Listing)> {
    if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let directory = home.join(commit);
    let listing = Listing::parse(&fs::read(directory.join(LISTING)).ok()?).ok()?;
    (listing.sha == commit).then_some((directory, listing))
}

/// Whether `config.json` says that the head is the embedding; then a head that lies beside it is not used.
fn is_tied(directory: &Path) -> bool {
    let config = fs::read(directory.join("config.json")).ok();
    let config = config.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    config.is_some_and(|config| config.get("tie_word_embeddings") == Some(&serde_json::Value::Bool(true)))
}

/// Writes a small file so that nobody ever reads half of it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory).map_err(HubError::io("create", directory))?;
    let partial = path.with_extension("new");
    fs::write(&partial, bytes).map_err(HubError::io("write", &partial))?;
    fs::rename(&partial, path).map_err(HubError::io("place", path))
}

/// One process fetches a model at a time; the others wait and then find the files.
fn lock(home: &Path) -> Result<fs::File, HubError> {
    let path = home.join(".lock");
    let file = fs::File::create(&path).map_err(HubError::io("create", &path))?;
    file.lock().map_err(HubError::io("lock", &path))?;
    Ok(file)
}

fn check_space(client: &Client<'_>, directory: &Path, files: &[Wanted]) -> Result<(), HubError> {
    let here = |name: &str| fs::metadata(directory.join(name)).map_or(0, |found| found.len());
    let missing = files.iter().map(|file| {
        let part = here(&format!(".{}.part", file.name));
        file.bytes.saturating_sub(here(&file.name)).saturating_sub(part)
    });
    let needed = missing.fold(0_u64, u64::saturating_add);
    // A file system that does not say is not a reason to refuse.
    let Ok(stat) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > free {
        return Err(HubError::Space {
            repository: client.repository().to_owned(),
            directory: directory.to_owned(),
            free: free / 1_000_000,
            needed: needed.div_ceil(1_000_000),
        });
    }
    Ok(())
}
