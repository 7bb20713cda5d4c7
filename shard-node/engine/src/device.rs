//! Which device a stage computes on: `auto`, `cpu` or `cuda:N`, and how a GPU's libraries are found.
//!
//! The engine is linked against libtorch's CPU half only. The CUDA half is opened at run time,
//! because it costs seconds and 470 MB that a CPU node should not pay, and must be open before
//! libtorch is asked for the first time what it can do.

use std::path::Path;
use std::str::FromStr;

use tch::Device;

use crate::ffi;

/// What `--device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this machine has one that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("`{0}` is not a device: use auto, cpu or cuda:N")]
    Syntax(String),
    /// The CUDA half of libtorch did not load.
    #[error(
        "{CUDA_LIBRARY} did not load ({reason}); install it with `shard-node setup --cuda`, or use --device cpu"
    )]
    Library {
        /// The dynamic loader's words.
        reason: String,
    },
    /// The library is there but no GPU works.
    #[error(
        "libtorch finds no usable NVIDIA GPU ({reason}); install or update the NVIDIA driver (CUDA 13 needs 580 or newer), or use --device cpu"
    )]
    Driver {
        /// libtorch's words.
        reason: String,
    },
    /// There are GPUs, but not that one.
    #[error("there is no cuda:{index}: this machine has {count} GPU(s), cuda:0 to cuda:{}", count - 1)]
    Index {
        /// The one asked for.
        index: usize,
        /// GPUs found.
        count: i64,
    },
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError::Syntax(text.chars().take(40).collect())),
        }
    }
}

impl DeviceChoice {
    /// The device, ready for use. `Auto` falls back to the CPU and says why in the log.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => cuda(index),
            // The driver makes this file: without it, opening 470 MB of libraries would be in vain.
            Self::Auto if !Path::new("/dev/nvidia0").exists() => Ok(Device::Cpu),
            Self::Auto => Ok(cuda(0).unwrap_or_else(|error| {
                tracing::warn!(%error, "compute on the CPU");
                Device::Cpu
            })),
        }
    }
}

fn cuda(index: usize) -> Result<Device, DeviceError> {
    ffi::open_library_globally(CUDA_LIBRARY).map_err(|reason| DeviceError::Library { reason })?;
    let count = tch::Cuda::device_count();
    if count <= 0 {
        // The count hides the reason; making a tensor tells it.
        let made = tch::Tensor::f_zeros([1], (tch::Kind::Float, Device::Cuda(0)));
        let reason =
            made.map_or_else(|error| ffi::TorchError::from(error).to_string(), |_| "none found".to_owned());
        return Err(DeviceError::Driver { reason });
    }
    if index as i64 >= count {
        return Err(DeviceError::Index { index, count });
    }
    Ok(Device::Cuda(index))
}

const CUDA_LIBRARY: &str = "libtorch_cuda.so";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
        }
        for text in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_gpu_is_an_error_with_a_cure() {
        if Path::new("/dev/nvidia0").exists() {
            return;
        }
        let error = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--device cpu"), "{error}");
        assert!(error.contains("libtorch_cuda.so") || error.contains("driver"), "{error}");
        assert_eq!(DeviceChoice::Auto.open().unwrap(), Device::Cpu);
    }
}
