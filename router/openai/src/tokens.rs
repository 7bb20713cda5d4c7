//! `POST /tokenize` and `POST /detokenize`, as other servers have them.

use proto::session::MAX_POSITIONS;
use router_plan::ModelRef;

use crate::chat::request;
use crate::error::ApiError;
use crate::fields;
use crate::list::AtMost;
use serde::Deserialize;

/// Text into ids.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenizeRequest {
    /// Whose tokens.
    pub model: Option<ModelRef>,
    /// The text, as a prompt of `/v1/completions` is.
    pub prompt: String,
}

/// Ids into text.
#[derive(Clone, PartialEq, Debug)]
pub struct DetokenizeRequest {
    /// Whose tokens.
    pub model: Option<ModelRef>,
    /// The ids.
    pub tokens: Vec<u32>,
}

request! { /// The object as it is written.
    Tokenize, TOKENIZE { model: String, prompt: String, } }
request! { /// The object as it is written.
    Detokenize, DETOKENIZE { model: String, tokens: AtMost<u32, { MAX_POSITIONS as usize }>, } }

impl TokenizeRequest {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let body: Tokenize = fields::read(body, TOKENIZE)?;
        let missing = || ApiError::invalid("prompt".to_owned(), "missing_parameter", "`prompt` is needed");
        Ok(Self { model: model(body.model)?, prompt: body.prompt.ok_or_else(missing)? })
    }
}

impl DetokenizeRequest {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let body: Detokenize = fields::read(body, DETOKENIZE)?;
        let missing = || ApiError::invalid("tokens".to_owned(), "missing_parameter", "`tokens` is needed");
        Ok(Self { model: model(body.model)?, tokens: body.tokens.ok_or_else(missing)?.0 })
    }
}

fn model(name: Option<String>) -> Result<Option<ModelRef>, ApiError> {
    name.map(|name| name.parse()).transpose().map_err(|error| ApiError::value("model", error))
}
