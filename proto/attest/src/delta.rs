//! How far a recomputed span is from the committed one: relative L2 of the **delta**, for each chunk of 32 rows.
//!
//! ```text
//! committed = out_c - in      recomputed = out_r - in
//! statistic = |committed - recomputed| / |recomputed| = |out_c - out_r| / |out_r - in|
//! ```
//! **Never judge the residual stream itself.** Each layer adds a little to a large vector that passes straight through,
//! so `|out_c - out_r| / |out_r|` is small for a hop that did nothing at all (`out_c = in`): published thresholds on
//! hidden states accept it, at 1 to 8 layers a hop. Against the delta the same hop scores 1, whatever the layers.
//!
//! `in` are the rows that the hop received. Stage 0 receives tokens: there it is their embeddings, which the auditor
//! looks up. Only the committed inputs go in, so a hop that computed from other KV than they give is found too.

use proto::tensor::WireDtype;

/// Rows that one statistic is over.
pub const CHUNK_ROWS: usize = 32;

/// The statistics of one chunk.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ChunkDelta {
    /// Number of its first row among the rows given.
    pub first_row: usize,
    /// Its rows, at most [`CHUNK_ROWS`].
    pub rows: usize,
    /// Over all of its values. Infinite where a value is not finite.
    pub relative_l2: f64,
    /// The largest over one row: what is wrong in one row of 32 shows here six times as clearly.
    pub worst_row: f64,
}

/// Why rows can't be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// Bytes that are no whole number of elements.
    #[error("{0} bytes are no whole number of elements")]
    Bytes(usize),
    /// Lists of different lengths, or none that is whole rows.
    #[error("{input}, {committed} and {recomputed} values are not equally many rows of {hidden}")]
    Shape {
        /// Values received.
        input: usize,
        /// Values that the hop committed to.
        committed: usize,
        /// Values that were recomputed.
        recomputed: usize,
        /// Values of a row.
        hidden: usize,
    },
    /// The auditor's own result is not finite: nothing can be judged by it.
    #[error("a recomputed value is not finite")]
    NotFinite,
}

/// Rows as they were on the wire, as f32: `rows x hidden` elements in, as many out.
pub fn rows_from_wire(bytes: &[u8], dtype: WireDtype) -> Result<Vec<f32>, DeltaError> {
    if !bytes.len().is_multiple_of(dtype.bytes()) {
        return Err(DeltaError::Bytes(bytes.len()));
    }
    let values = match dtype {
        WireDtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
        // The upper half of an f32.
        WireDtype::Bf16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&value| f32::from_bits(u32::from(u16::from_le_bytes(value)) << 16))
            .collect(),
    };
    Ok(values)
}

/// The statistics of each chunk. All three are `[rows, hidden]`, row by row.
pub fn chunk_deltas(
    input: &[f32],
    committed: &[f32],
    recomputed: &[f32],
    hidden: usize,
) -> Result<Vec<ChunkDelta>, DeltaError> {
    let len = input.len();
    if hidden == 0 || !len.is_multiple_of(hidden) || committed.len() != len || recomputed.len() != len {
        let (committed, recomputed) = (committed.len(), recomputed.len());
        return Err(DeltaError::Shape { input: len, committed, recomputed, hidden });
    }
    let rows: Vec<Squares> = input
        .chunks_exact(hidden)
        .zip(committed.chunks_exact(hidden))
        .zip(recomputed.chunks_exact(hidden))
        .map(|((input, committed), recomputed)| Squares::of(input, committed, recomputed))
        .collect::<Result<_, _>>()?;
    let chunks = rows.chunks(CHUNK_ROWS).enumerate();
    Ok(chunks
        .map(|(index, rows)| ChunkDelta {
            first_row: index * CHUNK_ROWS,
            rows: rows.len(),
            relative_l2: rows.iter().copied().fold(Squares::default(), Squares::plus).ratio(),
            worst_row: rows.iter().map(|row| row.ratio()).fold(0.0, f64::max),
        })
        .collect())
}

/// Geometric mean of the relative L2 of a session's chunks of at least [`WHOLE_ROWS`] rows, those left out that are equal bit
/// for bit; 0 if there are none. One value of a session, for tests over many.
pub fn session_mean(chunks: &[ChunkDelta]) -> f64 {
    let whole = chunks.iter().filter(|chunk| chunk.rows >= WHOLE_ROWS);
    let off = whole.map(|chunk| chunk.relative_l2).filter(|&value| value > 0.0);
    let (count, sum) = off.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value.ln()));
    if count > 0.0 { (sum / count).exp() } else { 0.0 }
}

/// Fewer rows than these say too little by themselves.
const WHOLE_ROWS: usize = 24;

/// Sums of squares.
#[derive(Clone, Copy, Default)]
struct Squares {
    difference: f64,
    delta: f64,
}

