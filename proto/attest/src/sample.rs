//! What the tail commits to for each token that it chose: the likeliest logits and the sum behind all probabilities.
//!
//! Sampling is a pure function of logits, terms, history, seed and position, so a commitment to the logits makes a token
//! checkable: [`judge`] does it from the committed ones alone, as far as they decide.

mod judge;
mod terms;

pub use judge::{JudgeError, TokenVerdict, judge};
pub use terms::SamplingTerms;

use proto::{Generation, NodeId, Position, SessionId};
use proto_sampling::log_sum_exp;

use crate::layout::{LayoutError, Reader, Writer};
use crate::{Leaf, LeafHasher};

/// Logits that are committed to for each token. Nuclei of sensible settings are smaller; beyond, an audit opens the row.
pub const TOP: usize = 64;

/// The likeliest logits of one token's row, unmodified.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    position: Position,
    logsumexp: f32,
    top: Vec<(u32, f32)>,
}

/// Why logits make no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// NaN, plus infinity, or nothing but minus infinity.
    #[error("logits that no token can be chosen from")]
    NotFinite,
    /// The bytes are not a sample.
    #[error("sample does not parse: {0}")]
    Layout(#[from] LayoutError),
}

impl Sample {
    /// Of the row of logits, `[vocab_size]`, from which the token at `position` was chosen. Impossible tokens (`-inf`)
    /// are left out, so fewer than [`TOP`] entries say that all others are impossible.
    pub fn of_logits(position: Position, logits: &[f32]) -> Result<Self, SampleError> {
        let logsumexp = log_sum_exp(logits).map_err(|_| SampleError::NotFinite)?;
        Self::from_top(position, Self::likeliest(logits), logsumexp)
    }

    /// The [`TOP`] likeliest of a row, larger logits first, then lower tokens.
    pub fn likeliest(logits: &[f32]) -> Vec<(u32, f32)> {
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(TOP + 1);
        let mut least = f32::NEG_INFINITY;
        for (index, block) in logits.chunks(BLOCK).enumerate() {
            // Without a branch for each logit, so that it becomes SIMD: few blocks hold one of the likeliest.
            if block.iter().fold(0u32, |any, &logit| any | u32::from(logit > least)) == 0 {
                continue;
            }
            for (place, &logit) in block.iter().enumerate() {
                if logit <= least {
                    continue;
                }
                let rank = top.partition_point(|&(_, other)| other >= logit);
                top.insert(rank, ((index * BLOCK + place) as u32, logit));
                top.truncate(TOP);
                if top.len() == TOP {
                    least = top[TOP - 1].1;
                }
            }
        }
        top
    }

    /// Of [`Sample::likeliest`] and the sum of all, as whoever chose from the row knows them.
    pub fn from_top(position: Position, top: Vec<(u32, f32)>, logsumexp: f32) -> Result<Self, SampleError> {
        if !logsumexp.is_finite() || top.is_empty() || top[0].1 == f32::INFINITY {
            return Err(SampleError::NotFinite);
        }
        Ok(Self { position, logsumexp, top })
    }

    /// The token's position.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Logarithm of the sum of the exponentials of all logits: `logit - logsumexp` is a token's log-probability.
    pub const fn logsumexp(&self) -> f32 {
        self.logsumexp
    }

    /// (token, logit), larger logits first, then lower tokens.
    pub fn top(&self) -> &[(u32, f32)] {
        &self.top
    }

    /// Its leaf.
    pub fn leaf(&self, hasher: &LeafHasher) -> Leaf {
        let mut writer = Writer::new();
        self.write(&mut writer);
        // The position is in the leaf by itself.
        hasher.leaf(self.position, &writer.finish()[4..])
    }

