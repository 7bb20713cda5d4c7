//! Bounds-checked little-endian reading of a GGUF header, with limits on every length.

use crate::header::HeaderError;

/// A read position in a file's bytes.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], HeaderError> {
        let truncated = HeaderError::Truncated { what, have: self.bytes.len() as u64 };
        if len > self.remaining() {
            return Err(truncated);
        }
        let end = self.at + len as usize;
        let taken = self.bytes.get(self.at..end).ok_or(truncated)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], HeaderError> {
        let taken = self.take(N as u64, what)?;
        taken
            .first_chunk::<N>()
            .copied()
            .ok_or(HeaderError::Truncated { what, have: self.bytes.len() as u64 })
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, HeaderError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, HeaderError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A GGUF string: u64 length, then that many bytes of UTF-8.
    pub(super) fn string(&mut self, limit: u64, what: &'static str) -> Result<&'a str, HeaderError> {
        let len = self.u64(what)?;
        HeaderError::limit(what, len, limit)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| HeaderError::malformed(format!("{what} is not UTF-8")))
    }
}
