//! Modes of encoding, and tokenizers that are refused.

use proptest::prelude::*;

use super::*;
use crate::gguf;

fn smollm_head() -> Tokenizer {
    gguf::tests::tokenizer(&gguf::tests::byte_level().vocabulary(Some("smollm")))
}

#[test]
fn markup_becomes_tokens_only_where_asked_for() {
    let tokenizer = smollm_head();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.encode("<|im_end|>", EncodeMode::Markup).unwrap(), [end]);
    let plain = tokenizer.encode("<|im_end|>", EncodeMode::Plain).unwrap();
    assert!(plain.len() > 3 && !plain.contains(&end));
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), "<|im_end|>");
    assert_eq!(tokenizer.decode(&[end], true).unwrap(), "");
    assert_eq!(tokenizer.decode(&[end], false).unwrap(), "<|im_end|>");
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(plain[0]));
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_id("<|none|>")), (1500, None));
    assert_eq!(tokenizer.token_content(end).as_deref(), Some("<|im_end|>"));
}

#[test]
fn a_text_longer_than_the_longest_tokens_is_known_to_be_too_long_where_no_text_is_lost() {
    let tokenizer = smollm_head();
    let longest = tokenizer.longest_text(1);
    assert!(longest < 4096 && tokenizer.longest_text(10) == 10 * longest);
    // Whatever is encoded into n tokens is no longer than that.
    for text in [" ".repeat(5000), "\u{1112}\u{1161}\u{11ab}".repeat(500), "hello ".repeat(300)] {
        let ids = tokenizer.encode(&text, EncodeMode::Markup).unwrap();
        assert!(text.len() <= tokenizer.longest_text(ids.len() as u32), "{}", ids.len());
    }
    // Where spaces are cut away there is no bound.
    let vocab = r#""vocab":{"a":0},"merges":[]"#;
    let json = |rest: &str| format!(r#"{{"added_tokens":[],{rest},"model":{{"type":"BPE",{vocab}}}}}"#);
    let byte_level = r#""pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":true},
        "decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":true}"#;
    let bounded =
        |rest: &str| Tokenizer::from_json(json(rest).as_bytes()).unwrap().longest_text(1) < usize::MAX;
    assert!(bounded(byte_level));
    assert!(!bounded(&format!(
        r#""normalizer":{{"type":"Strip","strip_left":true,"strip_right":true}},{byte_level}"#
    )));
    assert!(!bounded(r#""pre_tokenizer":{"type":"WhitespaceSplit"},"decoder":null"#));
}

#[test]
fn unknown_ids_decode_to_nothing() {
    let tokenizer = smollm_head();
    assert_eq!(tokenizer.decode(&[1_000_000, u32::MAX], false).unwrap(), "");
}

#[test]
fn hostile_tokenizers_are_refused() {
    let refused = |json: &str| Tokenizer::from_json(json.as_bytes()).unwrap_err().to_string();
    assert!(refused("").contains("can't be read"));
    assert!(refused("{}").contains("can't be read"));
    assert!(refused(&"[".repeat(100_000)).contains("can't be read"));
    let model = r#""model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":DROP}"#;
    let dropout = format!("{{{}}}", model.replace("DROP", "0.5"));
    assert!(refused(&dropout).contains("dropout"));
    let model = model.replace("DROP", "null");
    let step = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaa"}"#;
    let bomb =
        format!(r#"{{"normalizer":{{"type":"Sequence","normalizers":[{step},{step},{step}]}},{model}}}"#);
    assert!(refused(&bomb).contains("multiplies"));
    // Each of these doubles a text without a long string: an empty match, and bytes as characters, again and again.
    for (list, step) in [
        ("normalizer", r#"{"type":"Replace","pattern":{"Regex":""},"content":"a"}"#),
        ("normalizer", r#"{"type":"ByteLevel"}"#),
        (
            "pre_tokenizer",
            r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#,
        ),
    ] {
        let inner = if list == "normalizer" { "normalizers" } else { "pretokenizers" };
        let steps = [step; 40].join(",");
        let bomb = format!(r#"{{"{list}":{{"type":"Sequence","{inner}":[{steps}]}},{model}}}"#);
        assert!(refused(&bomb).contains("multiplies"), "{step}");
    }
    let huge = vec![b' '; MAX_JSON_BYTES + 1];
    assert!(matches!(Tokenizer::from_json(&huge), Err(TokenizerError::TooLarge { .. })));
}

#[test]
fn entries_are_counted_and_refused_by_name_before_they_are_read() {
    let many = |entry: &str, count: u64| vec![entry; count as usize].join(",");
    let model = |inner: &str| format!(r#"{{"model":{{"type":"BPE",{inner}}}}}"#);
    let hostile = [
        (
            model(&format!(r#""vocab":{{"a":0}},"merges":[{}]"#, many("\"a a\"", MAX_MERGES + 1))),
            "1048577 merges",
        ),
        (model(&format!(r#""vocab":[{}],"merges":[]"#, many("[]", MAX_TOKENS + 1))), "1048577 tokens"),
        (format!(r#"{{"added_tokens":[{}]}}"#, many("{}", MAX_TOKENS + 1)), "1048577 added tokens"),
        (format!(r#"{{"decoder":{{"a":[{}]}}}}"#, many("0", 1 << 16)), "values in its normalizer"),
        (model(&format!(r#""x":[{}]"#, many("1", 1 << 22))), "JSON values"),
        (format!(r#"{{"x":[{}]}}"#, many("[[1]]", 1 << 21)), "JSON values"),
    ];
    for (json, word) in hostile {
        let error = Tokenizer::from_json(json.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::TooMany { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn padding_and_truncation_of_the_file_are_ignored() {
    let json = r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},
        "truncation":{"max_length":1,"strategy":"LongestFirst","stride":0,"direction":"Right"},
        "padding":{"strategy":{"Fixed":4000000000},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,
                   "pad_type_id":0,"pad_token":"a"}}"#;
    let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("aaa", EncodeMode::Markup).unwrap(), [0, 0, 0]);
}

#[test]
fn long_and_odd_texts_are_encoded_or_refused() {
    let tokenizer = smollm_head();
    let spaces = " ".repeat(1_500_000);
    let ids = tokenizer.encode(&spaces, EncodeMode::Markup).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), spaces);
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    assert!(matches!(tokenizer.encode(&long, EncodeMode::Plain), Err(TokenizerError::TextTooLong { .. })));
}

#[test]
fn every_part_of_the_small_tokenizer_works() {
    let tokenizer = Tokenizer::from_json(SMALL.as_bytes()).unwrap();
    let ids = tokenizer.encode("ab<s>", EncodeMode::Prompt).unwrap();
    assert_eq!(ids, [0, 3, 0]);
    assert_eq!(tokenizer.decode(&[3, 4, 5], true).unwrap(), "ab\u{e9}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_tokenizers_are_errors_or_work(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..4), 1..4),
    ) {
        let mut json = SMALL.as_bytes().to_vec();
        for (at, byte, action) in edits {
            let at = at.index(json.len());
            match action {
                0 => json[at] = byte,
                1 => json.insert(at, byte),
                2 => drop(json.remove(at)),
                _ => json.truncate(at.max(1)),
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&json) {
            for mode in [EncodeMode::Plain, EncodeMode::Markup, EncodeMode::Prompt] {
                let _ = tokenizer.encode("<s>ab 12 \u{e9}b\n", mode);
            }
            let _ = tokenizer.decode(&[0, 1, 2, 3, 4, 5, 9, u32::MAX], false);
        }
    }
}

/// One of everything that a real file has.
const SMALL: &str = r#"{"version":"1.0","truncation":null,"padding":null,
"added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"String":" "},"content":"_"}]},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|\\s+(?!\\S)"},
"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},
{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},
{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}},
"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","dropout":null,"unk_token":"<s>","continuing_subword_prefix":null,"end_of_word_suffix":null,
"fuse_unk":true,"byte_fallback":true,"ignore_merges":false,
"vocab":{"<s>":0,"a":1,"b":2,"ab":3,"<0xC3>":4,"<0xA9>":5},"merges":[["a","b"]]}}"#;
