//! `POST /tokenize`, `POST /detokenize` (in vLLM's shape) and `POST /v1/embeddings`.

use proto::session::MAX_POSITIONS;
use router_plan::ModelRef;

use super::chat::{Chat, template_variables};
use super::generation::model;
use super::messages;
use super::parameters::{self, DETOKENIZE, EMBEDDINGS, TOKENIZE};
use super::tools::{ToolShape, Tools};
use crate::error::{ApiError, ErrorCode};
use crate::read::{self, Json, Kind};

/// What is to become token ids.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenizeRequest {
    /// Whose tokens; `None` takes the only model there is.
    pub model: Option<ModelRef>,
    /// What to take apart.
    pub input: TokenizeInput,
    /// Whether the texts of the tokens are told too.
    pub token_texts: bool,
}

/// What to take apart.
#[derive(Clone, PartialEq, Debug)]
pub enum TokenizeInput {
    /// A text.
    Text {
        /// The text; may be empty.
        text: String,
        /// Whether the model's own beginning is put in front, as for a completion.
        special: bool,
    },
    /// A conversation, put into the model's template.
    Chat(Chat),
}

/// Token ids that are to become text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DetokenizeRequest {
    /// Whose tokens; `None` takes the only model there is.
    pub model: Option<ModelRef>,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// A request for embeddings, of which only the model matters: it is told that it has none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbeddingRequest {
    /// Which model.
    pub model: Option<ModelRef>,
}

impl TokenizeRequest {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let body = read::body(bytes)?;
        parameters::check(&body, TOKENIZE)?;
        let special = body.read("add_special_tokens", |json| json.boolean())?.unwrap_or(true);
        let text = body.read("prompt", |json| json.text())?;
        let messages = body.read("messages", messages::messages)?;
        // The others are read even where they mean nothing: a wrong value is a mistake anyway.
        let tools = Tools::read(&body, ToolShape::Nested)?;
        let add_generation_prompt =
            body.read("add_generation_prompt", |json| json.boolean())?.unwrap_or(true);
        let variables = body.read("chat_template_kwargs", template_variables)?.unwrap_or_default();
        let input = match (text, messages) {
            (Some(text), None) => TokenizeInput::Text { text: text.into_owned(), special },
            (None, Some(messages)) => {
                TokenizeInput::Chat(Chat { messages, tools, add_generation_prompt, variables })
            }
            (None, None) => {
                let what = "`prompt` is missing, and so is `messages`";
                return Err(ApiError::new(ErrorCode::MissingParameter, what, "give one of them").at("prompt"));
            }
            (Some(_), Some(_)) => {
                let what = "there are `prompt` and `messages`";
                return Err(ApiError::new(ErrorCode::Conflict, what, "give one of them").at("messages"));
            }
        };
        Ok(Self {
            model: body.read("model", model)?,
            input,
            token_texts: body.read("return_token_strs", |json| json.boolean())?.unwrap_or(false),
        })
    }
}

impl DetokenizeRequest {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let body = read::body(bytes)?;
        parameters::check(&body, DETOKENIZE)?;
        Ok(Self {
            model: body.read("model", model)?,
            tokens: body.need("tokens")?.ids(MAX_POSITIONS as usize)?,
        })
    }
}

impl EmbeddingRequest {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let body = read::body(bytes)?;
        parameters::check(&body, EMBEDDINGS)?;
        input(body.need("input")?)?;
        body.read("dimensions", |json| json.integer(1..=MAX_DIMENSIONS))?;
        body.read("encoding_format", |json| json.word(&[("float", ()), ("base64", ())]))?;
        Ok(Self { model: body.read("model", model)? })
    }

    /// The answer to all of them.
    pub fn refusal(&self) -> ApiError {
        let name = self.model.as_ref().map_or_else(|| "the model".to_owned(), ToString::to_string);
        let what = format_args!("{name} gives no embeddings: only models that generate text are served");
        ApiError::new(ErrorCode::UnsupportedOperation, what, "ask another server for embeddings").at("model")
    }
}

fn input(json: Json<'_, '_>) -> Result<(), ApiError> {
    match json.kind() {
        Kind::Text => json.text().map(drop),
        Kind::List => json.list(MAX_POSITIONS as usize).map(drop),
        _ => Err(json.wrong_type("a string or a list")),
    }
}

/// Four times the longest vectors in use.
pub(crate) const MAX_DIMENSIONS: i64 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenize_takes_a_text_or_a_chat() {
        let request =
            TokenizeRequest::parse(br#"{"model":"m","prompt":"","add_special_tokens":false}"#).unwrap();
        assert_eq!(request.input, TokenizeInput::Text { text: String::new(), special: false });
        let request = TokenizeRequest::parse(
            br#"{"messages":[{"role":"user","content":"x"}],"return_token_strs":true}"#,
        );
        assert!(matches!(
            request.unwrap(),
            TokenizeRequest { input: TokenizeInput::Chat(_), token_texts: true, .. }
        ));
        for (body, place) in [
            (&br"{}"[..], "prompt"),
            (br#"{"prompt":"a","messages":[{"role":"user","content":"x"}]}"#, "messages"),
            (br#"{"prompt":"a","token":1}"#, "token"),
        ] {
            assert_eq!(TokenizeRequest::parse(body).unwrap_err().param(), Some(place));
        }
    }

    #[test]
    fn detokenize_takes_ids() {
        assert_eq!(DetokenizeRequest::parse(br#"{"tokens":[1,2]}"#).unwrap().tokens, [1, 2]);
        for body in [r#"{"tokens":[-1]}"#, r#"{"tokens":"a"}"#, r#"{"tokens":[1.5]}"#, "{}"] {
            let error = DetokenizeRequest::parse(body.as_bytes()).unwrap_err();
            assert!(error.param().is_some_and(|param| param.starts_with("tokens")), "{body}");
        }
    }

    #[test]
    fn embeddings_are_refused_by_name() {
        let request =
            EmbeddingRequest::parse(br#"{"model":"m","input":["a"],"encoding_format":"base64"}"#).unwrap();
        assert!(request.refusal().message().starts_with("m gives no embeddings"));
        assert_eq!(EmbeddingRequest::parse(br#"{"model":"m"}"#).unwrap_err().param(), Some("input"));
    }
}
