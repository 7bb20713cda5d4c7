//! Prints how fast each stored type is dequantised on one thread, in GB/s of stored bytes, without and with the check
//! that all values are finite. It counts the thread's own processor time, which a busy machine disturbs less.
//!
//! `cargo run --release -p shard-node-weights --example dequantise_speed`

use std::hint::black_box;

use proto::tensor::Dtype;
use shard_node_weights::{Bf16, Element, dequantise};

#[expect(clippy::print_stdout, reason = "a measuring program's output")]
fn main() {
    println!("type   to f32        checked   to bf16       checked");
    for ty in Dtype::ALL {
        let [f32, f32_checked] = speeds::<f32>(ty);
        let [bf16, bf16_checked] = speeds::<Bf16>(ty);
        println!("{ty:5} {f32:5.2} GB/s {f32_checked:5.2} GB/s {bf16:5.2} GB/s {bf16_checked:5.2} GB/s");
    }
}

fn speeds<T: Element>(ty: Dtype) -> [f64; 2] {
    // 32 matrices' worth of work on 4 MiB, so that the source stays warm and the kernel is measured.
    let blocks = (4 << 20) / ty.block_bytes() as usize;
    let stored = vec![0x3c_u8; blocks * ty.block_bytes() as usize];
    let mut out = vec![T::default(); blocks * ty.block_elements() as usize];
    let rounds = 32;
    [dequantise::convert, dequantise::convert_finite].map(|convert| {
        let before = processor_seconds();
        for _ in 0..rounds {
            let converted = convert(ty, black_box(&stored), black_box(&mut out));
            assert!(converted.is_ok(), "whole blocks of finite values");
        }
        (stored.len() * rounds) as f64 / (processor_seconds() - before) / 1e9
    })
}

/// What this thread has used so far: the first number in nanoseconds (`Documentation/scheduler/sched-stats.rst`).
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    first.unwrap_or(f64::NAN) / 1e9
}
