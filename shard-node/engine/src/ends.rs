//! The matrices at the ends of a model: the embedding that the first stage looks tokens up in, and the
//! output matrix of the last. A tied one is held once.

use std::rc::Rc;

use proto::manifest::Architecture;
use tch::{Device, Kind, Tensor};

use crate::error::EngineError;
use crate::ffi::{self, PanelLevel, TorchError};
use crate::kernels::by_shim;
use crate::kernels::linear::{Linear, LinearKind};
use crate::kernels::pairs::Pairs;
use crate::kernels::panels::Panels;
use crate::numerics::Numerics;
use crate::span_weights::SpanWeights;

/// What a first stage looks tokens up in.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) table: Lookup,
    scale: Option<f64>,
}

/// The matrix of an embedding.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Rows of the activations' type.
    Table(Tensor),
    /// The packed matrix of a tied head of the same stage.
    Pairs(Rc<Pairs>),
    /// Quantised rows; a tied head shares them.
    Panels(Rc<Panels>),
}

impl Embedding {
    /// Reads it as the numerics class has it; `with_head` if the stage has the model's head too. A factor is rounded to the activations' type before it multiplies,
    /// as the reference does (HF `Gemma3TextScaledWordEmbedding`).
    pub(crate) fn load(
        weights: &SpanWeights<'_>,
        numerics: Numerics,
        architecture: &Architecture,
        scale: Option<f64>,
        with_head: bool,
    ) -> Result<Self, EngineError> {
        let [hidden, vocab] = [architecture.hidden, architecture.vocab].map(u64::from);
        let table = match numerics.linear {
            LinearKind::Panels(..) => {
                Lookup::Panels(Rc::new(weights.panels_at_the_ends(EMBEDDING, vocab, hidden)?))
            }
            _ if with_head && architecture.tied_head && numerics.takes_pairs(hidden) => {
                Lookup::Pairs(Rc::new(weights.pairs(&[(EMBEDDING, vocab)], hidden)?))
            }
            _ => Lookup::Table(weights.table(EMBEDDING, vocab, hidden)?),
        };
        let rounded = |scale: f64| match numerics.linear.activation_kind() {
            Kind::BFloat16 => half::bf16::from_f64(scale).to_f64(),
            _ => f64::from(scale as f32),
        };
        Ok(Self { table, scale: scale.map(rounded) })
    }

    /// A row for each token, of type `kind`, on `device`.
    pub(crate) fn rows(&self, tokens: &[i64], kind: Kind, device: Device) -> Result<Tensor, TorchError> {
        let mut rows = match &self.table {
            Lookup::Table(table) => {
                let ids = ffi::to_device(&Tensor::f_from_slice(tokens)?, device)?;
                table.f_index_select(0, &ids)?
            }
            Lookup::Pairs(pairs) => pairs.rows(tokens)?.f_to_kind(kind)?,
            Lookup::Panels(panels) => {
                let shape = [tokens.len() as i64, panels.width() as i64];
                let rows = ffi::filled(&shape, |values: &mut [f32]| {
                    let rows = values.chunks_exact_mut(panels.width());
                    rows.zip(tokens).try_for_each(|(row, &token)| panels.row(token as usize, row))
                })??;
                rows.f_to_kind(kind)?
            }
        };
        Ok(match self.scale {
            Some(scale) => rows.f_mul_scalar_(scale)?,
            None => rows,
        })
    }

    /// Bytes of the matrix.
    pub(crate) fn bytes(&self) -> usize {
        match &self.table {
            Lookup::Table(table) => table_bytes(table),
            Lookup::Pairs(pairs) => pairs.bytes(),
            Lookup::Panels(panels) => panels.bytes(),
        }
    }
}

/// The output matrix.
#[derive(Debug)]
pub(crate) enum Output {
    /// As any other matrix.
    Linear(Linear),
    /// bf16 rows for the shim's kernel; a tied head shares them with the embedding.
    Table(Tensor),
    /// Packed pairs that the embedding looks its rows up in.
    Pairs(Rc<Pairs>),
    /// Quantised rows for the shim; a tied head shares them with the embedding.
    Panels(Rc<Panels>, PanelLevel),
}

impl Output {
    /// Reads it as the numerics class has it, or takes a tied one from `embedding`.
    pub(crate) fn load(
        weights: &SpanWeights<'_>,
        numerics: Numerics,
        architecture: &Architecture,
        embedding: Option<&Embedding>,
        device: Device,
    ) -> Result<Self, EngineError> {
        let [hidden, vocab] = [architecture.hidden, architecture.vocab].map(u64::from);
        let name = if architecture.tied_head { EMBEDDING } else { "lm_head.weight" };
        let tied = embedding.filter(|_| architecture.tied_head).map(|embedding| &embedding.table);
        Ok(match (numerics.linear, tied) {
            (LinearKind::Panels(_, level), Some(Lookup::Panels(panels))) => {
                Self::Panels(Rc::clone(panels), level)
            }
            (LinearKind::Panels(_, level), _) => {
                Self::Panels(Rc::new(weights.panels_at_the_ends(name, vocab, hidden)?), level)
            }
            (LinearKind::Device(_), _) => {
                let panels = weights.panels_at_the_ends(name, vocab, hidden)?;
                Self::Linear(Linear::head_of_panels(&panels, device)?)
            }
            (_, Some(Lookup::Pairs(pairs))) => Self::Pairs(Rc::clone(pairs)),
            // Plain rows to multiply too, on a GPU in every class: a tied table is held once.
            (kind, Some(Lookup::Table(table))) if !by_shim(device) || kind == LinearKind::Exact => {
                Self::Linear(Linear::new(table.shallow_clone(), kind)?)
            }
            _ if !numerics.head_is_table(device) || numerics.takes_pairs(hidden) => {
                Self::Linear(weights.linear(&[(name, vocab)], hidden)?)
            }
            (_, Some(Lookup::Table(table))) => Self::Table(table.shallow_clone()),
            _ => Self::Table(weights.table(name, vocab, hidden)?),
        })
    }

    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        match self {
            Self::Linear(linear) => linear.forward_f32(x),
            Self::Table(table) => ffi::head(&x.f_to_kind(Kind::Float)?, table),
            Self::Pairs(pairs) => pairs.multiply(x, None, true),
            Self::Panels(panels, level) => panels.multiply_fine(x, *level),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.bytes(),
            Self::Table(table) => table_bytes(table),
            Self::Pairs(pairs) => pairs.bytes(),
            Self::Panels(panels, _) => panels.bytes(),
        }
    }

    /// Its matrix is the embedding's.
    pub(crate) fn shares(&self, embedding: &Embedding) -> bool {
        match (self, &embedding.table) {
            (
                Self::Table(a) | Self::Linear(Linear::Exact(a) | Linear::Plain(a) | Linear::Widened(a)),
                Lookup::Table(b),
            ) => a.data_ptr() == b.data_ptr(),
            (Self::Pairs(a), Lookup::Pairs(b)) => Rc::ptr_eq(a, b),
            (Self::Panels(a, _), Lookup::Panels(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

fn table_bytes(table: &Tensor) -> usize {
    table.numel() * table.kind().elt_size_in_bytes()
}

const EMBEDDING: &str = "model.embed_tokens.weight";
