//! Prints how fast each stored type is dequantised on one thread, in GB/s of stored bytes.
//!
//! `cargo run --release -p shard-node-weights --example dequantise_speed`

use std::hint::black_box;

use proto::tensor::Dtype;
use shard_node_weights::{Bf16, Element, dequantise};

#[expect(clippy::print_stdout, reason = "a measuring program's output")]
fn main() {
    for ty in Dtype::ALL {
        println!("{ty:5} -> f32 {:5.2} GB/s, -> bf16 {:5.2} GB/s", speed::<f32>(ty), speed::<Bf16>(ty));
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn speed<T: Element>(ty: Dtype) -> f64 {
    // 64 matrices' worth of work on 4 MiB, so that the source stays warm and the kernel is measured.
    let blocks = (4 << 20) / ty.block_bytes() as usize;
    let stored = vec![0x3c_u8; blocks * ty.block_bytes() as usize];
    let mut out = vec![T::default(); blocks * ty.block_elements() as usize];
    let start = std::time::Instant::now();
    let rounds = 64;
    for _ in 0..rounds {
        let converted = dequantise::convert(ty, black_box(&stored), black_box(&mut out));
        assert!(converted.is_ok(), "whole blocks");
    }
    (stored.len() * rounds) as f64 / start.elapsed().as_secs_f64() / 1e9
}
