//! Where the model to serve comes from: its files, their manifest, its tokenizer. Either everything is computed from
//! the files, or the manifest is had by its id and only the span's files need to be there.

use std::path::PathBuf;

use anyhow::{Context, Result};
use proto::manifest::Manifest;
use proto::{ContentHash, LayerSpan, ModelId};
use proto_transport::Target;
use proto_transport::blobs::BlobCache;
use shard_node_weights::{Checkpoint, Described, ModelRef, check_fits};
use tokio::runtime::Runtime;

use super::model;
use crate::by_id::ById;
use crate::identity::Identity;
use crate::paths;

/// What to load and to announce.
#[derive(Debug)]
pub(super) struct Source {
    /// A `.gguf` file or a directory.
    pub(super) path: PathBuf,
    /// The layers to serve.
    pub(super) span: LayerSpan,
    /// The manifest with its id and tokenizer.
    pub(super) described: Described,
}

/// Computes the manifest, or finds it in the cache. Needs all of the model's files.
pub(super) fn from_files(
    runtime: &Runtime,
    reference: &ModelRef,
    layers: Option<LayerSpan>,
) -> Result<Source> {
    let path = model::locate_or_fetch(reference, None)?;
    let described = model::describe(&Checkpoint::open(&path)?)?;
    keep(runtime, &described)?;
    let span = span_of(&described.manifest, layers)?;
    Ok(Source { path, span, described })
}

/// Takes manifest and tokenizer by the model's id, and holds the headers of the span's files against them; their bytes
/// are checked when they are loaded. Files of other layers may be missing, and are not fetched.
pub(super) fn by_id(
    runtime: &Runtime,
    reference: &ModelRef,
    layers: Option<LayerSpan>,
    id: ModelId,
    (identity, bootstrap): (&Identity, &[Target]),
) -> Result<Source> {
    // What is wrong on this machine is said before anybody is asked.
    let here = match reference {
        ModelRef::Hub(_) => None,
        ModelRef::Path(_) | ModelRef::BuiltIn(_) => Some(model::locate_or_fetch(reference, None)?),
    };
    let blobs = blobs()?;
    let by_id = ById::new(&blobs, identity.key(), bootstrap);
    let manifest = runtime.block_on(by_id.manifest(id))?;
    let span = span_of(&manifest, layers)?;
    let path = here.map_or_else(|| model::locate_or_fetch(reference, Some(span)), Ok)?;
    let checkpoint = Checkpoint::open(&path)?;
    check_fits(&manifest, &checkpoint, span)
        .with_context(|| format!("{reference} does not fit --model-id {}", id.short()))?;
    // A tokenizer that this version can't read from the files may still be had from others.
    let own = || checkpoint.text().ok().and_then(|text| text.tokenizer_json);
    let tokenizer_json = runtime.block_on(by_id.tokenizer(id, &manifest, own))?;
    Ok(Source { path, span, described: Described { manifest, id, tokenizer_json } })
}

/// Keeps manifest and tokenizer under their hashes, for nodes of this machine that are started by the model's id. A
/// cache that can't be written to costs time only.
pub(super) fn keep(runtime: &Runtime, described: &Described) -> Result<()> {
    let blobs = blobs()?;
    let manifest = described.manifest.to_bytes();
    for bytes in [Some(manifest.as_slice()), described.tokenizer_json.as_deref()].into_iter().flatten() {
        let hash = ContentHash::of(bytes);
        let kept = runtime.block_on(async {
            if blobs.get(hash).await.is_some() { Ok(()) } else { blobs.put(hash, bytes).await }
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "can't write to the cache; the manifest will be computed or fetched again");
        }
    }
    Ok(())
}

fn span_of(manifest: &Manifest, layers: Option<LayerSpan>) -> Result<LayerSpan> {
    let n_layers = manifest.architecture.n_layers;
    match layers {
        Some(span) => Ok(span.within(n_layers)?),
        None => Ok(LayerSpan::new(0, n_layers)?),
    }
}

/// Blobs of this user, shared with the router.
fn blobs() -> Result<BlobCache> {
    Ok(BlobCache::at(paths::cache_dir()?.join("blobs")))
}
