//! Tests of the shim's kernels at every x86-64 level that this machine has.
//!
//! `ATEN_CPU_CAPABILITY` sets the level of a process; here a thread chooses, so that levels can be compared.

use std::process::Command;

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, AppendAt, AttendJob, HeadExtras, KvTensors};

/// Levels below the machine's own are plain and 3; on a machine of level 3 the last two are the same.
const LEVELS: [i32; 3] = [0, 3, 4];

fn normal(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (kind, Device::Cpu))
}

/// Room for two heads of nine positions in 8 bits, and for their scales.
fn bytes(dim: i64) -> Tensor {
    Tensor::zeros([2, 9, dim], (Kind::Int8, Device::Cpu))
}

fn scales() -> Tensor {
    Tensor::zeros([2, 9], (Kind::Float, Device::Cpu))
}

/// What `f` gives at each level.
fn at_each_level<R>(f: impl Fn() -> R) -> Vec<R> {
    LEVELS.iter().map(|&level| ffi::at_cpu_level(level, &f)).collect()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Float) - b.to_kind(Kind::Float)).abs().max().double_value(&[])
}

#[test]
fn a_level_can_be_lowered_and_comes_back() {
    let own = ffi::cpu_level();
    assert_eq!(at_each_level(ffi::cpu_level), LEVELS.map(|level| level.min(own)));
    assert_eq!(ffi::cpu_level(), own);
}

