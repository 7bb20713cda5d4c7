//! What a model's files say about text: tokenizer, chat template, and the ids that begin and end one.
//! Reads them only; tokenising is `proto-text`'s. Everything here goes into the manifest, so it must
//! not depend on files that one copy of a model may have and another may lack, such as a README.

use std::path::{Path, PathBuf};

use proto::manifest::{MAX_LABEL_BYTES, MAX_TEMPLATE_BYTES};
use proto_text::{GgufVocabulary, GgufVocabularyError, Tokenizer, TokenizerError};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::checkpoint::{Checkpoint, Container, OpenError, read_json, read_small};
use crate::gguf::{Array, Gguf, Value as GgufValue};

/// Largest `tokenizer.json`: the largest published ones (vocabulary 262,144) have 33 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// The text side of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextParts {
    /// Bytes of `tokenizer.json`: the file itself, or what the GGUF's vocabulary converts to.
    pub tokenizer_json: Option<Vec<u8>>,
    /// The Jinja chat template.
    pub chat_template: Option<String>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// The tokenizer adds `bos` to plain prompts.
    pub add_bos: bool,
    /// Ids that end an answer, ascending.
    pub eos: Vec<u32>,
    /// The licence that the weights file itself names (GGUF only).
    pub licence: Option<String>,
}

/// Why the text side of a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file could not be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The chat template is too long.
    #[error("{path}: the chat template has {bytes} bytes, more than the limit of {MAX_TEMPLATE_BYTES}")]
    Template {
        /// The model.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The tokenizer has more of something than any tokenizer has.
    #[error("{path}: {source}")]
    TokenizerSize {
        /// The model.
        path: PathBuf,
        /// What it has too much of.
        source: TokenizerError,
    },
    /// The GGUF's vocabulary does not convert.
    #[error("{path}: its tokenizer cannot be used: {source}; use the model's HF directory instead")]
    Tokenizer {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: GgufVocabularyError,
    },
}

impl Checkpoint {
    /// Reads the text side of the model.
    pub fn text(&self) -> Result<TextParts, TextError> {
        let parts = match self.container() {
            Container::Gguf(gguf) => gguf_parts(gguf, self.path())?,
            Container::Safetensors { config } => directory_parts(self.path(), config)?,
        };
        match &parts.chat_template {
            Some(template) if template.len() > MAX_TEMPLATE_BYTES => {
                Err(TextError::Template { path: self.path().to_owned(), bytes: template.len() })
            }
            _ => Ok(parts),
        }
    }
}

impl Checkpoint {
    /// The licence that the files name: for people, and not for the manifest where it stands in a README, which not
    /// every copy of a model has.
    pub fn licence(&self) -> Option<String> {
        match self.container() {
            Container::Gguf(gguf) => {
                gguf.string("general.license").filter(|text| is_label(text)).map(str::to_owned)
            }
            Container::Safetensors { .. } => {
                let bytes = read_small(&self.path().join("README.md"), MAX_README_BYTES).ok()??;
                licence_of_card(&String::from_utf8_lossy(&bytes))
            }
        }
    }
}

/// Largest README that is looked into.
const MAX_README_BYTES: u64 = 1 << 20;

/// `license` in the YAML between two lines `---` at a model card's top; `license_name` where that is `other`.
fn licence_of_card(card: &str) -> Option<String> {
    let mut lines = card.lines();
    lines.next().filter(|line| line.trim_end() == "---")?;
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let value = |key: &str| {
        let value = head.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty() && is_label(value)).then(|| value.to_owned())
    };
    let licence = value("license")?;
    if licence == "other" { value("license_name").or(Some(licence)) } else { Some(licence) }
}

/// Files of an HF directory, beside the weights, that the manifest depends on.
pub(crate) const TEXT_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

fn directory_parts(path: &Path, config: &Map<String, Value>) -> Result<TextParts, TextError> {
    let [tokenizer, tokenizer_config, generation, template] = TEXT_FILES.map(|name| path.join(name));
    let tokenizer_json = read_small(&tokenizer, MAX_TOKENIZER_BYTES)?;
    if let Some(json) = &tokenizer_json {
        check_size(&tokenizer, json)?;
    }
    let tokenizer_config = read_json(&tokenizer_config)?.unwrap_or_default();
    let generation = read_json(&generation)?.unwrap_or_default();
    let template = read_small(&template, MAX_TEMPLATE_BYTES as u64)?
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .or_else(|| template_of(tokenizer_config.get("chat_template")?));
    let mut eos: Vec<u32> =
        [&generation, config].into_iter().flat_map(|map| ids(map.get("eos_token_id"))).collect();
    eos.sort_unstable();
    eos.dedup();
    let add_bos = match tokenizer_config.get("add_bos_token").and_then(Value::as_bool) {
        Some(flag) => flag,
        None => tokenizer_json.as_deref().is_some_and(begins_with_special),
    };
    Ok(TextParts {
        tokenizer_json,
        chat_template: template,
        bos: [&generation, config].into_iter().find_map(|map| ids(map.get("bos_token_id")).first().copied()),
        add_bos,
        eos,
        licence: None,
    })
}

