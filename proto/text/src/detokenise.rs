//! Token by token from ids to text, without ever splitting a character.
//!
//! ```text
//!            +-- byte-level tokenizer: bytes of each token -> complete characters out, at most 3 bytes kept
//! push(id) --+
//!            +-- any other: decode the last emitted tokens with and without the new ones, the difference is new
//! ```
//! The first way is exact for any ids: the pieces together equal the text of all ids. The second costs a decode of a
//! few tokens per step whatever the length, and is exact unless byte tokens make no UTF-8.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::tokenizer::{Tokenizer, TokenizerError};

/// The text of one growing sequence of ids.
#[derive(Debug)]
pub struct DetokenStream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Shown whatever they are.
    shown: Vec<u32>,
    pending: Pending,
}

#[derive(Debug)]
enum Pending {
    /// The beginning of a character, at most 3 bytes.
    Bytes(Vec<u8>),
    /// Tokens whose text was emitted last (the context that decoders look back at), then those that wait; the
    /// bytes of those that wait and are byte tokens.
    Window { ids: Vec<u32>, emitted: usize, bytes: Vec<u8> },
}

impl DetokenStream {
    /// A stream that leaves special tokens out if `skip_special`.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let pending = if tokenizer.is_byte_level() {
            Pending::Bytes(Vec::new())
        } else {
            Pending::Window { ids: Vec::new(), emitted: 0, bytes: Vec::new() }
        };
        Self { tokenizer, skip_special, shown: Vec::new(), pending }
    }

    /// Special tokens with these contents are shown like others. Those that the tokenizer does not know are left out.
    pub fn show(&mut self, contents: &[&str]) {
        self.shown.extend(contents.iter().filter_map(|content| self.tokenizer.token_id(content)));
    }

    /// The text that `id` completes, if any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        if self.skip_special && self.tokenizer.is_special(id) && !self.shown.contains(&id) {
            return Ok(None);
        }
        let Some(content) = self.tokenizer.token_content(id).filter(|content| !content.is_empty()) else {
            return Ok(None);
        };
        let text = match &mut self.pending {
            Pending::Bytes(bytes) => {
                append_bytes(&content, bytes);
                take_characters(bytes)
            }
            Pending::Window { ids, emitted, bytes } => {
                ids.push(id);
                let text = difference(&self.tokenizer, ids, *emitted)?;
                let half = match byte_token(&content) {
                    Some(byte) => {
                        bytes.push(byte);
                        ends_inside_character(bytes)
                    }
                    None => text.ends_with(char::REPLACEMENT_CHARACTER) && ids.len() - *emitted < MAX_WAITING,
                };
                if half {
                    return Ok(None);
                }
                bytes.clear();
                ids.drain(..*emitted);
                *emitted = ids.len();
                text
            }
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// The sequence has ended: what is left, half characters as U+FFFD.
    pub fn finish(&mut self) -> Result<Option<String>, TokenizerError> {
        let text = match &mut self.pending {
            Pending::Bytes(bytes) => String::from_utf8_lossy(&std::mem::take(bytes)).into_owned(),
            Pending::Window { ids, emitted, bytes } => {
                let text = difference(&self.tokenizer, ids, *emitted)?;
                ids.clear();
                bytes.clear();
                *emitted = 0;
                text
            }
        };
        Ok((!text.is_empty()).then_some(text))
    }
}

/// What `ids[emitted..]` add to the text of `ids[..emitted]`.
fn difference(tokenizer: &Tokenizer, ids: &[u32], emitted: usize) -> Result<String, TokenizerError> {
    let before = tokenizer.decode(&ids[..emitted], false)?;
    let mut all = tokenizer.decode(ids, false)?;
    if all.starts_with(&before) {
        return Ok(all.split_off(before.len()));
    }
    // New byte tokens spoilt the run of bytes that the emitted ones began.
    tokenizer.decode(&ids[emitted..], false)
}

/// The byte of a byte token, `<0x0A>` for instance.
pub(crate) fn byte_token(content: &str) -> Option<u8> {
    let digits = content.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// Whether more bytes may turn the end into a character.
fn ends_inside_character(bytes: &[u8]) -> bool {
    let last = bytes.utf8_chunks().last();
    last.is_some_and(|chunk| std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none()))
}

/// Takes everything but the beginning of a character at the very end; U+FFFD stands for what can't become one, one
/// per maximal invalid part, as `String::from_utf8_lossy` does it.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let half = if ends_inside_character(bytes) {
        bytes.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len())
    } else {
        0
    };
    let rest = bytes.split_off(bytes.len() - half);
    String::from_utf8_lossy(&std::mem::replace(bytes, rest)).into_owned()
}

/// Appends the bytes of a token; one with a character outside the alphabet stands for its own text.
pub(crate) fn append_bytes(content: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in content.chars() {
        let Some(&byte) = BYTE_OF_CHAR.get(&c) else {
            bytes.truncate(start);
            bytes.extend_from_slice(content.as_bytes());
            return;
        };
        bytes.push(byte);
    }
}

/// The alphabet of byte-level BPE (GPT-2, `bytes_to_unicode`): printable Latin-1 stands for itself, the other 68
/// bytes are the characters from U+0100 on.
static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
            _ => {
                next += 1;
                (char::from_u32(next - 1).unwrap_or_default(), byte)
            }
        })
        .collect()
});

/// For decoders that are neither byte-level nor have byte tokens: a character takes at most 4 of their tokens; with
/// twice as many waiting, what they hold is no character.
const MAX_WAITING: usize = 8;

#[cfg(test)]
mod tests;
