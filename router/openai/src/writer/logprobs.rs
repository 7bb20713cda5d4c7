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
    match std::str::from_utf8(bytes) {
        Ok(text) => write_escaped(text, out),
        Err(_) => {
            out.extend_from_slice(b"bytes:");
            for byte in bytes {
                write_escaped(&format!("\\x{byte:02x}"), out);
            }
        }
    }
    out.push(b'"');
}
