//! Speed and memory of one engine in each numerics class, against the memory's read limit, against its own bf16, and,
//! if Python is given, against `transformers` with the same weights. All processes are up at once, one measures at a time.

mod contestants;
mod memory;
mod table;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::synthetic::{self, Shape, StoredAs};
use crate::{print_result, tell};
use contestants::{Contestant, Limit};
use table::Figures;

/// Options of `engine`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The synthetic model
    #[arg(long, default_value = "llama-1b", value_parser = synthetic::parse_shape)]
    shape: Shape,
    /// Numerics classes; those that the engine refuses are named and left out
    #[arg(long, value_delimiter = ',', default_value = "exact,bf16,int8,int4")]
    classes: Vec<String>,
    /// Rounds; in each, every contestant takes every measurement once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sessions of a decode step
    #[arg(long, value_delimiter = ',', default_value = "1,4,8,16,32")]
    batches: Vec<u32>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt: u32,
    /// Rows of a prefill's step; a node's scheduler gives 128
    #[arg(long, default_value_t = 128)]
    chunk: u32,
    /// Compute threads of every process, and of the read limit; all cores by default
    #[arg(long)]
    threads: Option<usize>,
    /// Python with torch and transformers, to be measured in the same rounds
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Take the engine's measuring program as it was built last
    #[arg(long)]
    no_build: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Measurement {
    /// A step with one row of each of so many sessions.
    Decode(u32),
    /// A prompt, in steps of so many rows.
    Prefill { rows: u32, chunk: u32 },
}

impl Measurement {
    /// Tokens it computes.
    const fn tokens(self) -> u32 {
        match self {
            Self::Decode(sessions) => sessions,
            Self::Prefill { rows, .. } => rows,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get));
    if !options.no_build {
        contestants::build()?;
    }
    let model = synthetic::made(options.shape, StoredAs::Bf16)?;
    let library = memory::library_bytes(&options.classes, threads)?;
    let mut limit = Limit::start(threads)?;
    let mut contestants = Vec::new();
    for class in &options.classes {
        match Contestant::class(class, &model, threads) {
            Ok(contestant) => contestants.push(contestant),
            Err(error) => tell(&format!("{class}: left out: {error:#}")),
        }
    }
    if let Some(python) = &options.python {
        contestants.push(Contestant::transformers(python, &model, threads)?);
    }

    let mut measurements: Vec<_> = options.batches.iter().map(|&batch| Measurement::Decode(batch)).collect();
    measurements.push(Measurement::Prefill { rows: options.prompt, chunk: options.chunk });
    let mut figures = Figures::default();
    // A first round that does not count: it fills the sessions' KV.
    for round in 0..=options.rounds {
        for &measurement in &measurements {
            let read_limit = limit.bytes_per_second()?;
            // Every second round the other way round, so that none always follows the same one.
            let mut order: Vec<_> = contestants.iter_mut().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for contestant in order {
                let Some(seconds) = contestant.measure(measurement)? else { continue };
                if round > 0 {
                    figures.add(contestant.name(), measurement, seconds, read_limit);
                }
            }
        }
        tell(&format!("round {round} of {}", options.rounds));
    }
    let mut memory = Vec::new();
    for contestant in &mut contestants {
        memory.extend(contestant.memory(&library)?);
    }
    tell(&table::speed(&figures, &contestants, &measurements));
    tell(&table::ratios(&figures, &contestants, &measurements));
    tell(&table::memory(&memory));
    print_result(&json!({
        "bench": "engine",
        "shape": options.shape.name,
        "threads": threads,
        "rounds": options.rounds,
        "chunk": options.chunk,
        "read_limit_bytes_per_second": figures.read_limit(),
        "speed": figures.to_json(&contestants),
        "memory": memory.iter().map(memory::Memory::to_json).collect::<Vec<_>>(),
    }));
    Ok(())
}
