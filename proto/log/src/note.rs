//! Signed notes (C2SP `signed-note`): a text with signature lines below it. Knows nothing of what the text says.
//!
//! ```text
//! text, one or more lines
//!
//! — <key name> base64(key id 4 || signature)
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::key::{KeyError, KeyName, VerifierKey};

/// Longest note: 64 signatures of the usual length, or 16 of the longest that the specification thinks of, are below 96 KB.
pub const MAX_NOTE_BYTES: usize = 96 << 10;

/// Most signatures of a note: the specification asks for 16 at least.
pub const MAX_SIGNATURES: usize = 64;

/// A note that was read; nothing in it is to be believed before [`Note::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

/// One signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignatureLine {
    /// Name of the key.
    pub name: KeyName,
    /// Its id.
    pub id: [u8; 4],
    /// What is behind the id, at least one byte.
    pub signature: Vec<u8>,
}

/// Why bytes are no note, or none to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Over [`MAX_NOTE_BYTES`].
    #[error("note of {0} bytes, at most {MAX_NOTE_BYTES} are allowed")]
    TooLong(usize),
    /// No UTF-8, or control characters.
    #[error("the note is no plain text")]
    NotText,
    /// No text, blank line and signature lines.
    #[error("the note has no text with signatures below it")]
    Form,
    /// A signature line that is none.
    #[error("signature line {0} does not parse")]
    Line(usize),
    /// More than [`MAX_SIGNATURES`].
    #[error("more than {MAX_SIGNATURES} signatures")]
    TooMany,
    /// A name in it.
    #[error(transparent)]
    Name(#[from] KeyError),
    /// A line with name and id of a known key that is not that key's.
    #[error("signature line {0} is not by the key that it names")]
    Forged(usize),
    /// None of the known keys signed.
    #[error("none of the known keys signed")]
    Unsigned,
}

impl Note {
    /// Reads a note.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong(bytes.len()));
        }
        let note = str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::NotText);
        }
        // The last empty line parts text and signatures.
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Form)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form)?;
        let mut signatures = Vec::new();
        for (index, line) in lines.split('\n').enumerate() {
            if index == MAX_SIGNATURES {
                return Err(NoteError::TooMany);
            }
            signatures.push(SignatureLine::parse(line).ok_or(NoteError::Line(index))?);
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// A note by nobody yet; `None` unless the text is lines without control characters.
    pub(crate) fn unsigned(text: String) -> Option<Self> {
        let plain = text.ends_with('\n') && !text.bytes().any(|byte| byte < b' ' && byte != b'\n');
        plain.then_some(Self { text, signatures: Vec::new() })
    }

    /// The text with its last newline; to be believed once verified.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in order.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Whether `key` signed; the time in its signature, seconds since the Unix epoch, 0 if it has none. Lines of other
    /// keys are ignored; if several lines name the key, all must be its own, and the latest time counts.
    pub fn verify(&self, key: &VerifierKey) -> Result<u64, NoteError> {
        let (id, mut found) = (key.id(), None);
        for (index, line) in self.signatures.iter().enumerate() {
            if line.id == id && line.name == *key.name() {
                let time = key.check(&self.text, &line.signature).ok_or(NoteError::Forged(index))?;
                found = found.max(Some(time));
            }
        }
        found.ok_or(NoteError::Unsigned)
    }

    /// Adds a signature line. Fails if there are [`MAX_SIGNATURES`] already.
    pub fn push(&mut self, line: SignatureLine) -> Result<(), NoteError> {
        if self.signatures.len() == MAX_SIGNATURES {
            return Err(NoteError::TooMany);
        }
        self.signatures.push(line);
        Ok(())
    }

    /// The same with the first line that names `key`, and no other.
    #[must_use]
    pub(crate) fn only(&self, key: &VerifierKey) -> Self {
        let id = key.id();
        let line = self.signatures.iter().find(|line| line.id == id && line.name == *key.name());
        Self { text: self.text.clone(), signatures: line.cloned().into_iter().collect() }
    }

    /// The note as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let lines = self.signatures.iter().map(SignatureLine::to_line);
        [self.text.clone(), "\n".to_owned()].into_iter().chain(lines).collect::<String>().into_bytes()
    }
}

impl SignatureLine {
    /// Reads a line without its newline.
    pub fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = BASE64.decode(signature).ok()?;
        let (id, signature) = bytes.split_first_chunk()?;
        let name = name.parse().ok()?;
        (!signature.is_empty()).then(|| Self { name, id: *id, signature: signature.to_vec() })
    }

    /// The line with its newline.
    pub fn to_line(&self) -> String {
        let bytes = [&self.id[..], &self.signature].concat();
        format!("\u{2014} {} {}\n", self.name, BASE64.encode(bytes))
    }
}
