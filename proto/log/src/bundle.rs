//! Bundles of entries, as C2SP `tlog-tiles` has them: each entry behind its length in bytes, u16, big-endian.

use crate::TILE_WIDTH;
use crate::entry::MAX_ENTRY_BYTES;

/// Why bytes are no bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// They end within an entry or its length.
    #[error("cut short in entry {0}")]
    CutShort(usize),
    /// An entry over [`MAX_ENTRY_BYTES`].
    #[error("entry {index} of {bytes} bytes, at most {MAX_ENTRY_BYTES} are allowed")]
    TooLong {
        /// Which one.
        index: usize,
        /// How long it is.
        bytes: usize,
    },
    /// More than 256 entries.
    #[error("more than {TILE_WIDTH} entries")]
    TooMany,
}

/// The entries of a bundle, in order; borrowed.
pub fn read_bundle(mut bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let index = entries.len();
        if index == TILE_WIDTH {
            return Err(BundleError::TooMany);
        }
        let (length, rest) = bytes.split_first_chunk().ok_or(BundleError::CutShort(index))?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_ENTRY_BYTES {
            return Err(BundleError::TooLong { index, bytes: length });
        }
        let (entry, rest) = rest.split_at_checked(length).ok_or(BundleError::CutShort(index))?;
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

/// Appends an entry, which must be at most [`MAX_ENTRY_BYTES`] long.
pub(crate) fn write_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    bundle.extend_from_slice(&(entry.len() as u16).to_be_bytes());
    bundle.extend_from_slice(entry);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_bundles_are_refused() {
        assert_eq!(read_bundle(&[]), Ok(vec![]));
        assert_eq!(read_bundle(&[0]), Err(BundleError::CutShort(0)));
        assert_eq!(read_bundle(&[0, 1, 7, 0, 2, 7]), Err(BundleError::CutShort(1)));
        assert_eq!(read_bundle(&[255, 255]), Err(BundleError::TooLong { index: 0, bytes: 65_535 }));
        assert_eq!(read_bundle(&vec![0; 2 * 257]), Err(BundleError::TooMany));
    }

    proptest! {
        #[test]
        fn bundles_are_read_as_written(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..257)) {
            let mut bytes = Vec::new();
            for entry in &entries {
                write_entry(&mut bytes, entry);
            }
            prop_assert_eq!(read_bundle(&bytes).unwrap(), entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
}
