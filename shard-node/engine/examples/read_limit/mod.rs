//! This machine's memory read limit: what a decode step, which is one read of the weights, is held against.

use std::hint::black_box;
use std::time::Instant;

/// Bytes a second that `threads` threads can read from memory, best of `passes` over `words`.
pub(crate) fn read_limit(words: &[u64], threads: usize, passes: u32) -> f64 {
    let pass = || {
        std::thread::scope(|scope| {
            let parts =
                words.chunks(words.len().div_ceil(threads)).map(|part| scope.spawn(move || read(part)));
            for part in parts.collect::<Vec<_>>() {
                black_box(part.join().ok());
            }
        });
    };
    let seconds = (0..passes).map(|_| {
        let begun = Instant::now();
        pass();
        begun.elapsed().as_secs_f64()
    });
    (words.len() * 8) as f64 / seconds.fold(f64::MAX, f64::min)
}

/// What is read: 1.25 GiB, far more than any cache.
pub(crate) fn words() -> Vec<u64> {
    (0..5u64 << 25).collect()
}

fn read(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "wide loads: narrow ones do not reach the limit")]
        // SAFETY: the CPU has AVX-512F, asked just above.
        return unsafe { read_wide(words) };
    }
    words.iter().fold(0, |sum, word| sum ^ word)
}

/// Xor, because it may be reordered and so becomes vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_wide(words: &[u64]) -> u64 {
    let mut sums = [0u64; 64];
    for chunk in words.chunks_exact(64) {
        for lane in 0..64 {
            sums[lane] ^= chunk[lane];
        }
    }
    sums.iter().fold(0, |total, sum| total ^ sum)
}
