//! The only file that names bincode's configuration.
//!
//! `legacy()` = fixed-width little-endian integers; byte-identical to the default of `wincode`, which is the documented
//! way out should bincode (unmaintained, RUSTSEC-2025-0141) ever have to go. The limit bounds what a hostile
//! length may make us allocate.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use crate::message::DecodeError;

/// No control body may be larger: a prompt of 131,072 tokens takes 512 KiB.
pub(crate) const CONTROL_LIMIT: usize = 1 << 20;

type Codec = Configuration<LittleEndian, Fixint, Limit<CONTROL_LIMIT>>;

const fn codec() -> Codec {
    config::legacy().with_limit::<CONTROL_LIMIT>()
}

/// Encodes a control body.
///
/// # Panics
/// Never for the types of this crate: derived encoders into a `Vec` only fail in custom code, which there is none of.
pub(crate) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, config::legacy().with_no_limit())
        .expect("derived encoders into a growing buffer do not fail")
}

/// Decodes a control body and checks that nothing is left over.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) =
        bincode::decode_from_slice(bytes, codec()).map_err(|error| DecodeError::Body(error.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(DecodeError::Trailing { left: bytes.len() - used }) }
}
