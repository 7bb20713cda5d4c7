//! Converted vocabularies against ids from other implementations (`golden/make_golden.py`), and refusals.

use serde::Deserialize;

use super::*;
use crate::{EncodeMode, Tokenizer};

/// What both golden files hold.
#[derive(Debug, Deserialize)]
pub(crate) struct Golden {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    #[serde(default)]
    merges: Vec<String>,
    #[serde(default)]
    scores: Vec<f32>,
    bos: u32,
    eos: u32,
    unknown: Option<u32>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pre: Option<String>,
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    decoded: Option<String>,
}

impl Golden {
    pub(crate) fn vocabulary(&self, pre: Option<&str>) -> GgufVocabulary {
        GgufVocabulary {
            model: if self.scores.is_empty() { "gpt2" } else { "llama" }.into(),
            pre: pre.map(str::to_owned),
            tokens: self.tokens.clone(),
            merges: self.merges.clone(),
            scores: self.scores.clone(),
            token_types: self.token_types.clone(),
            bos: Some(self.bos),
            eos: Some(self.eos),
            unknown: self.unknown,
            ..GgufVocabulary::default()
        }
    }
}

pub(crate) fn byte_level() -> Golden {
    serde_json::from_str(include_str!("../../golden/byte_level.json")).unwrap()
}

pub(crate) fn sentence_piece() -> Golden {
    serde_json::from_str(include_str!("../../golden/sentencepiece.json")).unwrap()
}

pub(crate) fn tokenizer(vocabulary: &GgufVocabulary) -> Tokenizer {
    Tokenizer::from_json(&vocabulary.to_tokenizer_json().unwrap()).unwrap()
}

#[test]
fn byte_level_ids_equal_the_reference_for_every_pre_tokenizer() {
    let golden = byte_level();
    let mut kinds = std::collections::BTreeSet::new();
    for case in &golden.cases {
        let pre = case.pre.as_deref();
        kinds.insert(pre.unwrap());
        let tokenizer = tokenizer(&golden.vocabulary(pre));
        let ids = tokenizer.encode(&case.text, EncodeMode::Markup).unwrap();
        assert_eq!(ids, case.ids, "{pre:?} {:?}", case.text);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["default", "gpt-2", "llama-bpe", "qwen2", "smollm"]);
}

#[test]
fn sentencepiece_ids_equal_the_reference() {
    let golden = sentence_piece();
    let tokenizer = tokenizer(&golden.vocabulary(None));
    for case in &golden.cases {
        let ids = tokenizer.encode(&case.text, EncodeMode::Markup).unwrap();
        assert_eq!(ids, case.ids, "{:?}", case.text);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case.decoded.as_deref().unwrap());
        let prompt = tokenizer.encode(&case.text, EncodeMode::Prompt).unwrap();
        assert_eq!(prompt, [&[golden.bos], ids.as_slice()].concat());
    }
}

#[test]
fn the_same_vocabulary_gives_the_same_bytes() {
    let golden = sentence_piece();
    let bytes = || golden.vocabulary(None).to_tokenizer_json().unwrap();
    assert_eq!(bytes(), bytes());
    let text =
        String::from_utf8(byte_level().vocabulary(Some("smollm")).to_tokenizer_json().unwrap()).unwrap();
    assert!(
        text.starts_with(r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"#)
    );
    assert!(text.contains(r#""vocab":{"<|endoftext|>":0,"<|im_start|>":1,"#));
}

#[test]
fn bos_and_eos_are_added_where_the_file_says_so() {
    let golden = byte_level();
    let ids = |add_bos, add_eos, pre: &str| {
        let vocabulary = GgufVocabulary { add_bos, add_eos, ..golden.vocabulary(Some(pre)) };
        tokenizer(&vocabulary).encode("in", EncodeMode::Prompt).unwrap()
    };
    let text = ids(None, None, "smollm");
    let [bos, eos] = [vec![golden.bos], vec![golden.eos]];
    assert_eq!(ids(Some(true), None, "smollm"), [bos.clone(), text.clone()].concat());
    assert_eq!(ids(Some(true), Some(true), "smollm"), [bos.clone(), text.clone(), eos].concat());
    assert_eq!(ids(None, None, "llama-bpe"), [bos, text.clone()].concat());
    assert_eq!(ids(Some(false), None, "llama-bpe"), text);
}

#[test]
fn refusals_name_what_is_wrong() {
    type Spoil = fn(&mut GgufVocabulary);
    let cases: [(Spoil, &str); 11] = [
        (|v| v.model = "bert".into(), r#"tokenizer.ggml.model "bert" is not supported"#),
        (|v| v.pre = Some("deepseek-v3".into()), r#"tokenizer.ggml.pre "deepseek-v3" is not supported"#),
        (|v| v.tokens.clear(), "tokens has 0 entries"),
        (|v| v.token_types.truncate(3), "token_type has 3 entries for 1500 tokens"),
        (|v| v.scores = vec![0.0], "scores has 1 entries"),
        (|v| v.tokens[30] = v.tokens[20].clone(), "tokens 20 and 30 are both"),
        (|v| v.tokens[30] = "x".repeat(5000), "token 30 has 5000 bytes"),
        (|v| v.merges[5] = "nospace".into(), r#"merges entry 5 is "nospace""#),
        (|v| v.merges[5] = "zz qq".into(), r#"merges entry 5 is "zz qq""#),
        (|v| v.bos = Some(1500), "bos_token_id is 1500, but there are 1500 tokens"),
        (|v| v.model = "llama".into(), "scores has 0 entries for 1500 tokens"),
    ];
    for (spoil, message) in cases {
        let mut vocabulary = byte_level().vocabulary(Some("smollm"));
        spoil(&mut vocabulary);
        let got = vocabulary.to_tokenizer_json().unwrap_err().to_string();
        assert!(got.contains(message), "{got}");
    }
    let mut scores = sentence_piece().vocabulary(None);
    scores.scores[9] = f32::NAN;
    assert_eq!(scores.to_tokenizer_json(), Err(GgufVocabularyError::Score(9)));
}
