//! Where a JSON value ends, in text that comes in pieces. Only brackets and quotes are looked at.

/// Looks for the end of one value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValueScan {
    /// Open brackets.
    depth: u32,
    /// Inside a string; whether the next byte is escaped.
    quoted: Option<bool>,
    /// A number or a word has begun.
    bare: bool,
}

impl ValueScan {
    /// How many bytes belong to the value, and whether it ends there. The value has no space in front.
    pub(super) fn scan(&mut self, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            if let Some(escaped) = &mut self.quoted {
                match (*escaped, byte) {
                    (true, _) => *escaped = false,
                    (false, b'\\') => *escaped = true,
                    (false, b'"') => {
                        self.quoted = None;
                        if self.depth == 0 {
                            return (at + 1, true);
                        }
                    }
                    (false, _) => {}
                }
                continue;
            }
            match byte {
                b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => return (at, true),
                b'"' if self.depth == 0 && self.bare => return (at, true),
                b'"' => self.quoted = Some(false),
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => self.bare |= self.depth == 0,
            }
        }
        (text.len(), false)
    }
}
