//! Causal attention of a run of new positions against a session's cache.
//!
//! Appends the run's keys and values first. Three ways to the same values:
//! one row folds its query heads onto the key heads and needs no mask; a run from position 0 is
//! plainly causal; a later run has an explicit mask (the library's own is top-left aligned).
//! The exact class takes the first way for every row, so that prefill and decode give the same bits.

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, AppendAt, TorchError};
use crate::kernels::rotary::Rotary;

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: i64,
    pub(crate) keys: i64,
    pub(crate) dim: i64,
}

impl Heads {
    /// Elements of a row of fused queries, keys and values.
    pub(crate) const fn width(self) -> i64 {
        (self.queries + 2 * self.keys) * self.dim
    }
}

/// Keys and values of one layer of one session, each `[key heads, capacity, dim]`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

/// Attention of `qkv [rows, width]` at positions `start..start + rows`; gives `[rows, queries * dim]`.
///
/// `row_by_row` is the exact class. `mask` is kept between the layers of a step.
pub(crate) fn attend(
    qkv: &mut Tensor,
    cache: &mut LayerCache,
    rotary: &Rotary,
    heads: Heads,
    start: i64,
    row_by_row: bool,
    mask: &mut Option<Tensor>,
) -> Result<Tensor, TorchError> {
    append(qkv, cache, rotary, heads, start)?;
    let rows = qkv.size2()?.0;
    let queries = qkv.f_narrow(1, 0, heads.queries * heads.dim)?;
    if rows == 1 {
        return folded(&queries, cache, heads, start + 1);
    }
    if row_by_row {
        let out = Tensor::f_empty([rows, heads.queries * heads.dim], (qkv.kind(), qkv.device()))?;
        for row in 0..rows {
            // A copy, so that every row is aligned alike: a product's bits may depend on that.
            let query = queries.f_narrow_copy(0, row, 1)?;
            let seen = folded(&query, cache, heads, start + row + 1)?;
            out.f_narrow(0, row, 1)?.f_copy_(&seen)?;
        }
        return Ok(out);
    }
    chunk(&queries, cache, heads, start, mask)
}

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

/// Rotates queries and keys and puts keys and values into the cache.
fn append(
    qkv: &mut Tensor,
    cache: &mut LayerCache,
    rotary: &Rotary,
    heads: Heads,
    start: i64,
) -> Result<(), TorchError> {
    if qkv.device() != Device::Cpu {
        return append_any(qkv, cache, rotary, heads, start);
    }
    let at = AppendAt { heads: heads.queries, kv_heads: heads.keys, dim: heads.dim, start };
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
    low.f_copy_(&a.f_mul(&cos)?.f_sub(&b.f_mul(&sin)?)?)?;
    high.f_copy_(&b.f_mul(&cos)?.f_add(&a.f_mul(&sin)?)?)?;
    let place = |cache: &Tensor| cache.f_narrow(1, start, rows)?.f_transpose(0, 1);
    place(&cache.keys)?.f_copy_(&all.f_narrow(1, heads.queries, heads.keys)?)?;
    place(&cache.values)?.f_copy_(&all.f_narrow(1, heads.queries + heads.keys, heads.keys)?)?;
    Ok(())
}
