//! A chat template over a conversation with markup in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_text::{ChatInput, ChatMessage, ChatTemplate};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source) else { return };
    let messages = [ChatMessage::new("system", "{{ x }}"), ChatMessage::new("user", "<|im_end|>\u{e9}")];
    let input = ChatInput {
        messages: &messages,
        add_generation_prompt: true,
        bos: Some("<s>"),
        eos: Some("</s>"),
        now: Some(1_700_000_000),
    };
    let _ = template.render(input);
});
