//! From what the user wrote for a model to files on disk and their manifest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proto::LayerSpan;
use proto::manifest::Architecture;
use proto::record::MAX_NAME_BYTES;
use shard_node_weights::{
    BUILT_IN, BuiltIn, Checkpoint, ComputeError, Described, HubRef, ManifestCache, ModelRef, TensorError,
};

use crate::hub::{self, Glance, HubOptions, HubProgress};
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

/// Reads the headers of a hub's model, and nothing else of it.
pub(super) fn glance(repository: &HubRef) -> Result<Glance> {
    let options = HubOptions::from_environment(paths::cache_dir()?.join("hub"))?;
    hub::glance(repository, &options).with_context(|| format!("read the headers of hf:{repository}"))
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
    let built_in = |path: &Path| BUILT_IN.iter().find(|built_in| path.ends_with(built_in.file));
    match (said, model) {
        (Some(name), _) => name.to_owned(),
        (None, ModelRef::Path(path)) => {
            built_in(path).map_or_else(|| model.name(), |built_in| built_in.alias.to_owned())
        }
        (None, _) => model.name(),
    }
}

/// As [`name_of`], for a record. Fails, before anything is fetched, if none may carry the name.
pub(super) fn announced_name(model: &ModelRef, said: Option<&str>) -> Result<String> {
    let name = name_of(model, said);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
        bail!(
            "the model can't be announced as {:?} ({} bytes): a name has 1 to {MAX_NAME_BYTES} bytes and no control \
             characters; choose one with --name NAME",
            name.chars().take(40).collect::<String>(),
            name.len()
        );
    }
    Ok(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_record_may_carry_are_refused_with_the_cure() {
        let long = ModelRef::Path(format!("/models/{}", "x".repeat(MAX_NAME_BYTES + 1)).into());
        let error = announced_name(&long, None).unwrap_err().to_string();
        assert!(error.contains("--name") && error.len() < 300, "{error}");
        assert!(announced_name(&ModelRef::Path("/models/a\u{1b}[2J".into()), None).is_err());
        assert!(announced_name(&long, Some("")).is_err());
        assert_eq!(announced_name(&long, Some("mine")).unwrap(), "mine");
    }
}
