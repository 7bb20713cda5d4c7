//! Prints microseconds per choice for the usual vocabularies and parameters: medians of 200 calls.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use proto::Position;
use proto::session::SamplingParams;
use proto_sampling::{Sampler, Scratch, TokenCounts};
use rand::{RngExt, SeedableRng};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let greedy = SamplingParams::default();
    let sampled = SamplingParams { temperature: 0.8, seed: 7, ..SamplingParams::default() };
    let cases = [
        ("greedy", greedy),
        ("temperature", sampled.clone()),
        ("top_k 40", SamplingParams { top_k: 40, ..sampled.clone() }),
        ("top_p 0.95", SamplingParams { top_p: 0.95, ..sampled.clone() }),
        ("top_p 0.95 at temperature 5", SamplingParams { top_p: 0.95, temperature: 5.0, ..sampled.clone() }),
        (
            "top_k 200, top_p, min_p",
            SamplingParams { top_k: 200, top_p: 0.9, min_p: 0.05, ..sampled.clone() },
        ),
        ("repetition 1.1, 4096 seen", SamplingParams { repetition_penalty: 1.1, ..sampled }),
    ];
    for vocab_size in [49_152, 128_256, 262_144] {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let logits: Vec<f32> =
            (0..vocab_size).map(|_| (0..6).map(|_| rng.random_range(-3.0f32..3.0)).sum()).collect();
        let seen: Vec<u32> = (0..4096).map(|i| i * 11).collect();
        let history = TokenCounts::from_prompt(&seen);
        for (name, params) in &cases {
            let Ok(sampler) = Sampler::new(params, vocab_size) else { continue };
            let mut scratch = Scratch::default();
            let mut row = logits.clone();
            let mut times = Vec::new();
            for position in 0..200 {
                row.copy_from_slice(&logits);
                #[expect(clippy::disallowed_methods, reason = "measuring is what this program is for")]
                let start = Instant::now();
                black_box(sampler.sample(&mut row, &history, Position::new(position), None, &mut scratch))
                    .ok();
                times.push(start.elapsed());
            }
            times.sort();
            writeln!(out, "{vocab_size:>7}  {name:<28} {:>8.1} us", times[100].as_secs_f64() * 1e6)?;
        }
    }
    Ok(())
}
