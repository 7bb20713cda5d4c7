//! The operators a decoder layer is made of.
//!
//! On the CPU the small ones are the shim's row kernels; on other devices the library's own
//! operators do the same. A file here knows tensors and sizes, never a model.

use tch::Device;

/// Whether the shim's kernels compute for this device; if not, the library's own operators do.
pub(crate) fn by_shim(device: Device) -> bool {
    #[cfg(test)]
    if LIBRARY_ONLY.get() {
        return false;
    }
    device == Device::Cpu
}

#[cfg(test)]
thread_local! {
    static LIBRARY_ONLY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `f` with everything on this thread computed as on a GPU, by the library's own operators.
#[cfg(test)]
pub(crate) fn by_library_only<R>(f: impl FnOnce() -> R) -> R {
    let before = LIBRARY_ONLY.replace(true);
    let result = f();
    LIBRARY_ONLY.set(before);
    result
}

pub(crate) mod attention;
pub(crate) mod device_matrix;
pub(crate) mod experts;
pub(crate) mod layer_cache;
#[cfg(test)]
mod levels;
pub(crate) mod linear;
pub(crate) mod pairs;
pub(crate) mod panels;
pub(crate) mod rotary;
pub(crate) mod rows;

/// Seeds the library's random numbers for a test and prints by what: `LAYERLANE_TEST_SEED`, or always the same.
#[cfg(test)]
pub(crate) fn seeded() {
    let seed = std::env::var("LAYERLANE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed} (LAYERLANE_TEST_SEED)");
    tch::manual_seed(seed);
}
