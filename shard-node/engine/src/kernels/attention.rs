//! Causal attention of runs of new positions against their sessions' caches.
//!
//! Keys and values are appended first. On the CPU a short run, and every run of the exact class,
//! goes row by row through the shim's kernel, so that prefill and decode give the same bits; a long
//! run of the other classes is one product of the library, causal from position 0 and with an
//! explicit mask later (the library's own mask is top-left aligned). Other devices take the library
//! for everything: one row folds its query heads onto the key heads and needs no mask.
//!
//! Of a cache in 8 bits the shim's kernel reads the bytes; the library gets what it needs of it widened, once for a run.
//!
//! A layer with a window reads the positions inside it only; its cache keeps all of them.

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::{Kind, Tensor};

use crate::ffi::{self, AppendAt, AttendJob, HeadExtras, TorchError};
use crate::kernels::by_shim;
use crate::kernels::layer_cache::LayerCache;
use crate::kernels::rotary::{Rotary, RotaryBase};

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) queries: i64,
    pub(crate) keys: i64,
    pub(crate) dim: i64,
}

/// How one layer attends.
#[derive(Debug)]
pub(crate) struct LayerAttention {
    /// Added to queries, keys and values: f32 `[(queries + 2 keys) * dim]`.
    pub(crate) bias: Option<Tensor>,
    /// Each query head and key head is normed before it is rotated.
    pub(crate) norms: Option<HeadNorms>,
    /// Scores are multiplied by it.
    pub(crate) scale: f64,
    /// Positions a row sees, itself among them; `None` for all.
    pub(crate) window: Option<i64>,
    /// What it is rotated by.
    pub(crate) rotary: RotaryBase,
}

/// The norms of a layer's heads.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    /// Factors for query heads, f32 `[dim]`.
    pub(crate) queries: Tensor,
    /// Factors for key heads, f32 `[dim]`.
    pub(crate) keys: Tensor,
    pub(crate) eps: f64,
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

/// The masks of one run, kept between the layers of a step.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    /// For layers that see all positions.
    whole: Option<Tensor>,
    /// For layers with the model's window.
    windowed: Option<Tensor>,
}

impl LayerAttention {
    /// What an architecture says of a layer; bias and norms are the family's.
    pub(crate) fn of(architecture: &Architecture, layer: LayerIndex) -> Self {
        let window = architecture.window.filter(|window| window.covers(layer.get()));
        let scalar = architecture.query_scalar.unwrap_or_else(|| f64::from(architecture.head_dim));
        Self {
            bias: None,
            norms: None,
            scale: 1.0 / scalar.sqrt(),
            window: window.map(|window| i64::from(window.width)),
            rotary: if window.is_some() { RotaryBase::Local } else { RotaryBase::Whole },
        }
    }

    /// The first position that the row at `position` sees.
    fn first_seen(&self, position: i64) -> i64 {
        self.window.map_or(0, |width| (position + 1 - width).max(0))
    }

    /// Before rotating.
    fn extras(&self) -> HeadExtras<'_> {
        let norms = self.norms.as_ref();
        HeadExtras {
            bias: self.bias.as_ref(),
            norms: norms.map(|norms| (&norms.queries, &norms.keys, norms.eps as f32)),
        }
    }
}

