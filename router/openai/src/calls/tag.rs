//! Finds tags such as `<tool_call>` in text that comes in pieces. What may still become a tag is held back.

/// A search for one of several tags. Tags are ASCII, their first letter occurs in them only once, and none begins another:
/// so after a mismatch only the letter that did not match can begin the next one, and the search is linear.
#[derive(Debug, Default)]
pub(crate) struct TagScan {
    /// The beginning of a tag, shorter than the longest tag.
    held: String,
}

impl TagScan {
    /// Hands on the text that belongs to no tag. Ends after the first tag: how many bytes were used, and which tag.
    pub(crate) fn scan(
        &mut self,
        text: &str,
        tags: &[&str],
        plain: &mut dyn FnMut(&str),
    ) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if self.held.is_empty() {
                let begins = |byte: &u8| tags.iter().any(|tag| tag.as_bytes().first() == Some(byte));
                let Some(skip) = bytes[at..].iter().position(begins) else {
                    plain(&text[at..]);
                    return None;
                };
                if skip > 0 {
                    plain(&text[at..at + skip]);
                }
                at += skip + 1;
                self.held.push(char::from(bytes[at - 1]));
                continue;
            }
            let length = self.held.len();
            let goes_on =
                |tag: &&str| tag.as_bytes().get(length) == Some(&bytes[at]) && tag.starts_with(&self.held);
            let Some(index) = tags.iter().position(goes_on) else {
                self.give_up(plain);
                continue;
            };
            self.held.push(char::from(bytes[at]));
            at += 1;
            if tags[index].len() == self.held.len() {
                self.held.clear();
                return Some((at, index));
            }
        }
        None
    }

    /// What was held back is no tag.
    pub(crate) fn give_up(&mut self, plain: &mut dyn FnMut(&str)) {
        if !self.held.is_empty() {
            plain(&std::mem::take(&mut self.held));
        }
    }
}
