//! What both file formats say about a tensor before its bytes are read, and every way in which a
//! header can be wrong. Headers are hostile input: nothing here allocates more than a small multiple
//! of the header's own size.

use crate::stored::{ElementType, READABLE};

/// One tensor as a file's header describes it, already checked against the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHeader {
    /// The name in the file.
    pub name: String,
    /// How its numbers are stored.
    pub ty: ElementType,
    /// Dimensions, outermost first (rows, columns); GGUF's reversed order is already turned round.
    pub shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Stored bytes.
    pub len: u64,
}

/// Most tensors in one file: an 8,000-layer model would not reach it.
pub(crate) const MAX_TENSORS: u64 = 1 << 17;
/// Most dimensions of a tensor; GGML has four, safetensors files of models use at most five.
pub(crate) const MAX_DIMS: usize = 8;
/// Longest tensor name in bytes; GGML allows 64, the longest HF names have about 120.
pub(crate) const MAX_NAME_BYTES: usize = 512;

/// Why a model file's header was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// The file ends inside its header.
    #[error(
        "the file ends after {have} bytes, inside its header (reading {what}); it is truncated: fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes in the file.
        have: u64,
    },
    /// The first bytes are not those of the format.
    #[error("not a {format} file: {what}")]
    NotThisFormat {
        /// Expected format.
        format: &'static str,
        /// What was found.
        what: String,
    },
    /// A count or size is above its limit.
    #[error("{what} is {value}, more than the limit of {limit}; the file is damaged or hostile")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// The header's structure is broken.
    #[error("the header is malformed: {what}; the file is damaged: fetch it again")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// Something valid that this version does not read.
    #[error("{what} is not supported by this version; convert the model to {READABLE}")]
    Unsupported {
        /// The thing.
        what: String,
    },
    /// A tensor's size in bytes does not follow from its type and shape.
    #[error("tensor {tensor}: {what}; the file is damaged: fetch it again")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor lies (partly) outside the file.
    #[error(
        "tensor {tensor} ends at byte {end}, but the file has {have} bytes; it is truncated: fetch it again"
    )]
    TensorTruncated {
        /// The tensor's name.
        tensor: String,
        /// Where it should end.
        end: u64,
        /// Bytes in the file.
        have: u64,
    },
}

impl HeaderError {
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    pub(crate) fn tensor(tensor: &str, what: impl Into<String>) -> Self {
        Self::Tensor { tensor: clip(tensor), what: what.into() }
    }

    pub(crate) fn limit(what: &'static str, value: u64, limit: u64) -> Result<(), Self> {
        if value > limit { Err(Self::TooLarge { what, value, limit }) } else { Ok(()) }
    }
}

/// Refuses names that are empty, too long, or hold characters that would garble a log line.
pub(crate) fn check_name(name: &str) -> Result<(), HeaderError> {
    HeaderError::limit("a tensor name's length", name.len() as u64, MAX_NAME_BYTES as u64)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(HeaderError::malformed(format!("tensor name {:?}", clip(name))));
    }
    Ok(())
}

/// Refuses tensors that share bytes, given all of a file's tensors. Sorts them by offset.
pub(crate) fn check_overlaps(tensors: &mut [TensorHeader]) -> Result<(), HeaderError> {
    tensors.sort_by(|a, b| (a.offset, a.len, &a.name).cmp(&(b.offset, b.len, &b.name)));
    for pair in tensors.windows(2) {
        if pair[1].offset < pair[0].offset + pair[0].len {
            return Err(HeaderError::tensor(
                &pair[1].name,
                format!("shares bytes with tensor {}", clip(&pair[0].name)),
            ));
        }
    }
    Ok(())
}

/// At most 160 characters of a string that came from a file, for messages.
pub(crate) fn clip(text: &str) -> String {
    let mut out: String = text.chars().take(160).flat_map(char::escape_debug).collect();
    if text.chars().nth(160).is_some() {
        out.push('…');
    }
    out
}
