//! Which device a stage computes on: `auto`, `cpu` or `cuda:N`, and how a GPU's libraries are found.
//!
//! The engine is linked against libtorch's CPU half only. The CUDA half is opened at run time,
//! because it costs seconds and 470 MB that a CPU node should not pay, and must be open before
//! libtorch is asked for the first time what it can do. What a GPU's memory holds is in `memory`.

use std::path::Path;

use shard_node::engine::DeviceChoice;
use tch::Device;

use crate::ffi::{self, DeviceMemory};

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No driver.
    #[error(
        "the NVIDIA driver is missing: {DRIVER} did not load ({reason}); install the driver, version 580 or newer for CUDA 13 \
         (in a container: start it with access to the GPU), or use --device cpu"
    )]
    NoDriver {
        /// The dynamic loader's words.
        reason: String,
    },
    /// The CUDA half of libtorch did not load.
    #[error("{CUDA_LIBRARY} did not load ({reason}); {}, or use --device cpu", library_cure(reason))]
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
    /// The GPU is there, but does not answer.
    #[error("cuda:{index} does not work: {reason}; see what `nvidia-smi` says of it, or use --device cpu")]
    Broken {
        /// The one asked for.
        index: usize,
        /// libtorch's words.
        reason: String,
    },
}

/// The device, ready for use by this thread. `Auto` falls back to the CPU and says why in the log.
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

/// Memory of a GPU; `None` for the CPU, whose memory is not asked.
pub fn device_memory(choice: DeviceChoice) -> Result<Option<DeviceMemory>, DeviceError> {
    match open(choice)? {
        Device::Cuda(index) => memory(index).map(Some),
        _ => Ok(None),
    }
}

/// Memory of a GPU that is open.
pub(crate) fn memory(index: usize) -> Result<DeviceMemory, DeviceError> {
    ffi::device_memory(Device::Cuda(index)).map_err(|error| broken(index, &error))
}

fn cuda(index: usize) -> Result<Device, DeviceError> {
    // The driver first: without it the library would load for seconds and then say less.
    ffi::open_library_globally(DRIVER).map_err(|reason| DeviceError::NoDriver { reason })?;
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
    ffi::enter_device(Device::Cuda(index)).map_err(|error| broken(index, &error))?;
    Ok(Device::Cuda(index))
}

fn broken(index: usize, error: &ffi::TorchError) -> DeviceError {
    DeviceError::Broken { index, reason: error.to_string() }
}

/// What to do about the dynamic loader's words on [`CUDA_LIBRARY`].
fn library_cure(reason: &str) -> String {
    if let Some((library, _)) = reason.split_once(": cannot open shared object file") {
        let name = library.rsplit(['/', ' ']).next().unwrap_or(library);
        return if name == CUDA_LIBRARY {
            "this libtorch is the CPU set: install the CUDA set with `shard-node setup --cuda`".into()
        } else {
            format!(
                "it needs {name}, which is missing: repair the set with `shard-node setup --cuda`, or add the folder of {name} to LD_LIBRARY_PATH"
            )
        };
    }
    if reason.contains("undefined symbol") || reason.contains("version `") {
        return "it is of another version than the CPU half: both must be libtorch 2.11.0, install them with `shard-node setup --cuda`".into();
    }
    "install it anew with `shard-node setup --cuda`".into()
}

const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// What the driver installs, whatever its version.
const DRIVER: &str = "libcuda.so.1";

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
        assert_eq!(device_memory(DeviceChoice::Cpu).unwrap(), None);
    }

    #[test]
    fn a_library_that_does_not_open_is_named_by_the_loader() {
        let reason = ffi::open_library_globally("libtorch_cuda_of_nobody.so").unwrap_err();
        assert!(reason.contains("libtorch_cuda_of_nobody.so: cannot open shared object file"), "{reason}");
    }

    #[test]
    fn each_reason_of_the_loader_has_its_cure() {
        for (reason, words) in [
            (
                "libtorch_cuda.so: cannot open shared object file: No such file or directory",
                ["CPU set", "setup --cuda"],
            ),
            (
                "libcudnn.so.9: cannot open shared object file: No such file or directory",
                ["needs libcudnn.so.9", "LD_LIBRARY_PATH"],
            ),
            (
                "/x/libtorch_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEab",
                ["another version", "2.11.0"],
            ),
            ("/x/libtorch_cuda.so: file too short", ["anew", "setup --cuda"]),
        ] {
            let error = DeviceError::Library { reason: reason.into() }.to_string();
            assert!(
                words.iter().all(|word| error.contains(word)) && error.contains("--device cpu"),
                "{error}"
            );
        }
    }

    #[test]
    fn every_other_failure_names_its_cure_too() {
        for (error, word) in [
            (DeviceError::NoDriver { reason: "x".into() }, "580"),
            (DeviceError::Driver { reason: "x".into() }, "update the NVIDIA driver"),
            (DeviceError::Index { index: 3, count: 2 }, "cuda:0 to cuda:1"),
            (DeviceError::Broken { index: 0, reason: "x".into() }, "nvidia-smi"),
        ] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