/// A node must not announce a tokenizer that every router refuses.
fn check_size(path: &Path, json: &[u8]) -> Result<(), TextError> {
    Tokenizer::check_json(json).map_err(|source| TextError::TokenizerSize { path: path.to_owned(), source })
}

/// A template is a string, or a list of named ones of which the default counts.
fn template_of(value: &Value) -> Option<String> {
    match value {
        Value::String(template) => Some(template.clone()),
        Value::Array(templates) => {
            let default =
                templates.iter().find(|named| named.get("name").is_some_and(|name| name == "default"));
            default?.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// One id, or a list of ids.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Does this `tokenizer.json` put a special token before a plain text?
fn begins_with_special(tokenizer_json: &[u8]) -> bool {
    fn inner(processor: &Value) -> bool {
        if let Some(processors) = processor.get("processors").and_then(Value::as_array) {
            return processors
                .iter()
                .any(|processor| processor.get("processors").is_none() && inner(processor));
        }
        processor.pointer("/single/0/SpecialToken").is_some()
    }
    // Of a tokenizer of 33 MB only the few values of this part are kept; its size was checked.
    #[derive(Deserialize)]
    struct PostProcessor {
        #[serde(default)]
        post_processor: Value,
    }
    serde_json::from_slice::<PostProcessor>(tokenizer_json)
        .is_ok_and(|tokenizer| inner(&tokenizer.post_processor))
}

fn gguf_parts(gguf: &Gguf, path: &Path) -> Result<TextParts, TextError> {
    let id = |key: &str| gguf.unsigned(key).and_then(|id| u32::try_from(id).ok());
    let mut eos: Vec<u32> =
        ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"]
            .into_iter()
            .filter_map(id)
            .collect();
    eos.sort_unstable();
    eos.dedup();
    let bos = id("tokenizer.ggml.bos_token_id");
    // Without the key, llama.cpp adds BOS for SentencePiece vocabularies only.
    let add_bos = gguf
        .boolean("tokenizer.ggml.add_bos_token")
        .unwrap_or_else(|| gguf.string("tokenizer.ggml.model") == Some("llama"));
    Ok(TextParts {
        tokenizer_json: gguf_tokenizer(gguf, path)?,
        chat_template: gguf.string("tokenizer.chat_template").map(str::to_owned),
        bos,
        add_bos: add_bos && bos.is_some(),
        eos,
        licence: gguf.string("general.license").filter(|text| is_label(text)).map(str::to_owned),
    })
}

/// Whether a manifest takes it as a licence; some files hold the whole text there, and it would be printed.
fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL_BYTES && !text.contains(char::is_control)
}

/// The file's own `tokenizer.json` if it holds one, otherwise its vocabulary converted; `None` when it
/// has neither.
fn gguf_tokenizer(gguf: &Gguf, path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    if let Some(json) = gguf.string("tokenizer.huggingface.json") {
        check_size(path, json.as_bytes())?;
        return Ok(Some(json.as_bytes().to_vec()));
    }
    let Some(model) = gguf.string("tokenizer.ggml.model").filter(|&model| model != "no_vocab") else {
        return Ok(None);
    };
    let id = |key: &str| gguf.unsigned(key).and_then(|id| u32::try_from(id).ok());
    let strings = |key: &str| gguf.strings(key).map(<[String]>::to_vec).unwrap_or_default();
    let scores = match gguf.metadata.get("tokenizer.ggml.scores") {
        Some(GgufValue::Array(Array::Float(scores))) => scores.iter().map(|&score| score as f32).collect(),
        _ => Vec::new(),
    };
    let token_types = match gguf.metadata.get("tokenizer.ggml.token_type") {
        Some(GgufValue::Array(Array::Signed(types))) => {
            types.iter().map(|&kind| i32::try_from(kind).unwrap_or(i32::MAX)).collect()
        }
        Some(GgufValue::Array(Array::Unsigned(types))) => {
            types.iter().map(|&kind| i32::try_from(kind).unwrap_or(i32::MAX)).collect()
        }
        _ => Vec::new(),
    };
    let vocabulary = GgufVocabulary {
        model: model.to_owned(),
        pre: gguf.string("tokenizer.ggml.pre").map(str::to_owned),
        tokens: strings("tokenizer.ggml.tokens"),
        merges: strings("tokenizer.ggml.merges"),
        scores,
        token_types,
        bos: id("tokenizer.ggml.bos_token_id"),
        eos: id("tokenizer.ggml.eos_token_id"),
        unknown: id("tokenizer.ggml.unknown_token_id"),
        add_bos: gguf.boolean("tokenizer.ggml.add_bos_token"),
        add_eos: gguf.boolean("tokenizer.ggml.add_eos_token"),
        add_space_prefix: gguf.boolean("tokenizer.ggml.add_space_prefix"),
    };
    vocabulary
        .to_tokenizer_json()
        .map(Some)
        .map_err(|source| TextError::Tokenizer { path: path.to_owned(), source })
}
