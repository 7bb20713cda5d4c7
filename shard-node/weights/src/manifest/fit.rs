//! Do these files belong to a manifest that was not computed from them? Looks at headers only, before anything is
//! loaded; the bytes are held against the manifest tensor by tensor while they are read ([`super::verify`]).

use std::path::PathBuf;

use proto::LayerSpan;
use proto::manifest::{Architecture, Manifest};
use serde_json::Value;

use super::{VerifyError, listed};
use crate::architecture::{ArchitectureError, span_tensors};
use crate::checkpoint::Checkpoint;

/// Why files are not those of a manifest.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The decoder is unknown or unsupported.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A tensor of the span is missing, or not as the manifest says.
    #[error(transparent)]
    Tensor(#[from] VerifyError),
    /// Something about the whole model differs.
    #[error(
        "{path}: {field} is {found}, the manifest of model {model} says {expected}; these files are another model's"
    )]
    Differs {
        /// The model's files.
        path: PathBuf,
        /// `container`, or a field of the architecture.
        field: String,
        /// The model's id, shortened.
        model: String,
        /// The value in the manifest.
        expected: String,
        /// The value in the files.
        found: String,
    },
}

/// Checks that the files are of the manifest's kind and architecture, and hold the tensors that `span` needs under
/// the names, types and shapes that the manifest lists. Other tensors may be missing.
pub fn check_fits(manifest: &Manifest, checkpoint: &Checkpoint, span: LayerSpan) -> Result<(), FitError> {
    let differs = |field: String, expected: String, found: String| FitError::Differs {
        path: checkpoint.path().to_owned(),
        field,
        model: manifest.model_id().short(),
        expected,
        found,
    };
    let container = checkpoint.container().name();
    if manifest.container != container {
        return Err(differs("container".to_owned(), manifest.container.clone(), container.to_owned()));
    }
    let architecture = checkpoint.architecture()?;
    if let Some((field, expected, found)) = first_difference(&manifest.architecture, &architecture) {
        return Err(differs(field, expected, found));
    }
    for (tensor, shape) in span_tensors(&architecture, span) {
        checkpoint.require(&tensor, &shape).map_err(VerifyError::from)?;
        listed(manifest, checkpoint, &tensor)?;
    }
    Ok(())
}

/// The first field in which two decoders differ, with both values.
fn first_difference(expected: &Architecture, found: &Architecture) -> Option<(String, String, String)> {
    if expected == found {
        return None;
    }
    // Every field is plain numbers and texts; what could not be written would differ as a whole.
    let fields = |architecture| match serde_json::to_value(architecture) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (expected, found) = (fields(expected), fields(found));
    let differing = expected.iter().find(|(name, value)| found.get(*name) != Some(*value));
    Some(differing.map_or_else(
        || ("architecture".to_owned(), "another".to_owned(), "this".to_owned()),
        |(name, value)| {
            let found = found.get(name).map_or_else(|| "absent".to_owned(), ToString::to_string);
            (name.clone(), value.to_string(), found)
        },
    ))
}
