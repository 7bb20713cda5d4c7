//! JSON as bytes, written straight into a buffer: what a stream repeats for every token must not build a tree.

/// Appends a JSON string with its quotes.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

/// Appends the inside of a JSON string. Texts escaped one by one and put together equal the whole text escaped.
pub(crate) fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

/// Appends a number.
pub(crate) fn write_u64(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a value that serde knows, such as a float or a tree.
pub(crate) fn write_value<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("numbers, texts and trees of them always have a JSON form");
}

/// Appends the natural logarithm of a probability: JSON has no infinity, and clients expect a number.
pub(crate) fn write_logprob(logprob: f32, out: &mut Vec<u8>) {
    write_value(&if logprob.is_finite() { logprob } else { LEAST_LOGPROB }, out);
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What vLLM writes for probability 0.
const LEAST_LOGPROB: f32 = -9999.0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_and_numbers_are_read_back(text: String, number: u64) {
            let mut out = Vec::new();
            write_text(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            write_u64(number, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn impossible_tokens_have_a_number() {
        let mut out = Vec::new();
        write_logprob(f32::NEG_INFINITY, &mut out);
        write_text("\u{0}\u{1f}\"\\\n\r\t/é", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "-9999.0\"\\u0000\\u001f\\\"\\\\\\n\\r\\t/é\"");
    }
}
