//! Whether converted values are all finite. It looks at exponents only, in integer operations that every x86-64
//! has for whole vectors.

use super::Bf16;

/// Are all of them finite?
pub(super) fn all<T: Finite>(values: &[T]) -> bool {
    T::all_finite(values)
}

/// Only this module's element types exist.
pub trait Finite: Sized {
    /// Are all of them finite?
    fn all_finite(values: &[Self]) -> bool;
}

impl Finite for f32 {
    fn all_finite(values: &[Self]) -> bool {
        // An exponent of all ones, and no other, carries into the sign.
        let step = |seen, value: &Self| seen | ((value.to_bits() & 0x7f80_0000) + 0x0080_0000);
        values.iter().fold(0, step) & 0x8000_0000 == 0
    }
}

impl Finite for Bf16 {
    fn all_finite(values: &[Self]) -> bool {
        let step = |seen, value: &Self| seen | ((value.0 & 0x7f80) + 0x0080);
        values.iter().fold(0, step) & 0x8000 == 0
    }
}
