//! The row kernel against the library, with and without biases, norms and windows.

use super::*;
use crate::kernels::by_library_only;
use proto::manifest::SlidingWindow;
use proto::tensor::KvFormat;
use tch::Device;

fn architecture(dim: u32, window: Option<SlidingWindow>) -> Architecture {
    Architecture {
        family: "llama".into(),
        n_layers: 1,
        hidden: 64,
        heads: 1,
        kv_heads: 1,
        head_dim: dim,
        ffn: 64,
        vocab: 64,
        context: 512,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: None,
        tied_head: true,
        window,
        local_rope_theta: Some(100.0),
        query_scalar: Some(24.0),
        experts: None,
    }
}

/// Zeros, so that positions nobody wrote are equal.
fn cache(heads: Heads, format: KvFormat) -> LayerCache {
    let cache = LayerCache::new(heads, 320, format, Device::Cpu).unwrap();
    let _ = cache.keys.shallow_clone().zero_();
    let _ = cache.values.shallow_clone().zero_();
    cache
}

fn as_computed(kind: Kind) -> KvFormat {
    if kind == Kind::Float { KvFormat::F32 } else { KvFormat::Bf16 }
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Float) - b.to_kind(Kind::Float)).abs().max().double_value(&[])
}

/// With a bias and norms, or neither.
fn layer(architecture: &Architecture, heads: Heads, extras: bool) -> LayerAttention {
    let random = |len: i64| Tensor::randn([len], (Kind::Float, Device::Cpu));
    let mut how = LayerAttention::of(architecture, LayerIndex::new(0));
    if extras {
        how.bias = Some(random((heads.queries + 2 * heads.keys) * heads.dim));
        how.norms = Some(HeadNorms { queries: random(heads.dim), keys: random(heads.dim), eps: 1e-5 });
    }
    how
}

#[test]
fn our_kernels_agree_with_the_library() {
    crate::kernels::seeded();
    let shapes = [(9, 3, 64), (8, 2, 128), (5, 1, 48), (4, 4, 10), (14, 2, 64)];
    for (queries, keys, dim) in shapes {
        for (kind, extras) in [Kind::Float, Kind::BFloat16].into_iter().flat_map(|k| [(k, false), (k, true)])
        {
            for width in [None, Some(32), Some(100)] {
                compare(Heads { queries, keys, dim }, kind, extras, width);
            }
        }
    }
}

fn compare(heads: Heads, kind: Kind, extras: bool, width: Option<u32>) {
    let Heads { queries, keys, dim } = heads;
    let window = width.map(|width| SlidingWindow { width, global_every: None });
    let architecture = architecture(dim as u32, window);
    let how = layer(&architecture, heads, extras);
    let mut rotary = Rotary::new(&architecture, Device::Cpu).unwrap();
    rotary.reserve(512).unwrap();
    let (mut ours, mut theirs) = (cache(heads, as_computed(kind)), cache(heads, as_computed(kind)));
    // Rounding to bf16 between the steps, which our kernel leaves out, is the larger part with extras.
    let bound = if kind == Kind::Float { 2e-5 } else { 0.08 };
    for (start, rows) in [(0, 70), (70, 65), (135, 1), (136, 20)] {
        let what = format!("{heads:?} {kind:?} {extras} {width:?} {rows} rows from {start}");
        let qkv = Tensor::randn([rows, (queries + 2 * keys) * dim], (kind, Device::Cpu));
        let run = Run { row: 0, rows, start };
        let (mut a, b) = (qkv.copy(), qkv.copy());
        append(&mut a, run, &mut ours, &rotary, heads, &how).unwrap();
        // Rotated among others, as a step of several sessions does.
        let others = [Run { row: 0, rows: 2, start: 5 }, Run { row: 2, ..run }];
        let many = Tensor::cat(&[b.narrow(0, 0, 1), b.narrow(0, 0, 1), b.shallow_clone()], 0);
        turn(&many, &Angles::of(&rotary, how.rotary, &others).unwrap(), heads, &how).unwrap();
        store(&many, others[1], &mut theirs, heads).unwrap();
        let alone = Angles::of(&rotary, how.rotary, &[run]).unwrap();
        turn(&b, &alone, heads, &how).unwrap();
        assert_eq!(many.narrow(0, 2, run.rows), b, "a row's angles are its own");
        let rotated = |t: &Tensor| t.narrow(1, 0, queries * dim);
        assert!(difference(&rotated(&a), &rotated(&b)) < bound, "{what}: rotated queries");
        assert!(difference(&ours.keys, &theirs.keys) < bound, "{what}: keys");
        assert!(difference(&ours.values, &theirs.values) < bound, "{what}: values");
        theirs.keys.copy_(&ours.keys);
        theirs.values.copy_(&ours.values);
        let by_rows = attend(&a, &[(run, &ours)], heads, &how, true, &mut [Masks::default()]).unwrap();
        let queries = rotated(&a);
        let whole = chunk(&queries, &theirs, heads, &how, start, &mut Masks::default()).unwrap();
        assert!(difference(&by_rows, &whole) < bound, "{what}");
        let last = queries.narrow(0, rows - 1, 1);
        let last = folded(&last, &theirs, heads, &how, start + rows - 1).unwrap();
        assert!(difference(&by_rows.narrow(0, rows - 1, 1), &last) < bound, "{what}: folded");
    }
}

