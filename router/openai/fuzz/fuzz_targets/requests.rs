//! One body for every endpoint that reads one. An error says what is wrong and repeats little of it; what an answer must look
//! like can be told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use router_openai::{
    ApiError, ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, ResponsesRequest,
    TokenizeRequest,
};

/// Many times what an error may repeat, and far below the largest body.
const MOST: usize = 32 << 10;

fn judge<T>(read: Result<T, ApiError>) {
    if let Err(error) = read {
        assert!(!error.message().is_empty() && (400..500).contains(&error.status()));
        assert!(error.to_json().len() < MOST);
    }
}

fuzz_target!(|data: &[u8]| {
    judge(ChatRequest::parse(data).map(|request| request.constraint.schema()));
    judge(CompletionRequest::parse(data));
    judge(ResponsesRequest::parse(data).map(|request| request.constraint.schema()));
    judge(EmbeddingRequest::parse(data));
    judge(TokenizeRequest::parse(data));
    judge(DetokenizeRequest::parse(data));
});
