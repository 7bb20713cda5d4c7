//! Probabilities of tokens as OpenAI's clients read them.

use super::TokenLogprob;
use crate::json::{write_escaped, write_logprob, write_text, write_u64};

/// Appends a token to a list of those of a chat, with a comma if it is not the first.
pub(super) fn write_chat(token: &TokenLogprob<'_>, list: &mut Vec<u8>) {
    if !list.is_empty() {
        list.push(b',');
    }
    write_one(token.bytes, token.logprob, list);
    list.extend_from_slice(b",\"top_logprobs\":[");
    for (at, (bytes, logprob)) in token.top.iter().enumerate() {
        if at > 0 {
            list.push(b',');
        }
        write_one(bytes, *logprob, list);
        list.push(b'}');
    }
    list.extend_from_slice(b"]}");
}

/// Appends `"logprobs":..` with a chat's list, which is emptied; `null` if none were asked for.
pub(super) fn write_list(wanted: bool, list: &mut Vec<u8>, out: &mut Vec<u8>) {
    if !wanted || list.is_empty() {
        out.extend_from_slice(b"\"logprobs\":null");
        return;
    }
    out.extend_from_slice(b"\"logprobs\":{\"content\":[");
    out.append(list);
    out.extend_from_slice(b"],\"refusal\":null}");
}

/// An object without its closing brace. Bytes that are no text on their own show as U+FFFD in `token`; `bytes` has them
/// as they are.
fn write_one(bytes: &[u8], logprob: f32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"token\":");
    write_text(&String::from_utf8_lossy(bytes), out);
    out.extend_from_slice(b",\"logprob\":");
    write_logprob(logprob, out);
    out.extend_from_slice(b",\"bytes\":[");
    for (at, &byte) in bytes.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_u64(u64::from(byte), out);
    }
    out.push(b']');
}

/// Appends a token's text as text completions have it: a part of a character as `bytes:\xf0\x9f`, so that different
/// tokens stay different names.
pub(super) fn write_name(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if let Ok(text) = std::str::from_utf8(bytes) {
        write_escaped(text, out);
    } else {
        out.extend_from_slice(b"bytes:");
        for byte in bytes {
            write_escaped(&format!("\\x{byte:02x}"), out);
        }
    }
    out.push(b'"');
}

/// The four lists of a text completion's probabilities, as JSON without their brackets.
#[derive(Debug, Default)]
pub(super) struct CompletionLogprobs {
    offsets: Vec<u8>,
    logprobs: Vec<u8>,
    tokens: Vec<u8>,
    top: Vec<u8>,
    /// Characters of text so far.
    offset: u64,
}

impl CompletionLogprobs {
    /// Adds a token in front of the text that it brings.
    pub(super) fn add(&mut self, token: &TokenLogprob<'_>) {
        for list in [&mut self.offsets, &mut self.logprobs, &mut self.tokens, &mut self.top] {
            if !list.is_empty() {
                list.push(b',');
            }
        }
        write_u64(self.offset, &mut self.offsets);
        write_logprob(token.logprob, &mut self.logprobs);
        write_name(token.bytes, &mut self.tokens);
        self.top.push(b'{');
        for (at, (bytes, logprob)) in token.top.iter().enumerate() {
            if at > 0 {
                self.top.push(b',');
            }
            write_name(bytes, &mut self.top);
            self.top.push(b':');
            write_logprob(*logprob, &mut self.top);
        }
        self.top.push(b'}');
    }

    /// Text came.
    pub(super) fn advance(&mut self, text: &str) {
        self.offset += text.chars().count() as u64;
    }

    /// Appends what has come since the last time, `null` if nothing has.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        if self.tokens.is_empty() {
            return write_nothing(out);
        }
        let lists = [
            ("text_offset", &mut self.offsets),
            ("token_logprobs", &mut self.logprobs),
            ("tokens", &mut self.tokens),
            ("top_logprobs", &mut self.top),
        ];
        for (at, (name, list)) in lists.into_iter().enumerate() {
            out.push(if at == 0 { b'{' } else { b',' });
            write_text(name, out);
            out.extend_from_slice(b":[");
            out.append(list);
            out.push(b']');
        }
        out.push(b'}');
    }
}

pub(super) fn write_nothing(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}