#[test]
fn a_position_outside_the_window_changes_nothing_and_one_inside_does() {
    crate::kernels::seeded();
    let heads = Heads { queries: 4, keys: 2, dim: 16 };
    let architecture = architecture(16, Some(SlidingWindow { width: 32, global_every: None }));
    let how = layer(&architecture, heads, false);
    let mut rotary = Rotary::new(&architecture, Device::Cpu).unwrap();
    rotary.reserve(512).unwrap();
    let qkv = Tensor::randn([96, 8 * 16], (Kind::Float, Device::Cpu));
    let run = Run { row: 0, rows: 96, start: 0 };
    let attended = |qkv: &Tensor, row_by_row| {
        let (mut qkv, mut cache) = (qkv.copy(), cache(heads, KvFormat::F32));
        append(&mut qkv, run, &mut cache, &rotary, heads, &how).unwrap();
        attend(&qkv, &[(run, &cache)], heads, &how, row_by_row, &mut [Masks::default()]).unwrap()
    };
    for row_by_row in [true, false] {
        let before = attended(&qkv, row_by_row);
        for changed in [0, 40] {
            let other = qkv.copy();
            let _ = other.narrow(0, changed, 1).fill_(0.5);
            let after = attended(&other, row_by_row);
            for row in 0..96 {
                let same = before.narrow(0, row, 1) == after.narrow(0, row, 1);
                let sees = (changed..changed + 32).contains(&row);
                assert_eq!(same, !sees, "row {row} after a change of {changed}, {row_by_row}");
            }
        }
    }
}

#[test]
fn keys_and_values_in_8_bits_stay_near() {
    crate::kernels::seeded();
    for (queries, keys, dim) in [(9, 3, 64), (8, 2, 128), (4, 1, 256), (6, 2, 80), (5, 1, 48), (4, 4, 10)] {
        for extras in [false, true] {
            for width in [None, Some(32), Some(100)] {
                compare_kv8(Heads { queries, keys, dim }, extras, width);
            }
        }
    }
}

/// How far `heads` are off `truth [key heads, positions, dim]`, as a part of a head's largest element. In 8 bits that is
/// half of its 127th part, beside roundings to bf16 of a 256th part each.
fn off(heads: &Tensor, truth: &Tensor) -> f64 {
    let (heads, truth) = (heads.to_kind(Kind::Float), truth.to_kind(Kind::Float));
    let largest = truth.abs().amax(-1, true);
    ((heads - truth).abs() / largest).max().double_value(&[])
}

