//! The toy model as nodes serve it: a manifest and a tokenizer of words.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::ContentHash;
use proto::manifest::{Architecture, Manifest, TokenizerEntry};
use shard_node::node::ServedModel;
use shard_node_stage::ToyModel;

/// A toy model as nodes serve it.
pub fn served(model: ToyModel, eos: &[u32], tokenizer: Option<&str>) -> ServedModel {
    with_template(model, eos, tokenizer, None)
}

/// A toy model that talks: any text can be its prompt, it has a chat template, and its answers are pieces of characters
/// of all lengths in no order, so that many are characters and many are not.
pub fn talking(model: ToyModel) -> (ToyModel, ServedModel) {
    let (pieces, tokenizer) = piece_tokenizer();
    let model = ToyModel { vocab: pieces.len() as u32, ..model };
    (model, with_template(model, &[], Some(&tokenizer), Some(TEMPLATE)))
}

/// A toy model that, whatever it is asked in a chat, says this at temperature 0 and ends. Held to a grammar it writes what
/// that allows, byte by byte.
pub fn saying(model: ToyModel, says: &str) -> (ToyModel, ServedModel) {
    // Bytes, and as many tokens beside them, of which two become the text and the end.
    let model = ToyModel { vocab: 512, ..model };
    let spoken = |letter: &u8| {
        let tokens = model.answer(&[u32::from(*letter)], 2);
        (tokens.iter().all(|&token| token > 255) && tokens[0] != tokens[1]).then_some(tokens)
    };
    // The prompt is one letter, after which the model's first two tokens are no bytes.
    let letter = (b'a'..=b'z').find(|letter| spoken(letter).is_some()).unwrap_or_default();
    let tokens = spoken(&letter).unwrap_or_else(|| vec![256, 257]);
    let mut pieces: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    pieces.extend((256..model.vocab).map(|id| format!("<{id}>").into_bytes()));
    pieces[tokens[0] as usize] = says.as_bytes().to_vec();
    let (tokenizer, template) = (tokenizer_of(&pieces), char::from(letter).to_string());
    (model, with_template(model, &tokens[1..], Some(&tokenizer), Some(&template)))
}

const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant: {% endif %}";

fn with_template(
    model: ToyModel,
    eos: &[u32],
    tokenizer: Option<&str>,
    template: Option<&str>,
) -> ServedModel {
    let tokenizer = tokenizer.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let manifest = Manifest {
        format: 1,
        architecture: Architecture {
            family: "toy".into(),
            n_layers: model.n_layers,
            hidden: 8,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            ffn: 8,
            vocab: model.vocab,
            context: model.context,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tied_head: true,
            window: None,
            local_rope_theta: None,
            query_scalar: None,
            experts: None,
        },
        quantisation: "F32".into(),
        container: "safetensors".into(),
        bos: None,
        add_bos: false,
        eos: eos.to_vec(),
        tokenizer: tokenizer
            .as_ref()
            .map(|bytes| TokenizerEntry { blake3: ContentHash::of(bytes), bytes: bytes.len() as u64 }),
        chat_template: template.map(str::to_owned),
        licence: None,
        tensors: Vec::new(),
    };
    ServedModel { name: "toy".into(), manifest: manifest.to_bytes().into(), tokenizer }
}

/// A tokenizer whose token `i` is the word `w<i>`; words are joined by spaces.
pub fn word_tokenizer(vocab: u32) -> String {
    let words: BTreeMap<String, u32> = (0..vocab).map(|id| (format!("w{id}"), id)).collect();
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    })
    .to_string()
}

/// A byte-level tokenizer without merges: each byte is a token, and so are characters and parts of them. Gives the bytes
/// of each token, too.
pub fn piece_tokenizer() -> (Vec<Vec<u8>>, String) {
    let mut pieces: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let emoji = (0x1f300..0x1f3c0).chain(0x1f600..0x1f640);
    let others = (0x4e00..0x4e40).chain(0x300..0x320).chain(0xac00..0xac20).chain(0x5d0..0x5e0);
    for c in emoji.chain(others).filter_map(char::from_u32) {
        let bytes = c.to_string().into_bytes();
        pieces.push(bytes.clone());
        for cut in 1..bytes.len() {
            pieces.push(bytes[..cut].to_vec());
            pieces.push(bytes[cut..].to_vec());
        }
    }
    // Joiners and what they join, cut within and between characters.
    let family = "\u{1f468}\u{200d}\u{1f469}\u{fe0f}e\u{301}".as_bytes();
    pieces.extend((1..family.len()).flat_map(|cut| [family[..cut].to_vec(), family[cut..].to_vec()]));
    let mut known = std::collections::HashSet::new();
    pieces.retain(|piece| known.insert(piece.clone()));
    let tokenizer = tokenizer_of(&pieces);
    (pieces, tokenizer)
}

/// A byte-level tokenizer of these tokens, without merges.
fn tokenizer_of(pieces: &[Vec<u8>]) -> String {
    let vocab: BTreeMap<String, usize> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.iter().map(|&byte| byte_as_char(byte)).collect(), id))
        .collect();
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
    .to_string()
}

/// How byte-level tokenizers write a byte: as itself if that can be seen, otherwise as one of the 68 characters from
/// U+0100 on (`bytes_to_unicode` of GPT-2's `encoder.py`).
fn byte_as_char(byte: u8) -> char {
    let seen = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if seen(byte) {
        return char::from(byte);
    }
    let unseen_before = (0..byte).filter(|&other| !seen(other)).count() as u32;
    char::from_u32(0x100 + unseen_before).unwrap_or_default()
}
