//! A pure sampler over logits: one call turns a row of logits into one token, and nothing else decides.
//!
//! The order is fixed: penalties, bias, mask, temperature, top-k, top-p, min-p, then a seeded Gumbel argmax
//! over what is left. The result is a function of (logits, parameters, history, mask, seed, position) alone:
//! no clock, no generator state, no thread count. All arithmetic is written out in [`portable_math`], so that
//! two machines of different make choose the same token from the same logits; that is what lets an auditor
//! repeat a choice.
//!
//! It does not own the numbers it is given: which ids are end-of-sequence, how long a reply may be, and which
//! grammar made the mask are the caller's.

mod adjust;
mod counts;
mod gumbel;
mod likeliest;
mod mask;
mod parameters;
pub mod portable_math;
mod sampler;
mod scan;
mod truncate;

pub use counts::{TokenCount, TokenCounts};
pub use gumbel::GumbelNoise;
pub use likeliest::{likeliest, log_sum_exp};
pub use mask::{MaskError, TokenMask};
pub use parameters::ParameterError;
pub use sampler::{Choice, SampleError, Sampler, Scratch};
