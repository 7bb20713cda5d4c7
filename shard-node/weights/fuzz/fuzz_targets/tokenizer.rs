//! A `tokenizer.json`, and what it makes of a text and of ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_text::{EncodeMode, Tokenizer};

// `Tokenizer` turns a panic inside the tokenizers library into an error, which is no crash; libFuzzer's own hook would
// abort before it is caught. One that nobody catches still ends the run.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(data) else { return };
    for mode in [EncodeMode::Plain, EncodeMode::Markup, EncodeMode::Prompt] {
        let _ = tokenizer.encode("<s>ab 12 \u{e9}b\n", mode);
    }
    let _ = tokenizer.decode(&[0, 1, 2, 9, u32::MAX], false);
});
