//! The seam to the process that links a tensor library: what it is asked to load, and what `serve` needs of it.
//!
//! The engine's binary implements [`Engine`] and calls [`crate::cli::engine_main`]; this crate resolves the model,
//! checks the manifest, and does everything but compute.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use proto::LayerSpan;
use proto::manifest::Manifest;
use proto::tensor::NumericsClass;
use shard_node_stage::StageLoader;

/// Turns a request into a loader. Called once, on the main thread; the loader runs on the compute thread.
pub trait Engine {
    /// A loader for the shard. Reads nothing yet: errors come from the loader.
    fn loader(&self, request: LoadRequest) -> StageLoader;
}

/// The shard to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// A `.gguf` file or a directory with safetensors.
    pub checkpoint: PathBuf,
    /// What the file must hold; each tensor of the span is checked against it.
    pub manifest: Arc<Manifest>,
    /// The layers, checked against the manifest.
    pub span: LayerSpan,
    /// How to compute.
    pub class: NumericsClass,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Compute threads; `None` leaves the choice to the engine. Class `exact` always computes on one.
    pub threads: Option<NonZeroUsize>,
}

/// Where a stage computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
    Cuda(u32),
}

/// A device that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a device: use auto, cpu or cuda:N, for example cuda:0")]
pub struct UnknownDevice(String);

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| UnknownDevice(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_print() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for bad in ["", "gpu", "cuda", "cuda:", "cuda:-1"] {
            let error = bad.parse::<DeviceChoice>().unwrap_err();
            assert!(error.to_string().contains("auto, cpu or cuda:N"), "{error}");
        }
    }
}
