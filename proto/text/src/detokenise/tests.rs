//! Streams against the decode of all ids at once.

use proptest::prelude::*;

use super::*;
use crate::EncodeMode;
use crate::gguf::tests as golden;

static BYTES: LazyLock<Arc<Tokenizer>> = LazyLock::new(bytes_tokenizer);

static PIECES: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(golden::tokenizer(&golden::sentence_piece().vocabulary(None))));

/// All byte tokens and some merges: any text can be encoded, most characters in several tokens.
fn bytes_tokenizer() -> Arc<Tokenizer> {
    let mut letters: Vec<(u8, char)> = BYTE_OF_CHAR.iter().map(|(&c, &b)| (b, c)).collect();
    letters.sort_unstable();
    let mut tokens = vec!["<|end|>".to_owned()];
    tokens.extend(letters.iter().map(|(_, c)| c.to_string()));
    let byte = |b: usize| letters[b].1;
    let pairs = [(0xf0, 0x9f), (0xe4, 0xbd), (0xa0, 0xe5), (0x20, 0x61), (0xcc, 0x81), (0x98, 0x80)];
    let merges: Vec<String> = pairs.iter().map(|&(a, b)| format!("{} {}", byte(a), byte(b))).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut token_types = vec![1; tokens.len()];
    token_types[0] = 3;
    let vocabulary = crate::GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        merges,
        token_types,
        ..Default::default()
    };
    Arc::new(golden::tokenizer(&vocabulary))
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = DetokenStream::new(Arc::clone(tokenizer), skip_special);
    let mut deltas: Vec<String> = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
    deltas.extend(stream.finish().unwrap());
    assert_eq!(stream.finish().unwrap(), None);
    deltas
}

fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<char>().prop_map(String::from),
        prop::sample::select(vec![
            "你好",
            "👩‍👩‍👧",
            "e\u{301}",
            "🇩🇪",
            " ",
            "  ",
            "abc",
            "\u{fffd}",
            "नि",
            "\n",
            "▁"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn deltas_of_a_text_are_whole_characters_and_make_up_the_text(text in any_text()) {
        let tokenizer = &*BYTES;
        let ids = tokenizer.encode(&text, EncodeMode::Plain).unwrap();
        prop_assert_eq!(stream(tokenizer, &ids, true).concat(), text);
    }

    #[test]
    fn deltas_of_any_ids_make_up_their_decoding(ids in prop::collection::vec(0u32..300, 0..60), skip: bool) {
        let tokenizer = &*BYTES;
        let want = tokenizer.decode(&ids, skip).unwrap();
        prop_assert_eq!(stream(tokenizer, &ids, skip).concat(), want);
    }

    #[test]
    fn sentencepiece_deltas_make_up_the_text(text in any_text()) {
        let tokenizer = &*PIECES;
        let ids = tokenizer.encode(&text, EncodeMode::Plain).unwrap();
        let want = tokenizer.decode(&ids, true).unwrap();
        prop_assert_eq!(stream(tokenizer, &ids, true).concat(), want);
    }

    /// Byte tokens that make no UTF-8 are where decoders look back without bound; text still comes, and no panic.
    #[test]
    fn sentencepiece_streams_survive_any_ids(ids in prop::collection::vec(0u32..800, 0..60)) {
        let tokenizer = &*PIECES;
        let plain: Vec<u32> = ids.iter().copied().filter(|&id| !(3..259).contains(&id)).collect();
        prop_assert_eq!(stream(tokenizer, &plain, true).concat(), tokenizer.decode(&plain, true).unwrap());
        let _ = stream(tokenizer, &ids, false);
    }
}

#[test]
fn a_character_is_held_back_until_it_is_whole() {
    let tokenizer = &*BYTES;
    let ids = tokenizer.encode("a😀b", EncodeMode::Plain).unwrap();
    assert!(ids.len() > 3);
    assert_eq!(stream(tokenizer, &ids, true), ["a", "😀", "b"]);
    let cut = &ids[..ids.len() - 2];
    assert_eq!(stream(tokenizer, cut, true), ["a", "\u{fffd}"]);
}

#[test]
fn a_run_of_broken_bytes_is_not_held_for_ever() {
    let tokenizer = &*PIECES;
    let broken = tokenizer.token_id("<0xFF>").unwrap();
    let mut stream = DetokenStream::new(Arc::clone(tokenizer), true);
    let shown =
        (0..100).filter_map(|_| stream.push(broken).unwrap()).map(|text| text.chars().count()).sum::<usize>();
    assert!(shown >= 90, "{shown}");
}

#[test]
fn a_special_token_is_text_only_where_it_is_to_be_shown() {
    for tokenizer in [&*BYTES, &*PIECES] {
        let special = (0..tokenizer.vocab_size()).find(|&id| tokenizer.is_special(id)).unwrap();
        let content = tokenizer.token_content(special).unwrap();
        let word = tokenizer.encode("你ab", EncodeMode::Plain).unwrap();
        let ids = [&word[..], &[special], &word, &[special]].concat();
        let text = |shown: &[&str]| {
            let mut stream = DetokenStream::new(Arc::clone(tokenizer), true);
            stream.show(shown);
            let mut deltas: Vec<String> = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
            deltas.extend(stream.finish().unwrap());
            deltas.concat()
        };
        assert!(!text(&[]).contains(&content), "{:?}", text(&[]));
        assert_eq!(text(&["no token of it"]), text(&[]));
        let shown = text(&[&content, "no token of it"]);
        assert_eq!(shown.matches(&content).count(), 2, "{shown:?}");
        assert!(shown.ends_with(&content) && shown.replace(&content, "") == text(&[]), "{shown:?}");
    }
}