/// The linker keeps one copy of what several files define weakly, inline functions and templates above all. One from a
/// file that is compiled for some CPUs as a whole would run on all of them.
#[test]
fn archives_for_some_cpus_define_nothing_that_the_linker_shares() {
    let archives: Vec<_> = env!("LAYERLANE_LEVEL_ARCHIVES").split(' ').collect();
    assert!(archives.contains(&"pairs_avx2") && archives.contains(&"panels_avx512"), "{archives:?}");
    for archive in archives {
        let path = format!("{}/liblayerlane_{archive}.a", env!("OUT_DIR"));
        let listed = Command::new("nm").args(["--portability", &path]).output().expect("nm is where ar is");
        assert!(listed.status.success(), "{path}: {}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        let symbols = listed.lines().filter_map(|line| line.split_once(' '));
        let (mut functions, mut shared) = (0, Vec::new());
        for (name, rest) in symbols {
            match rest.as_bytes().first() {
                Some(b'T') => functions += 1,
                Some(b'V' | b'W' | b'u' | b'i') => shared.push(name),
                // Code that runs when the program starts.
                _ if name.starts_with("_GLOBAL__sub_I") => shared.push(name),
                _ => {}
            }
        }
        assert!(functions > 0 && shared.is_empty(), "{archive}: {functions} functions, shared {shared:?}");
    }
}

#[test]
fn row_kernels_have_the_same_bits_at_every_level() {
    crate::kernels::seeded();
    for kind in [Kind::Float, Kind::BFloat16] {
        for width in [576, 72, 50] {
            let x = normal(&[5, width], kind) * 3.0;
            let weight = normal(&[width], Kind::Float);
            let normed = at_each_level(|| ffi::rms_norm(&x, &weight, 1e-5).unwrap());
            assert!(normed.iter().all(|other| *other == normed[0]), "norm {kind:?} {width}");
            let sums = at_each_level(|| ffi::rms_norm_add(&x, &weight, 1e-5, &x).unwrap());
            assert!(sums.iter().all(|other| *other == sums[0]), "sum {kind:?} {width}");
            for gelu in [false, true] {
                let gated = at_each_level(|| ffi::gated(&x, gelu).unwrap());
                assert!(gated.iter().all(|other| *other == gated[0]), "gate {kind:?} {width} gelu {gelu}");
            }
        }
        for dim in [64, 80, 24, 10] {
            let (cos, sin) = (normal(&[9, dim / 2], Kind::Float), normal(&[9, dim / 2], Kind::Float));
            let qkv = normal(&[5, 6 * dim], kind);
            let (bias, norm) = (normal(&[6 * dim], Kind::Float), normal(&[dim], Kind::Float));
            for extras in [
                HeadExtras { bias: None, norms: None },
                HeadExtras { bias: Some(&bias), norms: Some((&norm, &norm, 1e-6)) },
            ] {
                let appended = at_each_level(|| {
                    let mut qkv = qkv.copy();
                    let zeros = || Tensor::zeros([2, 9, dim], (kind, Device::Cpu));
                    let (keys, values) = (zeros(), zeros());
                    let cache = KvTensors { keys: &keys, values: &values, scales: None };
                    let at = AppendAt { heads: 2, kv_heads: 2, dim, row: 0, rows: 5, start: 3 };
                    ffi::rope_append(&mut qkv, extras, (&cos, &sin), cache, at).unwrap();
                    (qkv, keys, values)
                });
                assert!(appended.iter().all(|other| *other == appended[0]), "rotary {kind:?} {dim}");
                if kind == Kind::BFloat16 {
                    let appended = at_each_level(|| {
                        let (keys, values, scales) = (bytes(dim), bytes(dim), [(); 2].map(|()| scales()));
                        let cache = KvTensors {
                            keys: &keys,
                            values: &values,
                            scales: Some((&scales[0], &scales[1])),
                        };
                        let at = AppendAt { heads: 2, kv_heads: 2, dim, row: 0, rows: 5, start: 3 };
                        ffi::rope_append(&mut qkv.copy(), extras, (&cos, &sin), cache, at).unwrap();
                        let wide = ffi::widen_heads(&keys, &scales[0], (3, 8)).unwrap();
                        (keys, values, scales, wide)
                    });
                    assert!(appended.iter().all(|other| *other == appended[0]), "rotary in 8 bits {dim}");
                }
            }
        }
    }
}

#[test]
fn attention_and_head_agree_at_every_level() {
    crate::kernels::seeded();
    for kind in [Kind::Float, Kind::BFloat16] {
        // Products and sums are fused at levels 3 and 4 only, and the result is rounded to `kind`.
        let bound = if kind == Kind::Float { 1e-5 } else { 0.02 };
        for dim in [64, 48, 10] {
            let (keys, values) = (normal(&[2, 100, dim], kind), normal(&[2, 100, dim], kind));
            let qkv = normal(&[3, 10 * dim], kind);
            let attended = at_each_level(|| {
                let mut out = Tensor::zeros([3, 6 * dim], (kind, Device::Cpu));
                let jobs = [0, 1, 2].map(|row| AttendJob {
                    row,
                    cache: KvTensors { keys: &keys, values: &values, scales: None },
                    first: 5 * row,
                    end: 30 * row + 7,
                });
                ffi::attend(&qkv, &mut out, &jobs, (6, 2, dim), 0.125).unwrap();
                out
            });
            for other in &attended {
                let difference = largest_difference(other, &attended[0]);
                assert!(difference <= bound, "{kind:?} {dim}: {difference}");
            }
        }
    }
    for dim in [64, 128, 80, 10] {
        let (keys, values) =
            [(); 2].map(|()| Tensor::randint_low(-127, 128, [2, 100, dim], (Kind::Int8, Device::Cpu))).into();
        let (key_scales, value_scales) = [(); 2].map(|()| normal(&[2, 100], Kind::Float).abs() / 60.0).into();
        let qkv = normal(&[3, 10 * dim], Kind::BFloat16);
        let attended = at_each_level(|| {
            let mut out = Tensor::zeros([3, 6 * dim], (Kind::BFloat16, Device::Cpu));
            let jobs = [0, 1, 2].map(|row| AttendJob {
                row,
                cache: KvTensors { keys: &keys, values: &values, scales: Some((&key_scales, &value_scales)) },
                first: 5 * row,
                end: 30 * row + 7,
            });
            ffi::attend(&qkv, &mut out, &jobs, (6, 2, dim), 0.125).unwrap();
            out
        });
        for other in &attended {
            let difference = largest_difference(other, &attended[0]);
            assert!(difference <= 0.04, "8 bits {dim}: {difference}");
        }
    }
    let (x, table) = (normal(&[5, 200], Kind::Float), normal(&[300, 200], Kind::BFloat16));
    let logits = at_each_level(|| ffi::head(&x, &table).unwrap());
    for other in &logits {
        // Sums of 200 products of about 1 in another rounding.
        assert!(largest_difference(other, &logits[0]) < 1e-4);
    }
}
