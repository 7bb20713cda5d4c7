//! Which device a stage computes on: `auto`, `cpu` or `cuda:N`, and how a GPU's libraries are found.
//!
//! The engine is linked against libtorch's CPU half only. The CUDA half is opened at run time,
//! because it costs seconds and 470 MB that a CPU node should not pay, and must be open before
//! libtorch is asked for the first time what it can do.

use std::path::Path;

use shard_node::engine::DeviceChoice;
use tch::Device;

use crate::ffi;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
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

/// The device, ready for use. `Auto` falls back to the CPU and says why in the log.
pub(crate) fn open(choice: DeviceChoice) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => cuda(index as usize),
        // The driver makes this file: without it, opening 470 MB of libraries would be in vain.
        DeviceChoice::Auto if !Path::new("/dev/nvidia0").exists() => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|error| {
            tracing::warn!(%error, "compute on the CPU");
            Device::Cpu
        })),
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
    fn a_missing_gpu_is_an_error_with_a_cure() {
        if Path::new("/dev/nvidia0").exists() {
            return;
        }
        let error = open(DeviceChoice::Cuda(0)).unwrap_err().to_string();
        assert!(error.contains("--device cpu"), "{error}");
        assert!(error.contains("libtorch_cuda.so") || error.contains("driver"), "{error}");
        assert_eq!(open(DeviceChoice::Auto).unwrap(), Device::Cpu);
    }
}