fn compare_kv8(heads: Heads, extras: bool, width: Option<u32>) {
    let Heads { queries, keys, dim } = heads;
    let window = width.map(|width| SlidingWindow { width, global_every: None });
    let architecture = architecture(dim as u32, window);
    let how = layer(&architecture, heads, extras);
    let mut rotary = Rotary::new(&architecture, Device::Cpu).unwrap();
    rotary.reserve(512).unwrap();
    let mut ours = cache(heads, KvFormat::Int8);
    let (mut theirs, mut truth) = (cache(heads, KvFormat::Int8), cache(heads, KvFormat::Bf16));
    let mut worst = 0f64;
    for (start, rows) in [(0, 70), (70, 65), (135, 1), (136, 20)] {
        let what = format!("{heads:?} {extras} {width:?} {rows} rows from {start}");
        let qkv = Tensor::randn([rows, (queries + 2 * keys) * dim], (Kind::BFloat16, Device::Cpu));
        let run = Run { row: 0, rows, start };
        let (mut a, mut b, c) = (qkv.copy(), qkv.copy(), qkv.copy());
        append(&mut a, run, &mut ours, &rotary, heads, &how).unwrap();
        append(&mut b, run, &mut truth, &rotary, heads, &how).unwrap();
        turn(&c, &Angles::of(&rotary, how.rotary, &[run]).unwrap(), heads, &how).unwrap();
        store(&c, run, &mut theirs, heads).unwrap();
        let (true_keys, true_values) = truth.seen(start, start + rows).unwrap();
        let (our_keys, our_values) = ours.seen(start, start + rows).unwrap();
        let bound = |roundings: f64| 0.5 / 127.0 + roundings / 256.0;
        let ours_off = off(&our_keys, &true_keys).max(off(&our_values, &true_values));
        assert!(ours_off < bound(2.0), "{what}: {ours_off}");
        let (library_keys, library_values) = by_library_only(|| theirs.seen(start, start + rows)).unwrap();
        // With extras the library rounds to bf16 between its steps.
        let theirs_off = off(&library_keys, &true_keys).max(off(&library_values, &true_values));
        assert!(theirs_off < bound(8.0), "{what}: the library's, {theirs_off}");
        let attended = |row_by_row, cache: &LayerCache| {
            attend(&a, &[(run, cache)], heads, &how, row_by_row, &mut [Masks::default()]).unwrap()
        };
        let (by_rows, by_chunk, wide) =
            (attended(true, &ours), attended(false, &ours), attended(true, &truth));
        let rms = |t: &Tensor| t.to_kind(Kind::Float).square().mean(None).sqrt().double_value(&[]);
        let between = rms(&(by_rows.to_kind(Kind::Float) - by_chunk.to_kind(Kind::Float))) / rms(&by_chunk);
        // A chunk widens keys and values to bf16 first, which single elements show by more than any bound that a
        // wrong row or head would break: over 40 seeds this is 0.005 at most, and one wrong head of a row makes 0.04.
        assert!(between < 0.012, "{what}: rows against a chunk: {between}");
        let error = rms(&(by_rows.to_kind(Kind::Float) - wide.to_kind(Kind::Float))) / rms(&wide);
        // Norms with random factors make large scores, which the keys' rounding moves most.
        worst = worst.max(error);
        assert!(error < if extras { 0.1 } else { 0.03 }, "{what}: 8 bits against bf16: {error}");
    }
    println!("{heads:?} extras {extras} window {width:?}: relative error of 8 bits {worst:.4}");
}

#[test]
fn a_value_that_is_no_number_is_not_hidden_by_8_bits() {
    crate::kernels::seeded();
    let heads = Heads { queries: 2, keys: 1, dim: 64 };
    let architecture = architecture(64, None);
    let how = layer(&architecture, heads, false);
    let mut rotary = Rotary::new(&architecture, Device::Cpu).unwrap();
    rotary.reserve(512).unwrap();
    for (at, value) in [(130, f64::NAN), (200, f64::INFINITY)] {
        let mut cache = cache(heads, KvFormat::Int8);
        let mut qkv = Tensor::randn([2, 4 * 64], (Kind::BFloat16, Device::Cpu));
        let _ = qkv.narrow(0, 0, 1).narrow(1, at, 1).fill_(value);
        let run = Run { row: 0, rows: 2, start: 0 };
        append(&mut qkv, run, &mut cache, &rotary, heads, &how).unwrap();
        let out = attend(&qkv, &[(run, &cache)], heads, &how, true, &mut [Masks::default()]).unwrap();
        assert!(out.narrow(0, 0, 1).isnan().any().int64_value(&[]) == 1, "{value} in column {at}");
    }
}
