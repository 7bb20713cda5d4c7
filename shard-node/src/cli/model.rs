//! From what the user wrote for a model to files on disk and their manifest.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use proto::LayerSpan;
use proto::manifest::Architecture;
use shard_node_weights::{
    BUILT_IN, BuiltIn, Checkpoint, ComputeError, Described, HubRef, ManifestCache, ModelRef, TensorError,
};

use crate::hub::{self, HubOptions, HubProgress};
use crate::paths;

/// The file or directory of a model, fetched from the hub if it is one of its; with a span, only the files of its
/// layers, which is enough where the manifest need not be computed.
pub(super) fn locate_or_fetch(model: &ModelRef, span: Option<LayerSpan>) -> Result<PathBuf> {
    match model {
        ModelRef::Path(path) => {
            if !path.exists() {
                bail!("unknown model: {} does not exist; check the path", path.display());
            }
            Ok(path.clone())
        }
        ModelRef::BuiltIn(built_in) => locate(built_in),
        ModelRef::Hub(repository) => fetch(repository, span),
    }
}

/// Fetches what is missing of a model from the hub.
fn fetch(repository: &HubRef, span: Option<LayerSpan>) -> Result<PathBuf> {
    let options = HubOptions::from_environment(paths::cache_dir()?.join("hub"))?;
    let mut told = (String::new(), 0);
    let progress = |progress: HubProgress<'_>| {
        let tenth = progress.bytes * 10 / progress.of.max(1);
        if told.0 != progress.file || told.1 != tenth {
            told = (progress.file.to_owned(), tenth);
            tracing::info!(
                file = progress.file,
                percent = tenth * 10,
                bytes = progress.of,
                "fetching from the hub"
            );
        }
    };
    hub::fetch(repository, span, &options, progress).with_context(|| format!("fetch hf:{repository}"))
}

/// A built-in model's file, where set-up puts it.
fn locate(built_in: &BuiltIn) -> Result<PathBuf> {
    let searched: Vec<PathBuf> = [paths::build_tree_third_party(), paths::cache_dir().ok()]
        .into_iter()
        .flatten()
        .map(|folder| folder.join("models").join(built_in.file))
        .collect();
    searched.iter().find(|path| path.is_file()).cloned().with_context(|| {
        let places: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
        format!(
            "model {} is not on this machine (looked for {}): run `shard-node setup`",
            built_in.alias,
            places.join(", ")
        )
    })
}

/// The name a model is announced under: what the user says, else the reference's own; the built-in model's
/// file keeps its alias wherever it lies, so that nodes started by path and by alias find each other.
pub(super) fn name_of(model: &ModelRef, said: Option<&str>) -> String {
    if let Some(name) = said {
        return name.to_owned();
    }
    if let ModelRef::Path(path) = model
        && let Some(built_in) = BUILT_IN.iter().find(|built_in| path.ends_with(built_in.file))
    {
        return built_in.alias.to_owned();
    }
    model.name()
}

/// Opens a model's files and computes its manifest, or finds it in the cache. Progress goes to the log.
pub(super) fn describe(checkpoint: &Checkpoint) -> Result<Described> {
    let cache = ManifestCache::new(paths::cache_dir()?.join("manifests"));
    let mut told = 0;
    let progress = |done: u64, total: u64| {
        let tenth = done * 10 / total.max(1);
        if tenth > told {
            told = tenth;
            tracing::info!(percent = tenth * 10, "hashing the model for its manifest");
        }
    };
    cache.describe(checkpoint, progress).map_err(|error| {
        let partial = matches!(&error, ComputeError::Tensor(TensorError::ShardMissing { .. }));
        let doing = if partial { OF_SOME_FILES } else { "compute the model's manifest" };
        anyhow::Error::new(error).context(doing)
    })
}

/// Said when only some of a model's shard files are there.
const OF_SOME_FILES: &str =
    "a manifest is computed from all of a model's files; with only a span's, give its id with --model-id";

/// Parameters, bytes and layers in one line for people.
pub(super) fn summary(architecture: &Architecture) -> String {
    format!(
        "{} with {} layers, hidden {}, vocabulary {}, context {}",
        architecture.family,
        architecture.n_layers,
        architecture.hidden,
        architecture.vocab,
        architecture.context
    )
}
