//! Speed of single matrix products of every numerics class, beside this machine's memory read limit.
//!
//! `cargo run --release -p shard-node-engine --example linear_speed -- [THREADS] [OUTxWIDTH] [CLASS..]` multiplies
//! 1, 4, 16 and 512 rows by matrices of Llama-3.2-1B's sizes, more of them than the caches hold, classes taking
//! turns, and prints the best of several rounds.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: prints and reads clocks"
)]

mod read_limit;

use std::time::Instant;

use anyhow::{Context, Result};
use proto::tensor::NumericsClass;
use shard_node_engine::measure::Products;

/// More than any cache of the machines at hand.
const COLD_BYTES: usize = 96 << 20;
const ROUNDS: usize = 5;
const CLASSES: [NumericsClass; 3] = [NumericsClass::Bf16, NumericsClass::Int8, NumericsClass::Int4];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let threads: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let sizes = match arguments.next() {
        Some(text) => {
            let (out, width) = text.split_once('x').context("a size is OUTxWIDTH")?;
            vec![[out.parse()?, width.parse()?]]
        }
        None => vec![[8192, 2048], [2048, 8192], [3072, 2048]],
    };
    let classes = arguments.map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
    let classes = if classes.is_empty() { CLASSES.to_vec() } else { classes };
    let words = read_limit::words();
    for size in sizes {
        for rows in [1, 4, 16, 512] {
            compare(&classes, size, rows, threads, &words)?;
        }
    }
    Ok(())
}

/// All classes at one size, taking turns.
fn compare(
    classes: &[NumericsClass],
    size: [i64; 2],
    rows: i64,
    threads: usize,
    words: &[u64],
) -> Result<()> {
    let products = classes.iter().map(|&class| {
        let matrix = (size[0] * size[1]) as usize;
        // At least half a byte for a weight.
        let copies = if rows > 16 { 2 } else { COLD_BYTES.div_ceil(matrix / 2) };
        Ok((class, Products::new(class, size, copies, rows, threads)?, copies))
    });
    let products = products.collect::<Result<Vec<_>>>()?;
    let mut best = vec![f64::MAX; classes.len()];
    let mut limit = 0f64;
    for _ in 0..ROUNDS {
        limit = limit.max(read_limit::read_limit(words, threads, 2));
        for ((_, products, copies), best) in products.iter().zip(&mut best) {
            let begun = Instant::now();
            for index in 0..*copies {
                products.multiply(index)?;
            }
            *best = best.min(begun.elapsed().as_secs_f64() / *copies as f64);
        }
    }
    for ((class, products, _), seconds) in products.iter().zip(&best) {
        println!(
            "{}x{} {class:5} {rows:3} rows: {:7.3} ms, {:5.2} x {}, {:5.1} GB/s = {:3.0} % of the read limit {:.1}",
            size[0],
            size[1],
            seconds * 1e3,
            best[0] / seconds,
            classes[0],
            products.bytes() as f64 / seconds / 1e9,
            products.bytes() as f64 / seconds / limit * 100.0,
            limit / 1e9,
        );
    }
    Ok(())
}
