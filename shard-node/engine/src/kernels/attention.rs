//! Causal attention of runs of new positions against their sessions' caches.
//!
//! Keys and values are appended first. On the CPU a short run, and every run of the exact class,
//! goes row by row through the shim's kernel, so that prefill and decode give the same bits; a long
//! run of the other classes is one product of the library, causal from position 0 and with an
//! explicit mask later (the library's own mask is top-left aligned). Other devices take the library
//! for everything: one row folds its query heads onto the key heads and needs no mask.

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, AppendAt, AttendJob, TorchError};
use crate::kernels::rotary::Rotary;

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: i64,
    pub(crate) keys: i64,
    pub(crate) dim: i64,
}

/// Keys and values of one layer of one session, each `[key heads, capacity, dim]`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

/// Consecutive rows of one session in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First row in the step.
    pub(crate) row: i64,
    pub(crate) rows: i64,
    /// Position of the first row.
    pub(crate) start: i64,
}

/// Attention of `qkv [rows, width]`, whose runs have been [appended](append); gives
/// `[rows, queries * dim]`. `row_by_row` is the exact class. `masks` has a place for each run, kept
/// between the layers of a step.
pub(crate) fn attend(
    qkv: &Tensor,
    runs: &[(Run, &LayerCache)],
    heads: Heads,
    row_by_row: bool,
    masks: &mut [Option<Tensor>],
) -> Result<Tensor, TorchError> {
    let mut out = Tensor::f_empty([qkv.size2()?.0, heads.queries * heads.dim], (qkv.kind(), qkv.device()))?;
    let mut jobs = Vec::new();
    for (&(run, cache), mask) in runs.iter().zip(masks) {
        if qkv.device() == Device::Cpu && (row_by_row || run.rows <= SHORT_RUN) {
            jobs.extend((0..run.rows).map(|row| AttendJob {
                row: run.row + row,
                keys: &cache.keys,
                values: &cache.values,
                seen: run.start + row + 1,
            }));
            continue;
        }
        let queries = qkv.f_narrow(0, run.row, run.rows)?.f_narrow(1, 0, heads.queries * heads.dim)?;
        if run.rows == 1 || row_by_row {
            for row in 0..run.rows {
                let seen = folded(&queries.f_narrow(0, row, 1)?, cache, heads, run.start + row + 1)?;
                out.f_narrow(0, run.row + row, 1)?.f_copy_(&seen)?;
            }
        } else {
            out.f_narrow(0, run.row, run.rows)?.f_copy_(&chunk(&queries, cache, heads, run.start, mask)?)?;
        }
    }
    if !jobs.is_empty() {
        ffi::attend(qkv, &mut out, &jobs, (heads.queries, heads.keys, heads.dim))?;
    }
    Ok(out)
}

/// Up to here the row kernel beats one product of the library.
const SHORT_RUN: i64 = 8;

/// One row against the first `seen` positions.
fn folded(query: &Tensor, cache: &LayerCache, heads: Heads, seen: i64) -> Result<Tensor, TorchError> {
    let query = query.f_view([1, heads.keys, heads.queries / heads.keys, heads.dim])?;
    let keys = cache.keys.f_narrow(1, 0, seen)?.f_unsqueeze(0)?;
    let values = cache.values.f_narrow(1, 0, seen)?.f_unsqueeze(0)?;
    let none = None::<&Tensor>;
    let out = Tensor::f_scaled_dot_product_attention(&query, &keys, &values, none, 0.0, false, None, false)?;
    Ok(out.f_reshape([1, heads.queries * heads.dim])?)
}

/// Several rows at once.
fn chunk(
    queries: &Tensor,
    cache: &LayerCache,
    heads: Heads,
    start: i64,
    mask: &mut Option<Tensor>,
) -> Result<Tensor, TorchError> {
    let rows = queries.size2()?.0;
    let queries = queries.f_view([rows, heads.queries, heads.dim])?.f_transpose(0, 1)?.f_unsqueeze(0)?;
    let keys = cache.keys.f_narrow(1, 0, start + rows)?.f_unsqueeze(0)?;
    let values = cache.values.f_narrow(1, 0, start + rows)?.f_unsqueeze(0)?;
    if start > 0 && mask.is_none() {
        let open =
            Tensor::f_full([rows, start + rows], f64::NEG_INFINITY, (queries.kind(), queries.device()))?;
        *mask = Some(open.f_triu(start + 1)?);
    }
    let mask = mask.as_ref();
    let out = Tensor::f_scaled_dot_product_attention(
        &queries,
        &keys,
        &values,
        mask,
        0.0,
        mask.is_none(),
        None,
        heads.keys != heads.queries,
    )?;
    Ok(out.f_squeeze_dim(0)?.f_transpose(0, 1)?.f_reshape([rows, heads.queries * heads.dim])?)
}

