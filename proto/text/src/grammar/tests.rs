//! Texts of grammars over a small real vocabulary, and grammars that nobody should have to follow.

use proptest::prelude::*;

use super::*;
use crate::gguf::tests::{byte_level, tokenizer};
use crate::tokenizer::EncodeMode;

fn smollm() -> Tokenizer {
    tokenizer(&byte_level().vocabulary(Some("smollm")))
}

/// The vocabulary, wider than the tokenizer's, whose texts end with the first special token.
fn vocabulary(tokenizer: &Tokenizer) -> (GrammarVocabulary, u32) {
    let eos = (0..tokenizer.vocab_size()).find(|&id| tokenizer.is_special(id)).unwrap();
    (GrammarVocabulary::new(tokenizer, tokenizer.vocab_size() + 100, &[eos, u32::MAX]).unwrap(), eos)
}

fn allows(words: &[u64], token: u32) -> bool {
    words[token as usize / 64] >> (token % 64) & 1 == 1
}

/// Whether the whole text is one of the grammar, token by token, and may end there.
fn takes(grammar: &Grammar, text: &str) -> bool {
    let tokenizer = smollm();
    let (vocabulary, eos) = vocabulary(&tokenizer);
    let mut begun = vocabulary.begin(grammar).unwrap();
    for id in tokenizer.encode(text, EncodeMode::Plain).unwrap() {
        if !allows(&begun.allowed().unwrap(), id) {
            assert!(begun.push(id).is_err(), "what is not allowed is refused");
            return false;
        }
        begun.push(id).unwrap();
    }
    allows(&begun.allowed().unwrap(), eos)
}

fn schema(source: &str) -> Grammar {
    Grammar::JsonSchema(source.into())
}

#[test]
fn a_schema_takes_what_it_describes_and_nothing_else() {
    let person = schema(
        r#"{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0}},
            "required":["name","age"],"additionalProperties":false}"#,
    );
    assert!(takes(&person, r#"{"name": "Zoë 語", "age": 7}"#));
    assert!(takes(&person, "{\n  \"name\": \"a\",\n  \"age\": 12\n}"));
    for wrong in [r#"{"name": "a"}"#, r#"{"name": "a", "age": -1}"#, "hello", r#"{"name": "a", "age": 7"#] {
        assert!(!takes(&person, wrong), "{wrong}");
    }
    assert!(takes(&schema(r#"{"enum":["red","green"]}"#), r#""red""#));
    assert!(!takes(&schema(r#"{"enum":["red","green"]}"#), r#""blue""#));
    assert!(takes(&schema(r#"{"type":"object"}"#), r#"{"any": [1, null, {"x": true}]}"#));
    let lark = Grammar::Lark(r#"start: "yes" | "no""#.into());
    assert!(takes(&lark, "yes") && !takes(&lark, "maybe"));
}

#[test]
fn space_is_bounded_and_entries_beyond_the_tokenizer_are_never_allowed() {
    let object = schema(r#"{"type":"object"}"#);
    assert!(takes(&object, &format!("{{{}}}", " ".repeat(16))));
    assert!(!takes(&object, &format!("{{{}}}", " ".repeat(40))));
    let tokenizer = smollm();
    let (vocabulary, eos) = vocabulary(&tokenizer);
    let words = vocabulary.begin(&object).unwrap().allowed().unwrap();
    let width = tokenizer.vocab_size() + 100;
    assert_eq!(words.len(), width.div_ceil(64) as usize);
    assert!((tokenizer.vocab_size()..width).all(|id| !allows(&words, id)));
    assert!(!allows(&words, eos), "the empty text is no object");
}

#[test]
fn absurd_grammars_are_refused_within_their_limits() {
    let tokenizer = smollm();
    let (vocabulary, _) = vocabulary(&tokenizer);
    let nested = |depth: usize| format!("{}{{}}{}", r#"{"items":"#.repeat(depth), "}".repeat(depth));
    let alternatives: Vec<String> =
        (0..900).map(|i| format!(r#"{{"type":"string","pattern":"^(a|b){{{i}}}c$"}}"#)).collect();
    for source in [
        "",
        "[",
        "7",
        r#"{"type":"nothing"}"#,
        r##"{"$ref":"#/$defs/none"}"##,
        r#"{"type":"string","pattern":"("}"#,
        r#"{"type":"string","pattern":"((((a{1,200}){1,200}){1,200}){1,200}){1,200}"}"#,
        r#"{"type":"integer","minimum":5,"maximum":4}"#,
        &nested(120),
        &format!(r#"{{"anyOf":[{}]}}"#, alternatives.join(",")),
    ] {
        let outcome = vocabulary.begin(&schema(source)).and_then(|mut text| text.allowed().map(drop));
        // The last ones are odd but may be followed; that the limits end their work is what counts.
        if source.len() < 60 {
            assert!(outcome.is_err(), "{source}");
        }
    }
    for source in ["", "start: start", "start: /(/", "start: missing"] {
        let outcome =
            vocabulary.begin(&Grammar::Lark(source.into())).and_then(|mut text| text.allowed().map(drop));
        assert!(outcome.is_err(), "{source}");
    }
    let eos_only_beyond = GrammarVocabulary::new(&tokenizer, 10, &[10]);
    assert!(matches!(eos_only_beyond, Err(GrammarError::Vocabulary(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whichever allowed tokens are chosen, the text goes on or ends, and what ended is JSON of the schema's shape.
    #[test]
    fn any_choice_among_the_allowed_gives_a_text_of_the_grammar(choices in prop::collection::vec(any::<u32>(), 60)) {
        let tokenizer = smollm();
        let (vocabulary, eos) = vocabulary(&tokenizer);
        let grammar = schema(
            r#"{"type":"object","properties":{"a":{"type":"array","items":{"type":"boolean"},"maxItems":3},
                "b":{"enum":["x","yy"]}},"required":["a","b"],"additionalProperties":false}"#,
        );
        let mut text = vocabulary.begin(&grammar).unwrap();
        let mut ids = Vec::new();
        for choice in choices {
            let words = text.allowed().unwrap();
            if allows(&words, eos) {
                let value: Value = serde_json::from_str(&tokenizer.decode(&ids, true).unwrap()).unwrap();
                prop_assert!(value["a"].as_array().unwrap().len() <= 3);
                prop_assert!(value["b"] == "x" || value["b"] == "yy");
                return Ok(());
            }
            let allowed: Vec<u32> = (0..tokenizer.vocab_size()).filter(|&id| allows(&words, id)).collect();
            let id = allowed[choice as usize % allowed.len()];
            text.push(id).unwrap();
            ids.push(id);
        }
    }
}
