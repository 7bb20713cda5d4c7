//! `llama`: SentencePiece BPE, whose merges follow from the scores, with byte tokens for what has no piece.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::{GgufVocabulary, GgufVocabularyError, MAX_MERGES, Parts, TokenKind};

pub(super) fn parts(
    vocabulary: &GgufVocabulary,
    ids: &HashMap<&str, u32>,
) -> Result<Parts, GgufVocabularyError> {
    let tokens = vocabulary.tokens.len();
    if vocabulary.scores.len() != tokens {
        return Err(GgufVocabularyError::ListLength { list: "scores", got: vocabulary.scores.len(), tokens });
    }
    let prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let unknown = vocabulary.unknown.and_then(|id| vocabulary.tokens.get(id as usize));
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": true,
        "ignore_merges": false,
        "vocab": vocabulary.vocab_json(),
        "merges": merges(vocabulary, ids)?,
    });
    Ok(Parts {
        normalizer: normalizer(prefix),
        pre_tokenizer: Value::Null,
        decoder: decoder(prefix),
        model,
        adds_bos: true,
    })
}

/// A space is U+2581 in pieces; one more stands before the text unless the file says otherwise.
fn normalizer(prefix: bool) -> Value {
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let prepend = json!({ "type": "Prepend", "prepend": SPACE });
    let steps = if prefix { vec![prepend, replace] } else { vec![replace] };
    json!({ "type": "Sequence", "normalizers": steps })
}

fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

/// Each way to join two pieces into a third, best first: by the score of the result, then by the lengths of left
/// and right part, longest first, then in the order of ids. The order is that of `generate_merges` in
/// `transformers` (`convert_slow_tokenizer.py`).
fn merges(
    vocabulary: &GgufVocabulary,
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[String; 2]>, GgufVocabularyError> {
    let joins = |id: u32| matches!(vocabulary.kind(id), TokenKind::Normal | TokenKind::UserDefined);
    let mut found = Vec::new();
    for (id, content) in (0u32..).zip(&vocabulary.tokens) {
        let score = vocabulary.scores[id as usize];
        if score.is_nan() {
            return Err(GgufVocabularyError::Score(id));
        }
        if !joins(id) {
            continue;
        }
        for (at, _) in content.char_indices().skip(1) {
            let (left, right) = content.split_at(at);
            let part = |part: &str| ids.get(part).copied().filter(|&id| joins(id));
            if let (Some(left_id), Some(right_id)) = (part(left), part(right)) {
                found.push(Merge { score, id, left, right, left_id, right_id });
            }
        }
        if found.len() > MAX_MERGES {
            return Err(GgufVocabularyError::MergeCount(found.len()));
        }
    }
    found.sort_by(Merge::order);
    Ok(found.into_iter().map(|m| [m.left.to_owned(), m.right.to_owned()]).collect())
}

struct Merge<'v> {
    score: f32,
    id: u32,
    left: &'v str,
    right: &'v str,
    left_id: u32,
    right_id: u32,
}

impl Merge<'_> {
    fn order(a: &Self, b: &Self) -> Ordering {
        let length = |m: &Self| (m.left.chars().count(), m.right.chars().count());
        let score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        score
            .then_with(|| length(b).cmp(&length(a)))
            .then_with(|| (a.id, a.left_id, a.right_id).cmp(&(b.id, b.left_id, b.right_id)))
    }
}

const SPACE: &str = "\u{2581}";