/// Attention of `qkv [rows, width]`, whose runs have been [appended](append); gives
/// `[rows, queries * dim]`. `row_by_row` is the exact class. `masks` has a place for each run.
pub(crate) fn attend(
    qkv: &Tensor,
    runs: &[(Run, &LayerCache)],
    heads: Heads,
    how: &LayerAttention,
    row_by_row: bool,
    masks: &mut [Masks],
) -> Result<Tensor, TorchError> {
    let mut out = Tensor::f_empty([qkv.size2()?.0, heads.queries * heads.dim], (qkv.kind(), qkv.device()))?;
    let mut jobs = Vec::new();
    for (&(run, cache), masks) in runs.iter().zip(masks) {
        if by_shim(qkv.device()) && (row_by_row || run.rows <= SHORT_RUN) {
            jobs.extend((0..run.rows).map(|row| AttendJob {
                row: run.row + row,
                cache: cache.raw(),
                first: how.first_seen(run.start + row),
                end: run.start + row + 1,
            }));
            continue;
        }
        let queries = qkv.f_narrow(0, run.row, run.rows)?.f_narrow(1, 0, heads.queries * heads.dim)?;
        if run.rows == 1 || row_by_row {
            for row in 0..run.rows {
                let seen = folded(&queries.f_narrow(0, row, 1)?, cache, heads, how, run.start + row)?;
                out.f_narrow(0, run.row + row, 1)?.f_copy_(&seen)?;
            }
        } else {
            let seen = chunk(&queries, cache, heads, how, run.start, masks)?;
            out.f_narrow(0, run.row, run.rows)?.f_copy_(&seen)?;
        }
    }
    if !jobs.is_empty() {
        let sizes = (heads.queries, heads.keys, heads.dim);
        ffi::attend(qkv, &mut out, &jobs, sizes, how.scale as f32)?;
    }
    Ok(out)
}

/// Up to here the row kernel beats one product of the library.
const SHORT_RUN: i64 = 8;

/// The row at `position`.
fn folded(
    query: &Tensor,
    cache: &LayerCache,
    heads: Heads,
    how: &LayerAttention,
    position: i64,
) -> Result<Tensor, TorchError> {
    let query = query.f_view([1, heads.keys, heads.queries / heads.keys, heads.dim])?;
    let first = how.first_seen(position);
    let (keys, values) = cache.seen(first, position + 1)?;
    let (keys, values) = (keys.f_unsqueeze(0)?, values.f_unsqueeze(0)?);
    let (none, scale) = (None::<&Tensor>, Some(how.scale));
    let out = Tensor::f_scaled_dot_product_attention(&query, &keys, &values, none, 0.0, false, scale, false)?;
    Ok(out.f_reshape([1, heads.queries * heads.dim])?)
}

/// Several rows at once, the first at position `start`.
fn chunk(
    queries: &Tensor,
    cache: &LayerCache,
    heads: Heads,
    how: &LayerAttention,
    start: i64,
    masks: &mut Masks,
) -> Result<Tensor, TorchError> {
    let rows = queries.size2()?.0;
    let queries = queries.f_view([rows, heads.queries, heads.dim])?.f_transpose(0, 1)?.f_unsqueeze(0)?;
    // A window that every row is still inside of hides nothing.
    let window = how.window.filter(|&width| start + rows > width);
    let first = how.first_seen(start);
    let seen = start + rows - first;
    let (keys, values) = cache.seen(first, start + rows)?;
    let (keys, values) = (keys.f_unsqueeze(0)?, values.f_unsqueeze(0)?);
    let mask = if window.is_some() { &mut masks.windowed } else { &mut masks.whole };
    if (start > 0 || window.is_some()) && mask.is_none() {
        let closed = Tensor::f_full([rows, seen], f64::NEG_INFINITY, (queries.kind(), queries.device()))?;
        // Row r is key `start - first + r`: hidden are the keys after it and those a window before it.
        let own = start - first;
        let mut hidden = closed.f_triu(own + 1)?;
        if let Some(width) = window {
            hidden = hidden.f_add_(&closed.f_tril(own - width)?)?;
        }
        *mask = Some(hidden);
    }
    let mask = mask.as_ref();
    let out = Tensor::f_scaled_dot_product_attention(
        &queries,
        &keys,
        &values,
        mask,
        0.0,
        mask.is_none(),
        Some(how.scale),
        heads.keys != heads.queries,
    )?;
    Ok(out.f_squeeze_dim(0)?.f_transpose(0, 1)?.f_reshape([rows, heads.queries * heads.dim])?)
}