/// Rotates the queries of a run in place, and puts its rotated keys and its values into the cache.
pub(crate) fn append(
    qkv: &mut Tensor,
    run: Run,
    cache: &mut LayerCache,
    rotary: &Rotary,
    heads: Heads,
) -> Result<(), TorchError> {
    if qkv.device() != Device::Cpu {
        return append_any(&qkv.f_narrow(0, run.row, run.rows)?, cache, rotary, heads, run.start);
    }
    let Run { row, rows, start } = run;
    let at = AppendAt { heads: heads.queries, kv_heads: heads.keys, dim: heads.dim, row, rows, start };
    ffi::rope_append(qkv, rotary.tables(), &mut cache.keys, &mut cache.values, at)
}

fn append_any(
    qkv: &Tensor,
    cache: &LayerCache,
    rotary: &Rotary,
    heads: Heads,
    start: i64,
) -> Result<(), TorchError> {
    let rows = qkv.size2()?.0;
    let half = heads.dim / 2;
    let (cos, sin) = rotary.tables();
    let angle = |table: &Tensor| table.f_narrow(0, start, rows)?.f_unsqueeze(1);
    let (cos, sin) = (angle(cos)?, angle(sin)?);
    let all = qkv.f_view([rows, heads.queries + 2 * heads.keys, heads.dim])?;
    let turning = all.f_narrow(1, 0, heads.queries + heads.keys)?;
    let (mut low, mut high) = (turning.f_narrow(2, 0, half)?, turning.f_narrow(2, half, half)?);
    let (a, b) = (low.f_to_kind(Kind::Float)?, high.f_to_kind(Kind::Float)?);
    // Both before either is written: in f32, `a` and `b` are views of where the results go.
    let turned = (a.f_mul(&cos)?.f_sub(&b.f_mul(&sin)?)?, b.f_mul(&cos)?.f_add(&a.f_mul(&sin)?)?);
    low.f_copy_(&turned.0)?;
    high.f_copy_(&turned.1)?;
    let place = |cache: &Tensor| cache.f_narrow(1, start, rows)?.f_transpose(0, 1);
    place(&cache.keys)?.f_copy_(&all.f_narrow(1, heads.queries, heads.keys)?)?;
    place(&cache.values)?.f_copy_(&all.f_narrow(1, heads.queries + heads.keys, heads.keys)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::manifest::Architecture;

    fn rotary(dim: u32) -> Rotary {
        let architecture = Architecture {
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
            window: None,
            local_rope_theta: None,
            query_scalar: None,
            experts: None,
        };
        let mut rotary = Rotary::new(&architecture, Device::Cpu).unwrap();
        rotary.reserve(512).unwrap();
        rotary
    }

    fn cache(heads: Heads, kind: Kind) -> LayerCache {
        let zeros = || Tensor::zeros([heads.keys, 320, heads.dim], (kind, Device::Cpu));
        LayerCache { keys: zeros(), values: zeros() }
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Float) - b.to_kind(Kind::Float)).abs().max().double_value(&[])
    }

    #[test]
    fn our_kernels_agree_with_the_library() {
        let shapes = [(9, 3, 64), (8, 2, 128), (5, 1, 48), (4, 4, 10), (14, 2, 64)];
        for (queries, keys, dim) in shapes {
            for kind in [Kind::Float, Kind::BFloat16] {
                let heads = Heads { queries, keys, dim };
                let rotary = rotary(dim as u32);
                let (mut ours, mut theirs) = (cache(heads, kind), cache(heads, kind));
                let bound = if kind == Kind::Float { 1e-5 } else { 0.04 };
                let mut mask = None;
                for (start, rows) in [(0, 70), (70, 65), (135, 1), (136, 20)] {
                    let qkv = Tensor::randn([rows, (queries + 2 * keys) * dim], (kind, Device::Cpu));
                    let run = Run { row: 0, rows, start };
                    let (mut a, b) = (qkv.copy(), qkv.copy());
                    append(&mut a, run, &mut ours, &rotary, heads).unwrap();
                    append_any(&b, &theirs, &rotary, heads, start).unwrap();
                    let rotated = |t: &Tensor| t.narrow(1, 0, queries * dim);
                    assert!(
                        difference(&rotated(&a), &rotated(&b)) < bound,
                        "{heads:?} {kind:?} rotated queries"
                    );
                    assert!(difference(&ours.keys, &theirs.keys) < bound, "{heads:?} {kind:?} keys");
                    assert_eq!(ours.values, theirs.values);
                    theirs.keys.copy_(&ours.keys);
                    let by_rows = attend(&a, &[(run, &ours)], heads, true, &mut [None]).unwrap();
                    mask = None;
                    let queries = rotated(&a);
                    let whole = chunk(&queries, &theirs, heads, start, &mut mask).unwrap();
                    assert!(
                        difference(&by_rows, &whole) < bound,
                        "{heads:?} {kind:?} {rows} rows from {start}"
                    );
                    let last = folded(&queries.narrow(0, rows - 1, 1), &theirs, heads, start + rows).unwrap();
                    assert!(
                        difference(&by_rows.narrow(0, rows - 1, 1), &last) < bound,
                        "{heads:?} {kind:?} folded"
                    );
                }
                drop(mask);
            }
        }
    }
}
