//! How many prompt rows make a chunk beside answers under way, and in which pieces it is computed.
//!
//! A chunk keeps its session's other rows and the next prompt waiting, and is what a stage hands on at once. Its size
//! follows a target for its time. It is computed in pieces of some layers, so that decode rows wait for a piece only:
//! these are as long as a few decode steps, and take a fixed part of the time even if rows are always ready. Both
//! follow from times that were measured: what a decode step takes, and what each prompt row adds. Pure: times come in
//! as arguments.

use std::time::Duration;

/// Estimates of one stage's step times, and the chunk that follows from them.
#[derive(Debug, Clone)]
pub struct ChunkPacer {
    /// Rows of a chunk, a multiple of [`GRAIN`] unless the bound is below it.
    chunk: u32,
    most: u32,
    /// Seconds of a step without prompt rows.
    decode: Option<f64>,
    /// Seconds that a prompt row adds.
    row: Option<f64>,
}

impl ChunkPacer {
    /// Nothing is known yet; no chunk will have more than `most` rows.
    pub const fn new(most: u32) -> Self {
        let most = if most == 0 { 1 } else { most };
        let chunk = if FIRST < most { FIRST } else { most };
        Self { chunk, most, decode: None, row: None }
    }

    /// A step with so many decode and prompt rows took so long.
    pub fn observe(&mut self, decode_rows: u32, prefill_rows: u32, took: Duration) {
        let took = took.as_secs_f64();
        if prefill_rows == 0 {
            if decode_rows > 0 {
                self.decode = Some(blend(self.decode, took, DECODE_WEIGHT));
            }
            return;
        }
        // Reading the weights is a part of every step; what is left is at least an eighth, so that one slow decode
        // step does not make prompt rows look free.
        let added = (took - self.decode.unwrap_or(0.0)).max(took / 8.0);
        self.row = Some(blend(self.row, added / f64::from(prefill_rows), ROW_WEIGHT));
        self.adapt();
    }

    /// Rows of the next chunk while others decode.
    pub const fn chunk(&self) -> u32 {
        self.chunk
    }

    /// What a step with a chunk should take at most.
    pub fn target(&self) -> Duration {
        Duration::from_secs_f64(self.decode.unwrap_or(0.0) * DECODE_STEPS).max(SHORTEST_TARGET)
    }

    /// How long a decode row should wait for a piece of a chunk at most.
    pub fn piece_target(&self) -> Duration {
        Duration::from_secs_f64(self.decode.unwrap_or(0.0) * PIECE_STEPS).max(SHORTEST_PIECE)
    }

    /// Layers of a piece of a chunk of `rows` rows, of a stage's `layers`: all of them where the whole chunk is no
    /// longer than a piece.
    pub fn piece(&self, rows: u32, layers: u32) -> u32 {
        let Some(row) = self.row else { return if rows <= FIRST { layers } else { 1 } };
        let whole = self.decode.unwrap_or(0.0) + row * f64::from(rows);
        let part = self.piece_target().as_secs_f64() / whole.max(f64::MIN_POSITIVE);
        ((f64::from(layers) * part).round() as u32).clamp(1, layers.max(1))
    }

    /// Rows of a chunk that decode rows in the same step lose nothing by: they add no more than a piece.
    pub fn beside(&self) -> u32 {
        self.row.map_or(FIRST, |row| {
            (self.piece_target().as_secs_f64() / row.max(f64::MIN_POSITIVE)).round() as u32
        })
    }

    fn adapt(&mut self) {
        let Some(row) = self.row.filter(|&row| row > 0.0) else { return };
        let ideal = (self.target().as_secs_f64() - self.decode.unwrap_or(0.0)) / row;
        let now = f64::from(self.chunk);
        // Between these two nothing changes: noise of the clock is no reason for another size.
        if ideal > now * TOO_SMALL || ideal < now * TOO_LARGE {
            let rows = ideal.clamp(now / 2.0, now * 2.0) as u32;
            self.chunk = (rows / GRAIN * GRAIN).max(GRAIN).min(self.most);
        }
    }
}

/// One strange value counts for at most twice or half of what was expected.
fn blend(old: Option<f64>, new: f64, weight: f64) -> f64 {
    old.map_or(new, |old| old + (new.clamp(old / 2.0, old * 2.0) - old) * weight)
}

