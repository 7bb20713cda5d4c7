//! A model's headers without its weights: what `inspect` needs of a hub's model, by ranges of bytes.
//!
//! The small files come whole; of each file of weights its header, put at the head of a file that is as long as the real
//! one and otherwise a hole. Opening that folder then checks and says what it would of the whole model, with the same
//! limits. It is a temporary one, gone with the [`Glance`], so that nothing incomplete can be taken for a model. What is
//! fetched is not checked against a hash: hubs list those of whole files.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use shard_node_weights::gguf::Gguf;
use shard_node_weights::{HubRef, safetensors};
use tempfile::TempDir;

use super::client::Client;
use super::listing::{INDEX, Listing, Wanted, Weights, shards_for};
use super::{HubError, HubOptions, is_tied, known_listing, seen_listing};

/// A model whose headers are here.
#[derive(Debug)]
pub struct Glance {
    path: PathBuf,
    fetched: u64,
    /// `None` where the whole model was here already.
    headers: Option<TempDir>,
}

impl Glance {
    /// What to open. It goes when this is dropped, unless it is [whole](Self::is_whole).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the model's tensors are there too, from an earlier fetch.
    pub const fn is_whole(&self) -> bool {
        self.headers.is_none()
    }

    /// Bytes of files that were read from the hub.
    pub const fn fetched(&self) -> u64 {
        self.fetched
    }
}

/// Reads a model's headers from the hub, or finds the model whole in the cache.
pub fn glance(hub: &HubRef, options: &HubOptions) -> Result<Glance, HubError> {
    let client = Client::new(options, hub);
    let home = options.cache.join(format!("{}--{}", hub.organisation, hub.name));
    let listing = match seen_listing(hub, &home) {
        Some((_, listing)) => listing,
        None => known_listing(&client, hub, &home)?,
    };
    let unusable = |what: String| HubError::Listing { repository: hub.repository(), what };
    let no_weights = |what: String| HubError::NoWeights { repository: hub.repository(), what };
    let weights = listing.weights().map_err(unusable)?.map_err(no_weights)?;
    if let Some(path) = whole(&home.join(&listing.sha), &weights, &listing) {
        return Ok(Glance { path, fetched: 0, headers: None });
    }
    let headers = tempfile::Builder::new()
        .prefix("layerlane-headers-")
        .tempdir()
        .map_err(HubError::io("create a folder in", std::env::temp_dir()))?;
    let mut reader = Reader { client: &client, commit: &listing.sha, to: headers.path(), fetched: 0 };
    let path = match weights {
        Weights::Gguf(file) => {
            reader.gguf(&file)?;
            headers.path().join(&file.name)
        }
        Weights::Single(file) => {
            reader.small_files(&listing)?;
            reader.safetensors(&file)?;
            headers.path().to_owned()
        }
        Weights::Index(index) => {
            reader.small_files(&listing)?;
            let bytes = reader.whole(&index)?;
            for name in shards_for(&bytes, None, is_tied(headers.path())).map_err(unusable)? {
                let shard = listing.file(&name).map_err(unusable)?;
                let missing = || unusable(format!("{INDEX} names {name}, which is not there"));
                reader.safetensors(&shard.ok_or_else(missing)?)?;
            }
            headers.path().to_owned()
        }
    };
    Ok(Glance { path, fetched: reader.fetched, headers: Some(headers) })
}

/// The model's path in the cache, if all of its weights are there.
fn whole(directory: &Path, weights: &Weights, listing: &Listing) -> Option<PathBuf> {
    let here = |wanted: &Wanted| {
        fs::metadata(directory.join(&wanted.name)).is_ok_and(|found| found.len() == wanted.bytes)
    };
    let config = || listing.file("config.json").ok().flatten().is_some_and(|config| here(&config));
    match weights {
        Weights::Gguf(file) => here(file).then(|| directory.join(&file.name)),
        Weights::Single(file) => (config() && here(file)).then(|| directory.to_owned()),
        Weights::Index(index) => {
            let bytes = fs::read(directory.join(INDEX)).ok().filter(|_| here(index))?;
            let shards = shards_for(&bytes, None, is_tied(directory)).ok()?;
            let all =
                shards.iter().all(|name| listing.file(name).ok().flatten().is_some_and(|file| here(&file)));
            (config() && all).then(|| directory.to_owned())
        }
    }
}

/// Puts parts of a commit's files into a folder.
struct Reader<'a> {
    client: &'a Client<'a>,
    commit: &'a str,
    to: &'a Path,
    fetched: u64,
}

