//! Bodies that no client writes: the fuzz target's seeds, overwritten, cut and doubled, by every parser. What is wrong is
//! told in few words, and nothing panics.

use proptest::prelude::*;

use super::{
    ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, ResponsesRequest, TokenizeRequest,
};
use crate::error::ApiError;

const SEEDS: [&str; 6] = [
    include_str!("../../fuzz/seeds/requests/chat.json"),
    include_str!("../../fuzz/seeds/requests/completion.json"),
    include_str!("../../fuzz/seeds/requests/responses.json"),
    include_str!("../../fuzz/seeds/requests/embeddings.json"),
    include_str!("../../fuzz/seeds/requests/tokenize.json"),
    include_str!("../../fuzz/seeds/requests/detokenize.json"),
];

/// What a changed byte becomes, more often than any: signs that JSON is made of.
const SIGNS: &[u8] = b"{}[]\",:-0e.tfn\\ \xff\xf0\x00";

#[derive(Clone, Debug)]
enum Change {
    Overwrite(prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), prop::sample::select(SIGNS)).prop_map(|(at, byte)| Change::Overwrite(at, byte)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Overwrite(at, byte)),
        (at(), at()).prop_map(|(from, to)| Change::Cut(from, to)),
        (at(), at()).prop_map(|(from, to)| Change::Double(from, to)),
    ]
}

fn apply(body: &mut Vec<u8>, change: &Change) {
    if body.is_empty() {
        return;
    }
    let span = |from: &prop::sample::Index, to: &prop::sample::Index| {
        let (a, b) = (from.index(body.len()), to.index(body.len()));
        a.min(b)..a.max(b)
    };
    match change {
        Change::Overwrite(at, byte) => {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        Change::Cut(from, to) => drop(body.drain(span(from, to))),
        Change::Double(from, to) => {
            let span = span(from, to);
            let part = body[span.clone()].to_vec();
            body.splice(span.end..span.end, part);
        }
    }
}

fn judge<T>(read: Result<T, ApiError>) {
    if let Err(error) = read {
        assert!(!error.message().is_empty() && (400..500).contains(&error.status()), "{error:?}");
        assert!(error.to_json().len() < 32 << 10, "{error:?}");
    }
}

fn read_as_all(body: &[u8]) {
    judge(ChatRequest::parse(body));
    judge(CompletionRequest::parse(body));
    judge(ResponsesRequest::parse(body));
    judge(EmbeddingRequest::parse(body));
    judge(TokenizeRequest::parse(body));
    judge(DetokenizeRequest::parse(body));
}

#[test]
fn the_seeds_are_what_their_endpoints_take() {
    let [chat, completion, responses, embeddings, tokenize, detokenize] = SEEDS.map(str::as_bytes);
    ChatRequest::parse(chat).unwrap();
    CompletionRequest::parse(completion).unwrap();
    ResponsesRequest::parse(responses).unwrap();
    EmbeddingRequest::parse(embeddings).unwrap();
    TokenizeRequest::parse(tokenize).unwrap();
    DetokenizeRequest::parse(detokenize).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn spoilt_bodies_are_refused_in_few_words(
        seed in prop::sample::select(&SEEDS[..]), changes in prop::collection::vec(change(), 1..6),
    ) {
        let mut body = seed.as_bytes().to_vec();
        for change in &changes {
            apply(&mut body, change);
        }
        read_as_all(&body);
    }

    #[test]
    fn bytes_that_are_no_json_are_refused(body in prop::collection::vec(prop::sample::select(SIGNS), 0..200)) {
        read_as_all(&body);
    }
}