/// The weights are read a few times a second only, and another prompt, the first token of which somebody waits for, waits
/// for little more than a blink.
const SHORTEST_TARGET: Duration = Duration::from_millis(150);
/// Where a decode step alone takes longer, a third of the time goes to reading weights that the chunk reads anyway:
/// smaller chunks would make the prompt dearer than they make the others faster.
const DECODE_STEPS: f64 = 3.0;
/// With rows always ready a prompt still gets two thirds of the time.
const PIECE_STEPS: f64 = 2.0;
/// Readers of a stream take in some ten tokens a second: a pause of a few pieces, one at each stage, does not show. Much
/// shorter ones would make each reading of the weights by a decode step serve fewer rows.
const SHORTEST_PIECE: Duration = Duration::from_millis(20);
/// Class `exact` computes linears in blocks of 16 rows, and tiles of the other classes are as high: fewer rows cost as
/// much.
const GRAIN: u32 = 16;
/// Unknown machines begin small: a chunk that is too small costs one reading of the weights.
const FIRST: u32 = 32;
/// Of the last ten chunks and decode steps or so: one and a half seconds of chunks.
const ROW_WEIGHT: f64 = 0.1;
const DECODE_WEIGHT: f64 = 0.1;
/// With these weights a noise of a third in single times moves the ideal by about a twentieth: a fifth of what a change
/// takes.
const TOO_SMALL: f64 = 1.4;
const TOO_LARGE: f64 = 0.75;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// xorshift64*, -1.0..1.0.
    fn noise(state: &mut u64) -> f64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn ms(millis: f64) -> Duration {
        Duration::from_secs_f64(millis / 1000.0)
    }

    #[test]
    fn a_fast_machine_gets_large_chunks_and_a_slow_one_the_smallest() {
        let mut fast = ChunkPacer::new(512);
        let mut slow = ChunkPacer::new(512);
        for _ in 0..50 {
            for (pacer, decode, row) in [(&mut fast, 5.0, 0.1), (&mut slow, 400.0, 90.0)] {
                pacer.observe(4, 0, ms(decode));
                let chunk = pacer.chunk();
                pacer.observe(4, chunk, ms(decode + row * f64::from(chunk)));
            }
        }
        assert_eq!((fast.chunk(), slow.chunk()), (512, 16));
        assert_eq!(slow.target(), ms(1200.0));
    }

    #[test]
    fn pieces_are_as_long_as_two_decode_steps_and_short_chunks_are_whole() {
        let mut pacer = ChunkPacer::new(512);
        assert_eq!((pacer.piece(FIRST, 10), pacer.piece(FIRST + 1, 10), pacer.beside()), (10, 1, FIRST));
        // 8 ms a decode step and 1 ms a row: a piece is 20 ms at least.
        for _ in 0..200 {
            pacer.observe(4, 0, ms(8.0));
            pacer.observe(0, 92, ms(100.0));
        }
        assert_eq!((pacer.piece(92, 10), pacer.piece(10, 10), pacer.piece(10_000, 10)), (2, 10, 1));
        assert_eq!(pacer.beside(), 20);
        // Where a decode step takes 400 ms, 800.
        for _ in 0..200 {
            pacer.observe(4, 0, ms(400.0));
            pacer.observe(0, 32, ms(1200.0));
        }
        assert_eq!((pacer.piece(32, 40), pacer.beside()), (27, 32));
    }

    #[test]
    fn a_bound_below_the_grain_holds() {
        let mut pacer = ChunkPacer::new(4);
        assert_eq!(pacer.chunk(), 4);
        for _ in 0..20 {
            pacer.observe(1, 4, ms(0.1));
        }
        assert_eq!(pacer.chunk(), 4);
    }

    proptest! {
        /// Whatever the machine and with single times off by up to a third, the chunk comes near the one that takes the
        /// target's time, and then stays as it is.
        #[test]
        fn chunks_settle_near_the_target(
            seed in 1u64..,
            decode in 1.0f64..100.0,
            row in 0.2f64..6.0,
            wobble in 0.0f64..0.33,
        ) {
            let mut pacer = ChunkPacer::new(1024);
            let mut state = seed;
            let mut changes = 0;
            let mut over = 0;
            for step in 0..300 {
                let mut time = |ideal: f64| ms(ideal * (1.0 + wobble * noise(&mut state)));
                pacer.observe(8, 0, time(decode));
                let chunk = pacer.chunk();
                let took = time(decode + row * f64::from(chunk));
                pacer.observe(8, chunk, took);
                if step >= 60 {
                    changes += u32::from(pacer.chunk() != chunk);
                    // Beyond what the wobble and one grain explain.
                    let most = pacer.target().as_secs_f64() * (1.0 + wobble) * 1.34 + row * 0.016;
                    over += u32::from(took.as_secs_f64() > most);
                }
            }
            let target = decode.mul_add(3.0, 0.0).max(150.0);
            let ideal = (target - decode) / row;
            let chunk = f64::from(pacer.chunk());
            if ideal < 1024.0 {
                prop_assert!(chunk <= ideal.mul_add(1.5, 16.0), "{} for {}", chunk, ideal);
                prop_assert!(chunk >= (ideal * 0.55 - 16.0).min(1024.0), "{} for {}", chunk, ideal);
            }
            prop_assert!(changes <= 6, "{} changes", changes);
            prop_assert!(over <= 6, "{} steps over", over);
        }
    }
}
