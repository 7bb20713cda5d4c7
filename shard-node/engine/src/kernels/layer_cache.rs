//! Keys and values of one layer of one session, in the activations' type or in 8 bits with a scale for each head of a
//! position. It knows how they are laid out and converted; sessions, growth and lengths are the store's.
//!
//! On the CPU heads in 8 bits have the order of elements that the shim's kernels like (`head16` in `shim/values.h`); on
//! other devices their own.

use proto::tensor::KvFormat;
use tch::{Device, Kind, Tensor};

use crate::ffi::{self, KvTensors, TorchError};
use crate::kernels::attention::Heads;
use crate::kernels::by_shim;

/// Keys and values, each `[key heads, capacity, dim]`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
    /// Those of keys and values in 8 bits, each f32 `[key heads, capacity]`.
    scales: Option<(Tensor, Tensor)>,
}

impl LayerCache {
    /// Memory of one layer.
    pub(crate) fn new(
        heads: Heads,
        capacity: u32,
        format: KvFormat,
        device: Device,
    ) -> Result<Self, tch::TchError> {
        Self::of(&Block::new(1, heads, capacity, format, device)?, 0)
    }

    /// Memory of `layers` layers, with one allocation for each kind of it: an allocator that rounds, rounds once.
    pub(crate) fn block(
        layers: usize,
        heads: Heads,
        capacity: u32,
        format: KvFormat,
        device: Device,
    ) -> Result<Vec<Self>, tch::TchError> {
        let block = Block::new(layers, heads, capacity, format, device)?;
        (0..layers as i64).map(|layer| Self::of(&block, layer)).collect()
    }

    fn of(block: &Block, layer: i64) -> Result<Self, tch::TchError> {
        let (keys, values) = pair(&block.heads, layer)?;
        let scales = block.scales.as_ref().map(|scales| pair(scales, layer)).transpose()?;
        Ok(Self { keys, values, scales })
    }

    /// Copies the first `positions` of another of the same format.
    pub(crate) fn copy_from(&mut self, other: &Self, positions: u32) -> Result<(), tch::TchError> {
        let positions = i64::from(positions);
        for (to, from) in self.tensors().zip(other.tensors()) {
            to.f_narrow(1, 0, positions)?.f_copy_(&from.f_narrow(1, 0, positions)?)?;
        }
        Ok(())
    }

    /// What it is made of; positions are dimension 1 of each.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let scales = self.scales.iter().flat_map(|(keys, values)| [keys, values]);
        [&self.keys, &self.values].into_iter().chain(scales)
    }

    /// For the shim's kernels.
    pub(crate) fn raw(&self) -> KvTensors<'_> {
        let scales = self.scales.as_ref().map(|(keys, values)| (keys, values));
        KvTensors { keys: &self.keys, values: &self.values, scales }
    }

    /// Keys and values of positions `first..end` in the activations' type, `[key heads, end - first, dim]`.
    pub(crate) fn seen(&self, first: i64, end: i64) -> Result<(Tensor, Tensor), TorchError> {
        let seen = |heads: &Tensor, scales: Option<&Tensor>| -> Result<Tensor, TorchError> {
            match scales {
                None => Ok(heads.f_narrow(1, first, end - first)?),
                Some(scales) if by_shim(heads.device()) => ffi::widen_heads(heads, scales, (first, end)),
                Some(scales) => {
                    let [heads, scales] = [heads, scales].map(|of| of.f_narrow(1, first, end - first));
                    Ok(heads?.f_mul(&scales?.f_unsqueeze(2)?)?.f_to_kind(Kind::BFloat16)?)
                }
            }
        };
        let scales = self.scales.as_ref();
        let keys = seen(&self.keys, scales.map(|(keys, _)| keys))?;
        Ok((keys, seen(&self.values, scales.map(|(_, values)| values))?))
    }

    /// Puts `keys` and `values [rows, key heads, dim]` at positions from `start` on, by the library's operators.
    pub(crate) fn place(&mut self, start: i64, keys: &Tensor, values: &Tensor) -> Result<(), TorchError> {
        let (rows, ..) = keys.size3()?;
        let (key_scales, value_scales) = self.scales.as_ref().map(|(keys, values)| (keys, values)).unzip();
        for (cache, scales, rows_of) in [(&self.keys, key_scales, keys), (&self.values, value_scales, values)]
        {
            let place = |cache: &Tensor| -> Result<Tensor, tch::TchError> {
                cache.f_narrow(1, start, rows)?.f_transpose(0, 1)
            };
            let Some(scales) = scales else {
                place(cache)?.f_copy_(rows_of)?;
                continue;
            };
            let wide = rows_of.f_to_kind(Kind::Float)?;
            let scale = wide.f_abs()?.f_amax(-1, true)?.f_div_scalar(MOST)?;
            // A head of zeros divides by the smallest number instead of by its own 0.
            let parts = wide.f_div(&scale.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
            place(cache)?.f_copy_(&parts.f_round()?)?;
            place(scales)?.f_copy_(&scale.f_squeeze_dim(-1)?)?;
        }
        Ok(())
    }
}

/// Keys and values of several layers, `[2 layers, key heads, capacity, dim]`, and their scales.
struct Block {
    heads: Tensor,
    scales: Option<Tensor>,
}

impl Block {
    fn new(
        layers: usize,
        heads: Heads,
        capacity: u32,
        format: KvFormat,
        device: Device,
    ) -> Result<Self, tch::TchError> {
        let shape = [2 * layers as i64, heads.keys, i64::from(capacity), heads.dim];
        let (kind, scales) = match format {
            KvFormat::F32 => (Kind::Float, None),
            KvFormat::Bf16 => (Kind::BFloat16, None),
            KvFormat::Int8 => (Kind::Int8, Some(Tensor::f_empty(&shape[..3], (Kind::Float, device))?)),
        };
        Ok(Self { heads: Tensor::f_empty(shape, (kind, device))?, scales })
    }
}

/// Of keys and of values.
fn pair(block: &Tensor, layer: i64) -> Result<(Tensor, Tensor), tch::TchError> {
    Ok((block.f_select(0, 2 * layer)?, block.f_select(0, 2 * layer + 1)?))
}

/// The largest of 8 bits: -128 is not used, so that both signs reach equally far.
const MOST: f64 = 127.0;