    /// Makes the leaves of a session's samples.
    pub fn hasher(router: NodeId, session: SessionId, generation: Generation) -> LeafHasher {
        LeafHasher::new("layerlane attest sample 1", router, session, generation)
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// Reads the bytes: at least one entry, in order, no token twice.
    pub fn decode(bytes: &[u8]) -> Result<Self, SampleError> {
        let mut reader = Reader::new(bytes);
        let sample = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(sample)
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u32(self.position.get());
        writer.f32(self.logsumexp);
        writer.u8(self.top.len() as u8);
        for &(token, logit) in &self.top {
            writer.u32(token);
            writer.f32(logit);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let position = Position::new(reader.u32("position")?);
        let logsumexp = reader.f32("logsumexp")?;
        let count = usize::from(reader.u8("logits")?);
        let count = reader.count(count, TOP, 8, "logits")?;
        let entry = |reader: &mut Reader<'_>| Ok((reader.u32("token")?, reader.f32("logit")?));
        let top = (0..count).map(|_| entry(reader)).collect::<Result<Vec<_>, LayoutError>>()?;
        let ordered = top.windows(2).all(|pair| {
            let ((a, higher), (b, lower)) = (pair[0], pair[1]);
            higher > lower || (higher == lower && a < b)
        });
        let mut tokens: Vec<u32> = top.iter().map(|&(token, _)| token).collect();
        tokens.sort_unstable();
        let once = tokens.windows(2).all(|pair| pair[0] != pair[1]);
        let finite = logsumexp.is_finite() && top.iter().all(|(_, logit)| logit.is_finite());
        if top.is_empty() || !ordered || !once || !finite {
            return Err(LayoutError::Field("logits"));
        }
        Ok(Self { position, logsumexp, top })
    }
}

/// Logits that are looked at together.
const BLOCK: usize = 64;

/// Bytes of the smallest encoded sample.
pub(crate) const SAMPLE_BYTES: usize = 4 + 4 + 1 + 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logits(seed: u64, count: usize) -> Vec<f32> {
        let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; count];
        let mut reader = hash;
        reader.fill(&mut bytes);
        bytes.iter().map(|&byte| f32::from(byte) / 16.0 - 8.0).collect()
    }

    #[test]
    fn the_likeliest_come_first_and_the_sum_is_of_all() {
        let sample = Sample::of_logits(Position::new(3), &[1.0, f32::NEG_INFINITY, 2.0, 1.0]).unwrap();
        assert_eq!(sample.top(), [(2, 2.0), (0, 1.0), (3, 1.0)]);
        let sum = 2.0f64.exp() + 2.0 * 1.0f64.exp();
        assert!((f64::from(sample.logsumexp()) - sum.ln()).abs() < 1e-6);
        for bad in [&[][..], &[f32::NAN], &[f32::INFINITY], &[f32::NEG_INFINITY]] {
            assert!(Sample::of_logits(Position::new(0), bad).is_err());
        }
    }

    #[test]
    fn a_leaf_binds_position_and_logits() {
        let hasher = Sample::hasher(NodeId::from_bytes([1; 32]), SessionId::new(1), Generation::new(0));
        let row = logits(1, 500);
        let leaf =
            |position, row: &[f32]| Sample::of_logits(Position::new(position), row).unwrap().leaf(&hasher);
        assert_ne!(leaf(1, &row), leaf(2, &row));
        let mut other = row.clone();
        other[7] = 9.0;
        assert_ne!(leaf(1, &row), leaf(1, &other));
        assert_eq!(leaf(1, &row), leaf(1, &row));
    }

    proptest! {
        #[test]
        fn samples_round_trip(seed: u64, count in 1usize..300) {
            let sample = Sample::of_logits(Position::new(5), &logits(seed, count)).unwrap();
            prop_assert_eq!(sample.top().len(), count.min(TOP));
            prop_assert_eq!(Sample::decode(&sample.encode()), Ok(sample));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(sample) = Sample::decode(&bytes) {
                prop_assert_eq!(sample.encode(), bytes);
            }
        }
    }
}
