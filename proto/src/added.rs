//! A field that a message gained after its first version: it may be absent, and then it has its default.
//!
//! It is the last of its message, and a message has one; what is added later goes to the end of what was added
//! before. Bytes of peers that do not know it stay valid, and a writer that has nothing to say in it writes them.

use std::ops::Deref;

use bincode::de::read::Reader;
use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

/// `T`, or nothing on the wire where it is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Added<T>(pub T);

impl<T> Deref for Added<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Encode + Default + PartialEq> Encode for Added<T> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        if self.0 == T::default() { Ok(()) } else { self.0.encode(encoder) }
    }
}

impl<C, T: Decode<C> + Default + PartialEq> Decode<C> for Added<T> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        if decoder.reader().peek_read(1).is_none() {
            return Ok(Self::default());
        }
        let value = T::decode(decoder)?;
        // One message, one sequence of bytes.
        if value == T::default() {
            return Err(DecodeError::Other("a default that should have been left out"));
        }
        Ok(Self(value))
    }
}

impl<'de, C, T: Decode<C> + Default + PartialEq> BorrowDecode<'de, C> for Added<T> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[derive(Clone, Copy, PartialEq, Debug, Encode, Decode)]
    struct Old {
        a: u16,
    }

    #[derive(Clone, Copy, PartialEq, Debug, Encode, Decode)]
    struct New {
        a: u16,
        b: Added<u32>,
    }

    #[test]
    fn a_default_is_left_out_and_read_as_such() {
        let old = codec::encode(&Old { a: 7 });
        assert_eq!(codec::decode::<New>(&old), Ok(New { a: 7, b: Added(0) }));
        assert_eq!(codec::encode(&New { a: 7, b: Added(0) }), old);
        let new = codec::encode(&New { a: 7, b: Added(9) });
        assert_eq!(codec::decode::<New>(&new), Ok(New { a: 7, b: Added(9) }));
        assert!(codec::decode::<Old>(&new).is_err());
    }

    #[test]
    fn a_written_default_and_a_piece_of_a_value_are_refused() {
        for body in [&[7, 0, 0, 0, 0, 0][..], &[7, 0, 9], &[7, 0, 9, 0, 0, 0, 0]] {
            assert!(codec::decode::<New>(body).is_err(), "{body:?}");
        }
    }
}
