//! Products of panels against the same numbers multiplied plainly.

use half::f16;
use proto::tensor::Dtype;
use shard_node_weights::TensorError;
use tch::Device;

use super::*;
use crate::kernels::device_matrix::DeviceMatrix;
use crate::quantise::DenseRows;

/// (in, out): whole panels and groups, none of either, the demo model's, one of Llama-3.2-1B's.
const SIZES: [(usize, usize); 6] = [(64, 128), (100, 261), (576, 960), (1536, 576), (48, 5), (2048, 512)];

fn levels() -> Vec<PanelLevel> {
    let all = [PanelLevel::Plain, PanelLevel::Avx2, PanelLevel::Avx512, PanelLevel::Amx];
    all.into_iter().filter(|level| *level <= PanelLevel::best()).collect()
}

fn normal(shape: [i64; 2]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn packed(weight: &Tensor, bits: Bits) -> Panels {
    let values = ffi::contiguous_f32(weight).unwrap();
    Panels::pack(&DenseRows { values, columns: weight.size()[1] as usize }, bits, 2).unwrap()
}

/// What the panels hold, row by row.
fn held(panels: &Panels) -> Tensor {
    let shape = [panels.out as i64, panels.width as i64];
    ffi::filled(&shape, |values: &mut [f32]| {
        values.chunks_exact_mut(panels.width).enumerate().try_for_each(|(row, out)| panels.row(row, out))
    })
    .unwrap()
    .unwrap()
}

/// Root of the mean square, of the difference and of the truth.
fn error(y: &Tensor, truth: &Tensor) -> f64 {
    let rms = |t: Tensor| t.square().mean(Kind::Float).sqrt().double_value(&[]);
    rms(y.to_kind(Kind::Float) - truth) / rms(truth.shallow_clone())
}

#[test]
fn products_are_those_of_the_values_the_panels_hold() {
    tch::manual_seed(1);
    for (width, out) in SIZES {
        let weight = normal([out as i64, width as i64]);
        for (bits, stored, rounded) in [(Bits::Eight, 0.012, 0.012), (Bits::Four, 0.1, 0.009)] {
            let panels = packed(&weight, bits);
            let values = held(&panels);
            assert!(error(&values, &weight) < stored, "{bits:?} holds {}", error(&values, &weight));
            for rows in [1, 5, 40] {
                let x = normal([rows, width as i64]);
                let truth = x.matmul(&values.tr());
                for level in levels() {
                    let y = panels.multiply(&x, None, Kind::Float, level).unwrap();
                    // Products of normal values deviate by the root of the width; of five of them the sample's own
                    // deviation says little.
                    let one = (&y - &truth).square().mean(Kind::Float).sqrt().double_value(&[])
                        / (width as f64).sqrt();
                    assert!(one < rounded, "{bits:?} {level:?} {width}x{out}, {rows} rows: {one}");
                    let fine = error(&panels.multiply_fine(&x, level).unwrap(), &truth);
                    assert!(fine < 1e-4, "{bits:?} {level:?} {width}x{out}, {rows} rows, fine: {fine}");
                }
            }
        }
    }
}

#[test]
fn no_rows_have_a_product_of_no_rows() {
    for bits in [Bits::Eight, Bits::Four] {
        let panels = packed(&normal([37, 100]), bits);
        for level in levels() {
            let y = panels.multiply(&normal([0, 100]), None, Kind::BFloat16, level).unwrap();
            assert_eq!(y.size(), [0, 37], "{bits:?} {level:?}");
            assert_eq!(panels.multiply_fine(&normal([0, 100]), level).unwrap().size(), [0, 37]);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company_even_of_outliers() {
    tch::manual_seed(2);
    for (width, out) in SIZES {
        for bits in [Bits::Eight, Bits::Four] {
            let panels = packed(&normal([out as i64, width as i64]), bits);
            for level in levels() {
                for kind in [Kind::BFloat16, Kind::Float] {
                    let x = normal([41, width as i64]).to_kind(kind);
                    let residual = normal([41, out as i64]).to_kind(kind);
                    let _ = x.narrow(0, 7, 1).g_mul_scalar_(50.0);
                    let product = |start, rows| {
                        let add = residual.narrow(0, start, rows);
                        panels.multiply(&x.narrow(0, start, rows), Some(&add), kind, level).unwrap()
                    };
                    ffi::team(1).unwrap();
                    let alone: Vec<_> = (0..41).map(|row| product(row, 1)).collect();
                    ffi::team(3).unwrap();
                    for (start, rows) in [
                        (0, 41),
                        (0, 40),
                        (1, 33),
                        (2, 32),
                        (3, 17),
                        (4, 16),
                        (5, 13),
                        (6, 12),
                        (7, 7),
                        (5, 4),
                        (6, 3),
                        (7, 2),
                    ] {
                        let y = product(start, rows);
                        for row in 0..rows {
                            assert_eq!(
                                y.narrow(0, row, 1),
                                alone[(start + row) as usize],
                                "{bits:?} {level:?} {kind:?} {width}x{out}: row {row} of {rows} from {start}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tiles_give_the_bits_of_vectors() {
    if PanelLevel::best() < PanelLevel::Amx {
        return;
    }
    tch::manual_seed(4);
    // Widths of one chunk of groups and of several, an odd number of panels, rows that fill no block.
    for (width, out) in [(64, 128), (100, 261), (576, 48), (2048, 80), (4160, 16)] {
        for bits in [Bits::Eight, Bits::Four] {
            let panels = packed(&normal([out, width]), bits);
            for rows in [8, 9, 12, 13, 16, 64, 200, 700] {
                let x = normal([rows, width]).to_kind(Kind::BFloat16);
                let residual = normal([rows, out]).to_kind(Kind::BFloat16);
                let [tiles, vectors] = [PanelLevel::Amx, PanelLevel::Avx512].map(|level| {
                    let product = panels.multiply(&x, Some(&residual), Kind::BFloat16, level).unwrap();
                    (product, panels.multiply_fine(&x, level).unwrap())
                });
                assert_eq!(tiles, vectors, "{bits:?} {width}x{out}, {rows} rows");
            }
        }
    }
}

#[test]
fn int8_has_the_same_bits_with_any_vectors() {
    tch::manual_seed(3);
    for (width, out) in SIZES {
        let panels = packed(&normal([out as i64, width as i64]), Bits::Eight);
        let x = normal([26, width as i64]).to_kind(Kind::BFloat16);
        let vectors = levels().into_iter().filter(|level| *level != PanelLevel::Plain);
        let products = vectors.map(|level| panels.multiply(&x, None, Kind::BFloat16, level).unwrap());
        let products: Vec<_> = products.collect();
        assert!(products.windows(2).all(|pair| pair[0] == pair[1]), "{width}x{out}");
    }
}

#[test]
fn the_ends_of_the_range_do_not_overflow() {
    for bits in [Bits::Eight, Bits::Four] {
        let width = 8192;
        let weight = Tensor::ones([16, width], (Kind::Float, Device::Cpu));
        let _ = weight.narrow(1, 0, width / 2).fill_(-1.0);
        let panels = packed(&weight, bits);
        for (value, expected) in [(3.0, 3.0 * width as f64), (-3.0, -3.0 * width as f64)] {
            let x = weight.narrow(0, 0, 2) * value;
            for level in levels() {
                let y = panels.multiply(&x, None, Kind::Float, level).unwrap();
                let got = y.double_value(&[1, 15]);
                assert!(
                    (got - expected).abs() < 1e-3 * expected.abs(),
                    "{bits:?} {level:?} {got} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_shows_in_its_own_row_only() {
    let panels = packed(&normal([32, 64]), Bits::Eight);
    for bad in [f64::NAN, f64::INFINITY] {
        let x = normal([3, 64]);
        let _ = x.narrow(0, 1, 1).narrow(1, 9, 1).fill_(bad);
        for level in levels() {
            let y = panels.multiply(&x, None, Kind::Float, level).unwrap();
            let nan = y.isnan().to_kind(Kind::Float).sum_dim_intlist(1i64, false, Kind::Float);
            assert_eq!(Vec::<f32>::try_from(nan).unwrap(), [0.0, 32.0, 0.0]);
        }
    }
}

/// Rows of 4-bit blocks.
struct BlockRows {
    q4_0: Vec<Vec<[u8; 18]>>,
    q4_1: Vec<Vec<[u8; 20]>>,
}

impl MatrixRows for BlockRows {
    fn rows(&self) -> usize {
        self.q4_0.len() + self.q4_1.len()
    }

    fn columns(&self) -> usize {
        64
    }

    fn values(&self, _row: usize, _out: &mut [f32]) -> Result<(), TensorError> {
        panic!("blocks are used as they are")
    }

    fn blocks(&self, row: usize) -> Option<FourBits<'_>> {
        Some(match self.q4_0.get(row) {
            Some(blocks) => FourBits::Q4_0(blocks),
            None => FourBits::Q4_1(&self.q4_1[row - self.q4_0.len()]),
        })
    }
}

#[test]
fn stored_blocks_are_widened_to_their_very_values() {
    let mut seed = 7u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    };
    let scale = |b: &mut dyn FnMut() -> u8| f16::from_f32(f32::from(b()) / 256.0 - 0.5).to_le_bytes();
    let mut q4_0 = vec![];
    let mut q4_1 = vec![];
    for _ in 0..20 {
        q4_0.push(
            (0..2)
                .map(|_| {
                    let d = scale(&mut byte);
                    std::array::from_fn(|i| if i < 2 { d[i] } else { byte() })
                })
                .collect::<Vec<[u8; 18]>>(),
        );
        q4_1.push(
            (0..2)
                .map(|_| {
                    let (d, m) = (scale(&mut byte), scale(&mut byte));
                    std::array::from_fn(|i| if i < 4 { [d, m].concat()[i] } else { byte() })
                })
                .collect::<Vec<[u8; 20]>>(),
        );
    }
    let mut expected: Vec<f32> = vec![];
    let bytes_0: Vec<u8> = q4_0.iter().flatten().flatten().copied().collect();
    let bytes_1: Vec<u8> = q4_1.iter().flatten().flatten().copied().collect();
    expected.extend(shard_node_weights::dequantise::to_vec::<f32>(Dtype::Q4_0, &bytes_0).unwrap());
    expected.extend(shard_node_weights::dequantise::to_vec::<f32>(Dtype::Q4_1, &bytes_1).unwrap());
    for source in [BlockRows { q4_0: q4_0.clone(), q4_1: vec![] }, BlockRows { q4_0, q4_1 }] {
        let rows = source.rows();
        let panels = Panels::pack(&source, Bits::Four, 3).unwrap();
        let expected = Tensor::from_slice(&expected[..rows * 64]).view([rows as i64, 64]);
        assert_eq!(held(&panels), expected);
        let Integers::Four { nibbles, scales, minima } = panels.integers().unwrap() else { panic!("4 bits") };
        let wide = nibbles.to_kind(Kind::Float) * scales.to_kind(Kind::Float) + minima.to_kind(Kind::Float);
        assert_eq!(wide.view([rows as i64, 64]), expected);
    }
}

#[test]
fn products_of_other_devices_agree_with_what_panels_hold() {
    for (width, out) in [(100, 261), (64, 5000), (8192, 4100)] {
        for bits in [Bits::Eight, Bits::Four] {
            let panels = packed(&normal([out, width]), bits);
            let matrix = DeviceMatrix::new(&panels, Device::Cpu, false).unwrap();
            assert!(matrix.bytes() <= panels.bytes() && matrix.bytes() * 10 > panels.bytes() * 7);
            let x = normal([3, width]);
            let truth = x.matmul(&held(&panels).tr());
            assert!(error(&matrix.multiply(&x).unwrap(), &truth) < 1e-5);
            // bf16 rounds each weight of four bits and each result to 8 bits.
            let x = x.to_kind(Kind::BFloat16);
            let truth = x.to_kind(Kind::Float).matmul(&held(&panels).tr());
            assert!(error(&matrix.multiply_f32(&x).unwrap(), &truth) < 2e-3);
            let y = matrix.multiply(&x).unwrap();
            assert_eq!(y.kind(), Kind::BFloat16);
            assert!(error(&y, &truth) < 4e-3);
        }
    }
}