/// Adds the bias, norms the heads, rotates the queries of a run in place, and puts its rotated keys and
/// its values into the cache: the shim's kernel, on the CPU.
pub(crate) fn append(
    qkv: &mut Tensor,
    run: Run,
    cache: &mut LayerCache,
    rotary: &Rotary,
    heads: Heads,
    how: &LayerAttention,
) -> Result<(), TorchError> {
    let Run { row, rows, start } = run;
    let at = AppendAt { heads: heads.queries, kv_heads: heads.keys, dim: heads.dim, row, rows, start };
    let tables = rotary.tables(how.rotary);
    ffi::rope_append(qkv, how.extras(), tables, cache.raw(), at)
}

/// Cosines and sines of the rows of a step, f32 `[rows, 1, dim / 2]`.
#[derive(Debug)]
pub(crate) struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Angles {
    /// Those of the positions of `runs`, on the tables' device.
    pub(crate) fn of(rotary: &Rotary, base: RotaryBase, runs: &[Run]) -> Result<Self, TorchError> {
        let (cos, sin) = rotary.tables(base);
        let of = |table: &Tensor, positions: Option<&Tensor>| -> Result<Tensor, TorchError> {
            let rows = match (positions, runs) {
                (None, [run]) => table.f_narrow(0, run.start, run.rows)?,
                (Some(positions), _) => table.f_index_select(0, positions)?,
                (None, _) => return Err(TorchError("rows without positions".into())),
            };
            Ok(rows.f_unsqueeze(1)?)
        };
        let positions = if let [_] = runs {
            None
        } else {
            let positions: Vec<i64> = runs.iter().flat_map(|run| run.start..run.start + run.rows).collect();
            Some(ffi::to_device(&Tensor::f_from_slice(&positions)?, cos.device())?)
        };
        Ok(Self { cos: of(cos, positions.as_ref())?, sin: of(sin, positions.as_ref())? })
    }
}

/// The same by the library's operators: bias, norms and rotation for all rows of a step at once, since on a GPU the
/// number of operators is what a small step costs. [`store`] follows, run by run.
pub(crate) fn turn(
    qkv: &Tensor,
    angles: &Angles,
    heads: Heads,
    how: &LayerAttention,
) -> Result<(), TorchError> {
    let rows = qkv.size2()?.0;
    let half = heads.dim / 2;
    if let Some(bias) = &how.bias {
        let _ = qkv.shallow_clone().f_add_(bias)?;
    }
    let all = qkv.f_view([rows, heads.queries + 2 * heads.keys, heads.dim])?;
    if let Some(HeadNorms { queries, keys, eps }) = &how.norms {
        for (first, count, factors) in [(0, heads.queries, queries), (heads.queries, heads.keys, keys)] {
            let mut part = all.f_narrow(1, first, count)?;
            let normed = part.f_to_kind(Kind::Float)?.f_rms_norm([heads.dim], Some(factors), *eps)?;
            part.f_copy_(&normed)?;
        }
    }
    let turning = all.f_narrow(1, 0, heads.queries + heads.keys)?;
    let (mut low, mut high) = (turning.f_narrow(2, 0, half)?, turning.f_narrow(2, half, half)?);
    let (a, b) = (low.f_to_kind(Kind::Float)?, high.f_to_kind(Kind::Float)?);
    let Angles { cos, sin } = angles;
    // Both before either is written: in f32, `a` and `b` are views of where the results go.
    let turned = (a.f_mul(cos)?.f_sub(&b.f_mul(sin)?)?, b.f_mul(cos)?.f_add(&a.f_mul(sin)?)?);
    low.f_copy_(&turned.0)?;
    high.f_copy_(&turned.1)?;
    Ok(())
}

/// Puts a run's keys and values, which have been [turned](turn), into its cache.
pub(crate) fn store(qkv: &Tensor, run: Run, cache: &mut LayerCache, heads: Heads) -> Result<(), TorchError> {
    let Run { row, rows, start } = run;
    let all = qkv.f_narrow(0, row, rows)?.f_view([rows, heads.queries + 2 * heads.keys, heads.dim])?;
    let (keys, values) = (heads.queries, heads.queries + heads.keys);
    cache.place(start, &all.f_narrow(1, keys, heads.keys)?, &all.f_narrow(1, values, heads.keys)?)
}

#[cfg(test)]
mod tests;