impl Squares {
    fn of(input: &[f32], committed: &[f32], recomputed: &[f32]) -> Result<Self, DeltaError> {
        let mut sums = Self::default();
        for ((&input, &committed), &recomputed) in input.iter().zip(committed).zip(recomputed) {
            let (input, committed, recomputed) =
                (f64::from(input), f64::from(committed), f64::from(recomputed));
            sums.difference += (committed - recomputed) * (committed - recomputed);
            sums.delta += (recomputed - input) * (recomputed - input);
        }
        if !sums.delta.is_finite() {
            return Err(DeltaError::NotFinite);
        }
        Ok(sums)
    }

    fn plus(self, other: Self) -> Self {
        Self { difference: self.difference + other.difference, delta: self.delta + other.delta }
    }

    /// A hop can't hide behind NaN, nor behind a span that adds nothing.
    fn ratio(self) -> f64 {
        if self.difference == 0.0 {
            0.0
        } else if self.difference.is_finite() && self.delta > 0.0 {
            (self.difference / self.delta).sqrt()
        } else {
            f64::INFINITY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A residual stream: large rows to which a span adds a little.
    fn stream(rows: usize, hidden: usize, noise: f32) -> (Vec<f32>, Vec<f32>) {
        let value = |index: usize, salt: u8| {
            let hash = blake3::hash(&[&index.to_le_bytes()[..], &[salt]].concat());
            f32::from(hash.as_bytes()[0]) / 128.0 - 1.0
        };
        let input: Vec<f32> = (0..rows * hidden).map(|index| 50.0 * value(index, 0)).collect();
        let output = input.iter().enumerate();
        let output = output.map(|(index, input)| input + value(index, 1) + noise * value(index, 2));
        let output = output.collect();
        (input, output)
    }

    #[test]
    fn a_hop_that_does_nothing_scores_one() {
        let (input, output) = stream(70, 16, 0.0);
        let chunks = chunk_deltas(&input, &input, &output, 16).unwrap();
        assert_eq!(
            chunks.iter().map(|chunk| (chunk.first_row, chunk.rows)).collect::<Vec<_>>(),
            [(0, 32), (32, 32), (64, 6)]
        );
        for chunk in &chunks {
            assert!((chunk.relative_l2 - 1.0).abs() < 1e-9 && (chunk.worst_row - 1.0).abs() < 1e-9);
        }
        // The trap: by the residual stream itself it would pass.
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
        let off = square(&mut input.iter().zip(&output).map(|(a, b)| a - b));
        assert!((off / square(&mut output.iter().copied())).sqrt() < 0.03);
    }

    #[test]
    fn noise_and_a_wrong_row_show_as_large_as_they_are() {
        let (input, honest) = stream(64, 16, 0.0);
        let (_, noisy) = stream(64, 16, 0.01);
        let chunks = chunk_deltas(&input, &noisy, &honest, 16).unwrap();
        assert!(chunks.iter().all(|chunk| (0.005..0.02).contains(&chunk.relative_l2)), "{chunks:?}");
        let mut wrong = honest.clone();
        wrong[40 * 16..41 * 16].copy_from_slice(&input[40 * 16..41 * 16]);
        let chunks = chunk_deltas(&input, &wrong, &honest, 16).unwrap();
        assert_eq!(chunks[0].relative_l2, 0.0);
        assert!((chunks[1].worst_row - 1.0).abs() < 1e-6 && chunks[1].relative_l2 < 0.3);
    }

    #[test]
    fn nan_and_silence_do_not_pass() {
        let (input, output) = stream(2, 4, 0.0);
        let mut hostile = output.clone();
        hostile[3] = f32::NAN;
        let chunks = chunk_deltas(&input, &hostile, &output, 4).unwrap();
        assert_eq!((chunks[0].relative_l2, chunks[0].worst_row), (f64::INFINITY, f64::INFINITY));
        assert_eq!(chunk_deltas(&input, &output, &hostile, 4), Err(DeltaError::NotFinite));
        let still = chunk_deltas(&input, &output, &input, 4).unwrap();
        assert_eq!(still[0].relative_l2, f64::INFINITY);
        assert_eq!(chunk_deltas(&input, &input, &input, 4).unwrap()[0].relative_l2, 0.0);
        assert!(matches!(chunk_deltas(&input, &output[1..], &output, 4), Err(DeltaError::Shape { .. })));
    }

    #[test]
    fn rows_come_from_the_wire_in_both_types() {
        assert_eq!(rows_from_wire(&1.5f32.to_le_bytes(), WireDtype::F32), Ok(vec![1.5]));
        assert_eq!(rows_from_wire(&[0xc0, 0x3f, 0x00, 0xbf], WireDtype::Bf16), Ok(vec![1.5, -0.5]));
        assert_eq!(rows_from_wire(&[0; 3], WireDtype::Bf16), Err(DeltaError::Bytes(3)));
    }
}
