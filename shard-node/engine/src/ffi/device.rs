//! A GPU from the thread that computes on it: `shim/device.cc`. On the CPU the copies are plain ones.

use std::ffi::c_int;

use tch::{Device, Tensor};

use super::{TorchError, last_error, owned};

/// Memory of one GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Nobody's.
    pub free: u64,
    /// In all.
    pub total: u64,
    /// Held by tensors of this process.
    pub held: u64,
    /// The most that was held at once.
    pub peak: u64,
}

/// Makes a GPU the calling thread's own, with a stream of its own. Nothing to do for the CPU.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn enter_device(device: Device) -> Result<(), TorchError> {
    if device == Device::Cpu {
        return Ok(());
    }
    // SAFETY: a number.
    done(unsafe { ll_device_enter(index_of(device)) })
}

/// What is free and what is held; an error for the CPU.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn device_memory(device: Device) -> Result<DeviceMemory, TorchError> {
    let mut out = [0u64; 4];
    // SAFETY: the shim writes four numbers.
    done(unsafe { ll_device_memory(index_of(device), out.as_mut_ptr()) })?;
    let [free, total, held, peak] = out;
    Ok(DeviceMemory { free, total, held, peak })
}

/// Waits until everything that the calling thread queued on the device is done.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn synchronise(device: Device) -> Result<(), TorchError> {
    // SAFETY: a number.
    done(unsafe { ll_device_synchronise(index_of(device)) })
}

/// A copy of a host tensor on the device, through page-locked memory and without waiting for it.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn to_device(host: &Tensor, device: Device) -> Result<Tensor, TorchError> {
    // SAFETY: a live tensor; the result is null or a new tensor that we own.
    unsafe { owned(ll_to_device(host.as_ptr(), index_of(device))) }
}

/// A dense copy of a device's tensor on the host. Waits for everything queued before.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn to_host(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: a live tensor; the result is null or a new tensor that we own.
    unsafe { owned(ll_to_host(tensor.as_ptr())) }
}

fn index_of(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
        _ => -1,
    }
}

fn done(result: c_int) -> Result<(), TorchError> {
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_device_enter(index: c_int) -> c_int;
    fn ll_device_memory(index: c_int, out: *mut u64) -> c_int;
    fn ll_device_synchronise(index: c_int) -> c_int;
    fn ll_to_device(host: *const torch_sys::C_tensor, index: c_int) -> *mut torch_sys::C_tensor;
    fn ll_to_host(tensor: *const torch_sys::C_tensor) -> *mut torch_sys::C_tensor;
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn copies_over_the_border_keep_every_bit_and_need_no_gpu_on_the_cpu() {
        crate::kernels::seeded();
        for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
            let host = (Tensor::randn([3, 50], (Kind::Float, Device::Cpu)) * 100.0).to_kind(kind);
            let mut there = to_device(&host, Device::Cpu).unwrap();
            assert_eq!(there, host);
            assert_ne!(there.data_ptr(), host.data_ptr(), "a copy, so that the frame may be freed");
            // A view with gaps comes back dense.
            let view = there.narrow(1, 3, 20);
            let back = to_host(&view).unwrap();
            assert!(back.is_contiguous() && back == view);
            let _ = there.zero_();
            assert_ne!(there, host);
        }
        synchronise(Device::Cpu).unwrap();
    }

    #[test]
    fn without_the_cuda_half_each_call_is_an_error() {
        // Not where another test may open it.
        if std::path::Path::new("/dev/nvidia0").exists() {
            return;
        }
        let gpu = Device::Cuda(0);
        let host = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        for error in [
            enter_device(gpu).unwrap_err(),
            device_memory(gpu).unwrap_err(),
            synchronise(gpu).unwrap_err(),
            to_device(&host, gpu).unwrap_err(),
        ] {
            assert!(!error.to_string().is_empty(), "{error}");
        }
        assert!(device_memory(Device::Cpu).is_err());
    }
}