impl Reader<'_> {
    /// What an inspection reads beside the weights: shape and licence.
    fn small_files(&mut self, listing: &Listing) -> Result<(), HubError> {
        let repository = || self.client.repository().to_owned();
        let unusable = |what: String| HubError::Listing { repository: repository(), what };
        let config = listing.file("config.json").map_err(unusable)?.ok_or_else(|| HubError::NoWeights {
            repository: repository(),
            what: "it holds no config.json; it is not a model in the HF layout".to_owned(),
        })?;
        let card = listing.file("README.md").ok().flatten().filter(|card| card.bytes <= MAX_CARD_BYTES);
        self.whole(&config)?;
        // Only the licence is in it.
        if let Some(card) = card
            && let Err(error) = self.whole(&card)
        {
            tracing::debug!(%error, "no model card");
        }
        Ok(())
    }

    fn whole(&mut self, file: &Wanted) -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        self.read(file, file.bytes, &mut bytes)?;
        let path = self.to.join(&file.name);
        fs::write(&path, &bytes).map_err(HubError::io("write", &path))?;
        Ok(bytes)
    }

    /// The header of a safetensors file: its length is in the first bytes.
    fn safetensors(&mut self, file: &Wanted) -> Result<(), HubError> {
        let mut start = Vec::new();
        self.read(file, FIRST_SAFETENSORS_BYTES, &mut start)?;
        if let Some(&first) = start.first_chunk::<8>() {
            self.read(file, safetensors::header_end(first), &mut start)?;
        }
        self.place(file, &start)
    }

    /// The header of a GGUF file, whose length is nowhere: more and more, until it parses or is found wrong.
    fn gguf(&mut self, file: &Wanted) -> Result<(), HubError> {
        let mut start = Vec::new();
        let mut wanted = FIRST_GGUF_BYTES;
        loop {
            self.read(file, wanted, &mut start)?;
            // What is wrong with a header is for whoever opens it to say.
            if !matches!(Gguf::parse_start(&start, file.bytes), Ok(None)) {
                return self.place(file, &start);
            }
            if wanted >= MAX_GGUF_BYTES {
                return Err(HubError::HeaderTooLong {
                    repository: self.client.repository().to_owned(),
                    file: file.name.clone(),
                    bytes: wanted,
                });
            }
            wanted = (4 * wanted).min(MAX_GGUF_BYTES);
        }
    }

    /// A file of the real one's length that begins with `start`.
    fn place(&self, file: &Wanted, start: &[u8]) -> Result<(), HubError> {
        let path = self.to.join(&file.name);
        let write = || {
            fs::write(&path, start)?;
            fs::OpenOptions::new().write(true).open(&path)?.set_len(file.bytes)
        };
        write().map_err(HubError::io("write", &path))
    }

    /// Reads on in a file until `have` holds its first `end` bytes, or all of it.
    fn read(&mut self, file: &Wanted, end: u64, have: &mut Vec<u8>) -> Result<(), HubError> {
        let end = end.min(file.bytes);
        let (mut fruitless, mut said) = (0, String::new());
        while (have.len() as u64) < end {
            let before = have.len();
            let range = before as u64..end;
            if fruitless == FRUITLESS_ATTEMPTS {
                return Err(HubError::BrokenOff {
                    repository: self.client.repository().to_owned(),
                    file: file.name.clone(),
                    have: range.start,
                    size: end,
                    attempts: fruitless,
                    said,
                });
            }
            if self.fetched + (end - range.start) > MAX_BYTES {
                return Err(HubError::HeaderTooLong {
                    repository: self.client.repository().to_owned(),
                    file: file.name.clone(),
                    bytes: self.fetched,
                });
            }
            let (begins, body) = self.client.part(self.commit, &file.name, &range)?;
            said = match read_part(begins, body.into_with_config().limit(u64::MAX).reader(), &range, have) {
                Ok(()) => "the server ended early".to_owned(),
                Err(error) => error.to_string(),
            };
            self.fetched += (have.len() - before) as u64;
            fruitless = if have.len() > before { 0 } else { fruitless + 1 };
        }
        Ok(())
    }
}

/// Adds bytes of a file in `range` to `have` from a body that begins at byte `begins` of it. A server that does not
/// know ranges begins at 0 and would go on to the end: what comes before is read and thrown away, what comes after is
/// not read.
fn read_part(begins: u64, mut body: impl Read, range: &Range<u64>, have: &mut Vec<u8>) -> io::Result<()> {
    let before = range.start.checked_sub(begins).ok_or_else(|| {
        io::Error::other(format!("asked from byte {}, the server sent from {begins}", range.start))
    })?;
    io::copy(&mut body.by_ref().take(before), &mut io::sink())?;
    body.take(range.end - range.start).read_to_end(have)?;
    Ok(())
}

/// Headers of safetensors have some 100 bytes for each tensor: those of shards mostly come with the first request.
const FIRST_SAFETENSORS_BYTES: u64 = 16 << 10;
/// Vocabularies, which are in the header, take 1 to 10 MB.
const FIRST_GGUF_BYTES: u64 = 256 << 10;
/// Longest header of a GGUF: a vocabulary of 256,000 entries with merges takes 16 MB.
const MAX_GGUF_BYTES: u64 = 64 << 20;
/// Most of all headers together: 4096 shards, which is the limit, at 64 KiB.
const MAX_BYTES: u64 = 256 << 20;
/// Largest model card, as for one on disk.
const MAX_CARD_BYTES: u64 = 1 << 20;
/// Attempts in a row that bring no byte before the fetch gives up.
const FRUITLESS_ATTEMPTS: u32 = 3;
