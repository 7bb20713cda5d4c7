//! A sequential test over chunks, for cheats too fine to show in one: int8 weights, an fp8 KV, a small adapter.
//!
//! Wald's sequential probability ratio test (1945) between two hypotheses about the logarithm of a statistic: honest,
//! normal with the calibration's mean and deviation; and cheating, the same moved up by `shift` deviations. After each
//! chunk the logarithm of the likelihood ratio grows by `shift (z - shift / 2)`, `z` the value in deviations from the
//! mean; over `ln((1 - beta) / alpha)` it is a cheat, under `ln(beta / (1 - alpha))` it is honest. Then it begins anew.
//!
//! Honest values have longer tails than normal ones, so `z` is cut off at [`Z_LIMIT`]: no single chunk decides. A value
//! beyond all honest ones is judged by itself ([`Honest::judge`]).

use crate::calibration::{Honest, SMALLEST};

/// What is tested for, and how sure the answer shall be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SprtTerms {
    /// An honest node is called a cheat with at most this probability, each time the test runs to its end.
    pub alpha: f64,
    /// A cheat of this size is called honest with at most this one.
    pub beta: f64,
    /// By how many honest deviations the cheat moves the mean, in logarithms.
    pub shift: f64,
}

impl SprtTerms {
    /// 1 in 1,000 either way, for cheats that move values by two deviations: about 7 chunks.
    pub const STANDARD: Self = Self { alpha: 1e-3, beta: 1e-3, shift: 2.0 };
}

/// What is known so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Decision {
    /// Not enough chunks.
    Continue,
    /// Honest; the test has begun anew.
    Honest,
    /// A cheat; it stays one.
    Cheat,
}

/// The test of one node, span and statistic.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sprt {
    terms: SprtTerms,
    ln_mean: f64,
    ln_deviation: f64,
    ln_ratio: f64,
    chunks: u32,
    cheat: bool,
}

/// Terms that no test can have.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("alpha {alpha} and beta {beta} must lie between 0 and 1/2, and the shift {shift} be above 0")]
pub struct SprtError {
    alpha: f64,
    beta: f64,
    shift: f64,
}

impl Sprt {
    /// Begins a test against honest values.
    pub fn new(honest: &Honest, terms: SprtTerms) -> Result<Self, SprtError> {
        let SprtTerms { alpha, beta, shift } = terms;
        let share = |value: f64| value > 0.0 && value < 0.5;
        if !share(alpha) || !share(beta) || shift.is_nan() || shift <= 0.0 {
            return Err(SprtError { alpha, beta, shift });
        }
        Ok(Self {
            terms,
            ln_mean: honest.ln_mean,
            ln_deviation: honest.ln_deviation.max(LEAST_DEVIATION),
            ln_ratio: 0.0,
            chunks: 0,
            cheat: false,
        })
    }

    /// Takes the value of another chunk. Chunks should be of different sessions: within one they resemble each other.
    pub fn observe(&mut self, value: f64) -> Decision {
        if self.cheat {
            return Decision::Cheat;
        }
        let SprtTerms { alpha, beta, shift } = self.terms;
        // Rows that both sides computed alike, bit for bit, say nothing of the others.
        if value <= SMALLEST {
            return Decision::Continue;
        }
        // NaN is no honest value.
        let value = if value.is_nan() { f64::INFINITY } else { value };
        let z = ((value.ln() - self.ln_mean) / self.ln_deviation).clamp(-Z_LIMIT, Z_LIMIT);
        self.ln_ratio += shift * (z - shift / 2.0);
        self.chunks += 1;
        if self.ln_ratio >= ((1.0 - beta) / alpha).ln() {
            self.cheat = true;
            Decision::Cheat
        } else if self.ln_ratio <= (beta / (1.0 - alpha)).ln() {
            (self.ln_ratio, self.chunks) = (0.0, 0);
            Decision::Honest
        } else {
            Decision::Continue
        }
    }

    /// Chunks since the test began (anew).
    pub const fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Logarithm of the likelihood ratio, cheating against honest.
    pub const fn ln_ratio(&self) -> f64 {
        self.ln_ratio
    }
}

/// No chunk counts for more than this many deviations.
pub const Z_LIMIT: f64 = 3.0;

/// Where all honest values are nearly equal, differences of a percent mean nothing.
const LEAST_DEVIATION: f64 = 0.01;

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::calibration::Statistic;

    /// Box and Muller.
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn honest(rng: &mut ChaCha8Rng) -> Honest {
        let values: Vec<f64> = (0..20_000).map(|_| (-5.5 + 0.3 * normal(rng)).exp()).collect();
        Honest::of(Statistic::RelativeL2, &values).unwrap()
    }

    /// How a run ends, and after how many chunks.
    fn run(rng: &mut ChaCha8Rng, honest: &Honest, shift: f64) -> (Decision, u32) {
        let mut test = Sprt::new(honest, SprtTerms::STANDARD).unwrap();
        for chunks in 1.. {
            match test.observe((-5.5 + 0.3 * (normal(rng) + shift)).exp()) {
                Decision::Continue => {}
                decision => return (decision, chunks),
            }
        }
        unreachable!("a test ends");
    }

    #[test]
    fn error_rates_are_as_stated() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let honest = honest(&mut rng);
        let runs = 20_000;
        let ends = |rng: &mut ChaCha8Rng, shift| {
            let ends: Vec<_> = (0..runs).map(|_| run(rng, &honest, shift)).collect();
            let cheats = ends.iter().filter(|(decision, _)| *decision == Decision::Cheat).count();
            let longest = ends.iter().map(|&(_, chunks)| chunks).max().unwrap_or_default();
            (cheats, longest)
        };
        let (accused, _) = ends(&mut rng, 0.0);
        assert!(accused <= 30, "{accused} of {runs} honest nodes accused");
        let (caught, longest) = ends(&mut rng, 2.0);
        assert!(caught >= runs - 60, "{caught} of {runs} cheats caught");
        assert!(longest <= 40, "{longest} chunks");
        let within = (0..runs).filter(|_| run(&mut rng, &honest, 2.0).1 <= 16).count();
        assert!(within >= runs * 99 / 100, "{within} of {runs} within 16 chunks");
    }

    #[test]
    fn no_single_chunk_decides() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut test = Sprt::new(&honest(&mut rng), SprtTerms::STANDARD).unwrap();
        assert_eq!(test.observe(f64::INFINITY), Decision::Continue);
        assert_eq!(test.observe(f64::NAN), Decision::Cheat);
        assert_eq!(test.observe(0.0), Decision::Cheat);
    }

    #[test]
    fn terms_without_sense_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let honest = honest(&mut rng);
        for terms in [
            SprtTerms { alpha: 0.0, ..SprtTerms::STANDARD },
            SprtTerms { beta: 0.5, ..SprtTerms::STANDARD },
            SprtTerms { shift: f64::NAN, ..SprtTerms::STANDARD },
        ] {
            assert!(Sprt::new(&honest, terms).is_err());
        }
    }
}
