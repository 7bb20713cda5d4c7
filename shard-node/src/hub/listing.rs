//! What a repository holds, and which of its files a span needs. Pure: the listing is hostile input, parsed
//! with limits; file names are used only if they are plain ones.

use std::collections::{BTreeMap, BTreeSet};

use proto::LayerSpan;
use serde::{Deserialize, Serialize};
use shard_node_weights::names::{canonical_from_hf, layer_of};

/// Most files of a repository that are looked at; the largest models have a few hundred.
const MAX_FILES: usize = 20_000;
/// Largest file that a model's weights may come in: hubs split at 5 or 50 GB.
const MAX_WEIGHT_BYTES: u64 = 200 << 30;
/// Largest of the other files; `tokenizer.json` of 64 MiB is what the weights crate reads.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The answer of `/api/models/{repository}/revision/{revision}?blobs=true`, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    /// The commit that the revision stands for.
    pub(super) sha: String,
    pub(super) siblings: Vec<Sibling>,
}

/// A file of the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sibling {
    pub(super) rfilename: String,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) lfs: Option<Lfs>,
}

/// Large files have their hash listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lfs {
    pub(super) sha256: String,
    pub(super) size: u64,
}

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: Option<String>,
}

/// How the weights of a repository are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// Shards with an index, which says what is in which.
    Index(Wanted),
    /// One safetensors file.
    Single(Wanted),
    /// One GGUF file, which holds everything.
    Gguf(Wanted),
}

pub(super) const INDEX: &str = "model.safetensors.index.json";
const TEXT_FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

impl Listing {
    /// Parses and checks the hub's answer.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let listing: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !(7..=64).contains(&listing.sha.len()) || !listing.sha.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err("its commit is not a hash".to_owned());
        }
        if listing.siblings.len() > MAX_FILES {
            return Err(format!("it has {} files, more than {MAX_FILES}", listing.siblings.len()));
        }
        Ok(listing)
    }

    /// The file of that name, if it is there with a sane size.
    pub(super) fn file(&self, name: &str) -> Result<Option<Wanted>, String> {
        let Some(sibling) = self.siblings.iter().find(|sibling| sibling.rfilename == name) else {
            return Ok(None);
        };
        let lfs = sibling.lfs.as_ref();
        let bytes =
            lfs.map(|lfs| lfs.size).or(sibling.size).ok_or_else(|| format!("it gives no size of {name}"))?;
        let limit = if is_weights(name) { MAX_WEIGHT_BYTES } else { MAX_TEXT_BYTES };
        if bytes > limit {
            return Err(format!("{name} has {bytes} bytes, more than the limit of {limit}"));
        }
        let sha256 = lfs.map(|lfs| lfs.sha256.to_ascii_lowercase());
        if sha256
            .as_ref()
            .is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(format!("the SHA-256 of {name} is none"));
        }
        Ok(Some(Wanted { name: name.to_owned(), bytes, sha256 }))
    }

    /// The files beside the weights that a model may have; `config.json` must be there.
    pub(super) fn text_files(&self) -> Result<Vec<Wanted>, String> {
        let files = TEXT_FILES.iter().filter_map(|name| self.file(name).transpose());
        files.collect()
    }

    /// How the weights are stored; `Err` says what is there instead.
    pub(super) fn weights(&self) -> Result<Result<Weights, String>, String> {
        if let Some(index) = self.file(INDEX)? {
            return Ok(Ok(Weights::Index(index)));
        }
        let plain = |extension: &str| -> Vec<&str> {
            let names = self.siblings.iter().map(|sibling| sibling.rfilename.as_str());
            names.filter(|name| is_plain(name) && has_extension(name, extension)).collect()
        };
        let safetensors = plain("safetensors");
        let single = safetensors.iter().copied().find(|name| *name == "model.safetensors");
        if let Some(name) = single.or_else(|| safetensors.first().copied().filter(|_| safetensors.len() == 1))
        {
            return Ok(self.file(name)?.map(Weights::Single).ok_or_else(String::new));
        }
        let gguf = plain("gguf");
        if let [name] = gguf[..] {
            return Ok(self.file(name)?.map(Weights::Gguf).ok_or_else(String::new));
        }
        Ok(Err(if gguf.is_empty() {
            "it holds no safetensors and no GGUF file; choose a repository in one of these formats".to_owned()
        } else {
            format!("it holds {} GGUF files; fetch the one you want and give its path", gguf.len())
        }))
    }
}

/// The shard files that a span needs, by an index's `weight_map`; all of them without a span. The last layer needs the
/// embedding where the head is `tied` to it, or there is no head.
pub(super) fn shards_for(
    index: &[u8],
    span: Option<LayerSpan>,
    tied: bool,
) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index).map_err(|error| format!("{INDEX}: {error}"))?;
    let weight_map: BTreeMap<_, _> =
        weight_map.into_iter().map(|(name, shard)| (canonical_from_hf(&name), shard)).collect();
    let n_layers = weight_map.keys().filter_map(|name| layer_of(name)).max().map_or(0, |last| last + 1);
    let tied = tied || !weight_map.contains_key("lm_head.weight");
    let needed = |name: &str| {
        let Some(span) = span else { return true };
        let (first, last) = (span.start() == 0, span.end() >= n_layers);
        match layer_of(name) {
            Some(layer) => (span.start()..span.end()).contains(&layer),
            None if name == "model.embed_tokens.weight" => first || (last && tied),
            None if name == "model.norm.weight" || name == "lm_head.weight" => last,
            // Not known here: better a file too many than one too few.
            None => true,
        }
    };
    let mut shards = BTreeSet::new();
    for (name, shard) in &weight_map {
        if !is_plain(shard) || !has_extension(shard, "safetensors") {
            return Err(format!("{INDEX}: shard name {:?}", shard.chars().take(80).collect::<String>()));
        }
        if needed(name) {
            shards.insert(shard.clone());
        }
    }
    if shards.is_empty() {
        return Err(format!("{INDEX} lists no tensor"));
    }
    Ok(shards)
}

fn is_weights(name: &str) -> bool {
    has_extension(name, "safetensors") || has_extension(name, "gguf")
}

fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, found)| !stem.is_empty() && found == extension)
}

/// A name that is one component of a path and of a URL as it stands.
fn is_plain(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
}
