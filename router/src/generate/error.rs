//! Why there is no reply.

use kademlia_dht::LookupError;
use proto_sampling::ParameterError;
use proto_text::{StopError, TokenizerError};
use router_plan::{ResolveError, RouteError, RouteRequest, Verdict, View, explain};

use crate::discovery::BlobError;
use crate::driver::StartError;
use crate::model::{ModelError, PromptError};
use crate::session::SessionError;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The directory gave no answer.
    #[error("look up nodes: {0}")]
    Lookup(#[from] LookupError),
    /// It is not clear which model is meant, or nobody has it.
    #[error("{source}{swarm}")]
    Resolve {
        /// Why.
        source: ResolveError,
        /// Which bootstrap peers were reached, ready to append.
        swarm: String,
    },
    /// The manifest or the tokenizer can't be had.
    #[error("fetch the {what} of {model}: {source}")]
    Blob {
        /// Which of the two.
        what: &'static str,
        /// The model.
        model: String,
        /// Why.
        source: Box<BlobError>,
    },
    /// The model's pieces do not fit together.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer could not be read to its end.
    #[error("read the tokenizer of {model}: {why}")]
    Tokenizer {
        /// The model.
        model: String,
        /// What happened to the thread.
        why: String,
    },
    /// The prompt does not fit the model.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] ParameterError),
    /// The stop strings are refused.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// There is no route.
    #[error("{source}{left_out}")]
    Route {
        /// Why.
        source: RouteError,
        /// Nodes that would hold layers, but can't be used, ready to append.
        left_out: String,
    },
    /// This router takes no session.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A token can't be turned into text.
    #[error("decode the answer: {0}")]
    Decode(#[from] TokenizerError),
    /// The system gives no random numbers.
    #[error("draw a session id: {0}")]
    Random(String),
    /// The user gave up before the first token.
    #[error("cancelled")]
    Cancelled,
}

impl GenerateError {
    pub(super) fn blob(what: &'static str, model: &str, source: BlobError) -> Self {
        Self::Blob { what, model: model.to_owned(), source: Box::new(source) }
    }

    /// With the nodes that were left out because of their state (not because of what they hold).
    pub(super) fn route(source: RouteError, view: &View, request: &RouteRequest) -> Self {
        let mut texts = Vec::new();
        for node in explain(view, request).nodes {
            let (Verdict::Unreachable { .. }
            | Verdict::Draining
            | Verdict::NoRoom { .. }
            | Verdict::Expired { .. }
            | Verdict::WrongLayerCount { .. }) = &node.verdict
            else {
                continue;
            };
            let span = node.span.map(|span| format!(" (layers {span})")).unwrap_or_default();
            texts.push(format!("node {}{span}: {}", node.node.short(), node.verdict));
        }
        let left_out =
            if texts.is_empty() { String::new() } else { format!("; left out: {}", texts.join("; ")) };
        Self::Route { source, left_out }
    }
}
