//! Explicit binary layouts: fixed-width little-endian numbers, counts checked against limits before allocation.
//!
//! What is signed or kept as evidence has one encoding only, so a reader refuses whatever a writer would not have
//! written. Knows nothing of what the bytes mean.

use crate::Digest;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// They end too early.
    #[error("cut short in {0}")]
    CutShort(&'static str),
    /// They go on after the end.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// More entries than allowed.
    #[error("{count} {what}, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many at most.
        limit: usize,
    },
    /// A field holds what no writer writes.
    #[error("invalid {0}")]
    Field(&'static str),
}

/// Appends values.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, value: f32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn digest(&mut self, value: &Digest) {
        self.bytes(value.as_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes values from the front.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LayoutError> {
        let (value, rest) = self.0.split_first_chunk().ok_or(LayoutError::CutShort(what))?;
        self.0 = rest;
        Ok(*value)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, LayoutError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, LayoutError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, LayoutError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, LayoutError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self, what: &'static str) -> Result<u128, LayoutError> {
        self.array(what).map(u128::from_le_bytes)
    }

    /// A number, not NaN (which has many encodings).
    pub(crate) fn f32(&mut self, what: &'static str) -> Result<f32, LayoutError> {
        let value = self.array(what).map(f32::from_le_bytes)?;
        if value.is_nan() { Err(LayoutError::Field(what)) } else { Ok(value) }
    }

    pub(crate) fn digest(&mut self, what: &'static str) -> Result<Digest, LayoutError> {
        self.array(what).map(Digest::from_bytes)
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, LayoutError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(LayoutError::Field(what)),
        }
    }

    /// `count` entries of `entry_bytes` bytes at least. They must be within `limit` and there before anything is
    /// allocated for them.
    pub(crate) fn count(
        &self,
        count: usize,
        limit: usize,
        entry_bytes: usize,
        what: &'static str,
    ) -> Result<usize, LayoutError> {
        if count > limit {
            return Err(LayoutError::TooMany { what, count, limit });
        }
        if self.0.len() / entry_bytes.max(1) < count {
            return Err(LayoutError::CutShort(what));
        }
        Ok(count)
    }

    /// A `u32` count, then that many entries, each read by `entry`.
    pub(crate) fn list<T, E: From<LayoutError>>(
        &mut self,
        limit: usize,
        entry_bytes: usize,
        what: &'static str,
        mut entry: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let count = self.u32(what)? as usize;
        let count = self.count(count, limit, entry_bytes, what)?;
        (0..count).map(|_| entry(self)).collect()
    }

    /// Fails unless everything was read.
    pub(crate) fn finish(self) -> Result<(), LayoutError> {
        if self.0.is_empty() { Ok(()) } else { Err(LayoutError::LeftOver(self.0.len())) }
    }
}
