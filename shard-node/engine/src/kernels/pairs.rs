//! A bf16 matrix in the shim's layout of pairs (`shim/pairs.cc`): multiplied by the team, and its rows read again,
//! so that an embedding and a tied head are one matrix.

use std::ops::Range;

use shard_node_weights::Bf16;
use tch::Tensor;

use crate::ffi::{self, TorchError};

/// `[outputs, width]`, packed.
#[derive(Debug)]
pub(crate) struct Pairs {
    packed: Tensor,
    outputs: usize,
    width: usize,
}

impl Pairs {
    /// Whether rows of that width can be packed. No model has an odd one.
    pub(crate) const fn take(width: usize) -> bool {
        width.is_multiple_of(2)
    }

    /// Packs rows on several threads; `row` writes one, `packed` is told of those that are not asked for again.
    pub(crate) fn pack<E: Send>(
        (outputs, width): (usize, usize),
        row: impl Fn(usize, &mut [Bf16]) -> Result<(), E> + Sync,
        packed: impl Fn(Range<usize>) + Sync,
    ) -> Result<Result<Self, E>, TorchError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let threads = (outputs * width / VALUES_WORTH_A_THREAD).clamp(1, cores.min(MOST_THREADS));
        let packed = ffi::pairs_packed((outputs, width), threads, row, packed)?;
        Ok(packed.map(|packed| Self { packed, outputs, width }))
    }

    /// Packs a dense bf16 tensor `[outputs, width]`.
    pub(crate) fn of(weight: &Tensor) -> Result<Self, TorchError> {
        let (outputs, width) = weight.size2()?;
        let values = ffi::contiguous_bf16(weight).ok_or_else(|| TorchError("no dense bf16 weight".into()))?;
        let row = |index: usize, out: &mut [Bf16]| {
            out.copy_from_slice(&values[index * out.len()..][..out.len()]);
            Ok::<_, TorchError>(())
        };
        Self::pack((outputs as usize, width as usize), row, |_| ())?
    }

    /// `x [rows, width]` times the matrix, plus `residual`; bf16, or f32 if `wide`.
    pub(crate) fn multiply(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        wide: bool,
    ) -> Result<Tensor, TorchError> {
        ffi::pairs(&x.f_contiguous()?, &self.packed, self.outputs as i64, residual, wide)
    }

    /// The rows of these numbers, bf16 `[rows, width]`. A row lies scattered over its block, which an embedding can
    /// afford: 64 KiB are touched for a row of 2048.
    pub(crate) fn rows(&self, numbers: &[i64]) -> Result<Tensor, TorchError> {
        let packed = ffi::contiguous_bf16(&self.packed).ok_or_else(|| TorchError("no dense pairs".into()))?;
        ffi::filled(&[numbers.len() as i64, self.width as i64], |values: &mut [Bf16]| {
            for (out, &number) in values.chunks_exact_mut(self.width).zip(numbers) {
                let number = usize::try_from(number).ok().filter(|&number| number < self.outputs);
                let number = number.ok_or_else(|| TorchError("a row beyond the matrix".into()))?;
                let (block, lane) = (number / ffi::BLOCK, number % ffi::BLOCK);
                let block = &packed[block * ffi::BLOCK * self.width..][..ffi::BLOCK * self.width];
                for (out, pairs) in out.chunks_exact_mut(2).zip(block.chunks_exact(2 * ffi::BLOCK)) {
                    out.copy_from_slice(&pairs[2 * lane..][..2]);
                }
            }
            Ok(())
        })?
    }

    /// Bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.numel() * size_of::<Bf16>()
    }
}

