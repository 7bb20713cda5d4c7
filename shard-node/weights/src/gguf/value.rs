//! Metadata values of a GGUF file: the thirteen kinds of the format, widened to a few Rust types.

use super::cursor::Cursor;
use crate::header::HeaderError;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// `f32` (widened) or `f64`.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of one kind.
    Array(Array),
}

/// A metadata array.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Any unsigned integers.
    Unsigned(Vec<u64>),
    /// Any signed integers.
    Signed(Vec<i64>),
    /// `f32` (widened) or `f64`.
    Float(Vec<f64>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Strings.
    String(Vec<String>),
}

/// Longest string value: chat templates are the longest in practice, below 64 KiB.
const MAX_STRING_BYTES: u64 = 4 << 20;
/// Elements in all arrays of a file together: five arrays over a vocabulary of 800,000. Bounds the
/// memory of a hostile header at about 40 bytes an element, 160 MiB.
pub(super) const MAX_ARRAY_ELEMENTS: u64 = 4 << 20;

const KIND_STRING: u32 = 8;
const KIND_ARRAY: u32 = 9;

impl Value {
    /// Reads the value of `kind`; `budget` is the number of array elements the file may still have.
    pub(super) fn read(cursor: &mut Cursor<'_>, kind: u32, budget: &mut u64) -> Result<Self, HeaderError> {
        if kind == KIND_ARRAY {
            return Array::read(cursor, budget).map(Self::Array);
        }
        let what = "a metadata value";
        Ok(match kind {
            0 => Self::Unsigned(u64::from(u8::from_le_bytes(cursor.array(what)?))),
            1 => Self::Signed(i64::from(i8::from_le_bytes(cursor.array(what)?))),
            2 => Self::Unsigned(u64::from(u16::from_le_bytes(cursor.array(what)?))),
            3 => Self::Signed(i64::from(i16::from_le_bytes(cursor.array(what)?))),
            4 => Self::Unsigned(u64::from(cursor.u32(what)?)),
            5 => Self::Signed(i64::from(i32::from_le_bytes(cursor.array(what)?))),
            6 => Self::Float(f64::from(f32::from_le_bytes(cursor.array(what)?))),
            7 => match cursor.array::<1>(what)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [other] => return Err(HeaderError::malformed(format!("boolean of value {other}"))),
            },
            KIND_STRING => {
                Self::String(cursor.string(MAX_STRING_BYTES, "a metadata string's length")?.to_owned())
            }
            10 => Self::Unsigned(cursor.u64(what)?),
            11 => Self::Signed(i64::from_le_bytes(cursor.array(what)?)),
            12 => Self::Float(f64::from_le_bytes(cursor.array(what)?)),
            other => return Err(HeaderError::malformed(format!("metadata kind {other}"))),
        })
    }
}

impl Array {
    fn read(cursor: &mut Cursor<'_>, budget: &mut u64) -> Result<Self, HeaderError> {
        let kind = cursor.u32("an array's kind")?;
        let count = cursor.u64("an array's length")?;
        HeaderError::limit("the number of metadata array elements", count, *budget)?;
        *budget -= count;
        // The smallest element of a kind bounds what can really follow: no allocation for elements
        // that are not in the file.
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            KIND_STRING | 10..=12 => 8,
            KIND_ARRAY => {
                return Err(HeaderError::Unsupported { what: "a nested metadata array".to_owned() });
            }
            other => return Err(HeaderError::malformed(format!("array of metadata kind {other}"))),
        };
        if count.saturating_mul(least) > cursor.remaining() {
            return Err(HeaderError::Truncated {
                what: "a metadata array",
                have: cursor.position() + cursor.remaining(),
            });
        }
        let mut array = match kind {
            0 | 2 | 4 | 10 => Self::Unsigned(Vec::with_capacity(count as usize)),
            1 | 3 | 5 | 11 => Self::Signed(Vec::with_capacity(count as usize)),
            6 | 12 => Self::Float(Vec::with_capacity(count as usize)),
            7 => Self::Bool(Vec::with_capacity(count as usize)),
            _ => Self::String(Vec::with_capacity(count as usize)),
        };
        for _ in 0..count {
            match (&mut array, Value::read(cursor, kind, budget)?) {
                (Self::Unsigned(out), Value::Unsigned(value)) => out.push(value),
                (Self::Signed(out), Value::Signed(value)) => out.push(value),
                (Self::Float(out), Value::Float(value)) => out.push(value),
                (Self::Bool(out), Value::Bool(value)) => out.push(value),
                (Self::String(out), Value::String(value)) => out.push(value),
                (_, other) => return Err(HeaderError::malformed(format!("array element {other:?}"))),
            }
        }
        Ok(array)
    }
}