/// A thread takes some 30 us to start, in which it would pack about this many values.
const VALUES_WORTH_A_THREAD: usize = 1 << 16;
/// They share the memory, and beside them as many threads hash.
const MOST_THREADS: usize = 16;

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn bits(tensor: &Tensor) -> Vec<u16> {
        ffi::contiguous_bf16(tensor).unwrap().iter().map(|value| value.0).collect()
    }

    #[test]
    fn a_packed_matrix_gives_its_rows_back() {
        crate::kernels::seeded();
        if ffi::pairs_level().is_none() {
            return;
        }
        for (outputs, width) in [(1, 2), (16, 32), (50, 576), (72, 1026), (600, 2048)] {
            let weight = Tensor::randn([outputs, width], (Kind::BFloat16, Device::Cpu));
            let pairs = Pairs::of(&weight).unwrap();
            let numbers: Vec<i64> = (0..outputs).rev().collect();
            let rows = pairs.rows(&numbers).unwrap();
            assert_eq!(bits(&rows), bits(&weight.flip([0])), "{outputs}x{width}");
            assert!(pairs.rows(&[outputs]).is_err() && pairs.rows(&[-1]).is_err());
            assert!(pairs.rows(&[]).unwrap().size() == [0, width]);
        }
    }

    /// Sums of two values whose bits are all that bf16 has: denormal, infinite and NaN ones too, and ties.
    #[test]
    fn with_avx2_sums_are_rounded_as_bf16_says_whatever_they_are() {
        if ffi::pairs_level().is_none() {
            return;
        }
        ffi::at_cpu_level(3, || {
            let one = half::bf16::ONE.to_bits();
            let ones = |_: usize, out: &mut [Bf16]| {
                out.fill(Bf16(one));
                Ok::<_, TorchError>(())
            };
            let pairs = Pairs::pack((33, 2), ones, |_| ()).unwrap().unwrap();
            let others = [0x0000, 0x8000, 0x0001, 0x3f80, 0x3c00, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc1];
            let rows: Vec<[u16; 2]> =
                others.iter().flat_map(|&other| (0..=u16::MAX).map(move |value| [value, other])).collect();
            for rows in rows.chunks(7) {
                let x = ffi::filled(&[rows.len() as i64, 2], |values: &mut [Bf16]| {
                    values.iter_mut().zip(rows.as_flattened()).for_each(|(to, &from)| *to = Bf16(from));
                    Ok::<_, TorchError>(())
                });
                let sums = bits(&pairs.multiply(&x.unwrap().unwrap(), None, false).unwrap());
                for (sums, row) in sums.chunks(33).zip(rows) {
                    let [a, b] = row.map(|value| half::bf16::from_bits(value).to_f32());
                    let expected = half::bf16::from_f32(a + b);
                    let same = |&sum: &u16| {
                        if expected.is_nan() {
                            half::bf16::from_bits(sum).is_nan()
                        } else {
                            // Of two zeros the sum begins with a positive one.
                            sum == expected.to_bits() || (sum == 0 && expected == half::bf16::ZERO)
                        }
                    };
                    assert!(sums.iter().all(same), "{row:x?}: {expected}, {sums:x?}");
                }
            }
        });
    }

    #[test]
    fn every_row_is_asked_for_and_given_up_once_and_the_first_error_ends_it() {
        if ffi::pairs_level().is_none() {
            return;
        }
        let (asked, given) = (std::sync::Mutex::new(vec![0; 5000]), std::sync::Mutex::new(vec![0; 5000]));
        let count = |row: usize, out: &mut [Bf16]| {
            out.fill(Bf16(row as u16));
            asked.lock().unwrap()[row] += 1;
            Ok::<_, TorchError>(())
        };
        let give = |rows: Range<usize>| rows.for_each(|row| given.lock().unwrap()[row] += 1);
        let pairs = Pairs::pack((5000, 512), count, give).unwrap().unwrap();
        assert_eq!(bits(&pairs.rows(&[4999]).unwrap()), vec![4999; 512]);
        assert!(asked.lock().unwrap().iter().all(|&times| times == 1));
        assert!(given.lock().unwrap().iter().all(|&times| times == 1));
        let refuse = |row: usize, _: &mut [Bf16]| if row == 4321 { Err(row) } else { Ok(()) };
        assert_eq!(Pairs::pack((5000, 512), refuse, |_| ()).unwrap().unwrap_err(), 4321);
    }
}
