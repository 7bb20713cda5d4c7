//! A model as the router needs it: manifest, tokenizer and chat template, and how a prompt becomes ids.

use std::sync::Arc;
use std::time::Duration;

use proto::ModelId;
use proto::manifest::{Manifest, ManifestError};
use proto_text::{
    ChatInput, ChatMessage, ChatOptions, ChatTemplate, EncodeMode, TemplateError, Tokenizer, TokenizerError,
};

/// A model with its text side.
#[derive(Clone, Debug)]
pub struct Model {
    id: ModelId,
    name: String,
    manifest: Arc<Manifest>,
    tokenizer: Option<Arc<Tokenizer>>,
}

/// What is to be continued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Prompt {
    /// Text as it is; BOS in front only if the manifest says so.
    Text(String),
    /// A conversation, put into the model's template.
    Chat(Vec<ChatMessage>),
    /// Ids as they are.
    TokenIds(Vec<u32>),
}

/// A conversation with what templates are told beside it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Conversation {
    /// The turns, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Tools that may be called, as OpenAI's API has them.
    pub tools: Vec<serde_json::Value>,
    /// Further variables of the template.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// Whether it ends with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
}

/// Why a prompt can't be turned into ids.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The model has no tokenizer.
    #[error("model {0} has no tokenizer: give --token-ids")]
    NoTokenizer(String),
    /// The model has no chat template.
    #[error("model {0} has no chat template: leave --chat out")]
    NoTemplate(String),
    /// The template does not work.
    #[error("apply the chat template of {model}: {source}")]
    Template {
        /// The model.
        model: String,
        /// Why.
        source: TemplateError,
    },
    /// Rendering or tokenising goes on and on.
    #[error(
        "turn the prompt into tokens: the chat template or the tokenizer of {model} did not come to an end within \
         {} s; use another model, or give --token-ids",
        ENCODE_DEADLINE.as_secs()
    )]
    Slow {
        /// The model.
        model: String,
    },
    /// Rendering or tokenising broke down.
    #[error("turn the prompt into tokens: the chat template or the tokenizer of {model} breaks: {why}")]
    Broken {
        /// The model.
        model: String,
        /// What happened to the thread.
        why: String,
    },
    /// The text can't be encoded.
    #[error("encode the prompt: {0}")]
    Encode(#[from] TokenizerError),
    /// Nothing to begin with.
    #[error("the prompt is empty: give at least one token")]
    Empty,
    /// An id that the model does not have.
    #[error("token id {id} is outside the vocabulary of {model}, which has {vocab} entries")]
    Id {
        /// The id.
        id: u32,
        /// The model.
        model: String,
        /// Its entries.
        vocab: u32,
    },
    /// No tokens could be as few.
    #[error(
        "the prompt has {bytes} bytes of text, but the context of {model} is {context}, which holds {most} at most"
    )]
    TextTooLong {
        /// Bytes of the prompt in the model's template.
        bytes: usize,
        /// What the longest tokens would hold.
        most: usize,
        /// The model.
        model: String,
        /// Positions of its context.
        context: u32,
    },
    /// No room for the prompt and one more token.
    #[error("the prompt has {prompt} tokens, but the context of {model} is {context}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The model.
        model: String,
        /// Positions of its context.
        context: u32,
    },
}

/// Why the pieces of a model do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The manifest is not one.
    #[error("read the manifest of {name}: {source}")]
    Manifest {
        /// The model.
        name: String,
        /// Why.
        source: ManifestError,
    },
    /// The tokenizer can't be read.
    #[error("read the tokenizer of {name}: {source}")]
    Tokenizer {
        /// The model.
        name: String,
        /// Why.
        source: TokenizerError,
    },
}

impl Model {
    /// Puts a model together. `tokenizer` are the bytes of a `tokenizer.json`.
    pub fn new(
        id: ModelId,
        name: String,
        manifest: Manifest,
        tokenizer: Option<&[u8]>,
    ) -> Result<Self, ModelError> {
        let tokenizer = tokenizer
            .map(Tokenizer::from_json)
            .transpose()
            .map_err(|source| ModelError::Tokenizer { name: name.clone(), source })?
            .map(Arc::new);
        Ok(Self { id, name, manifest: Arc::new(manifest), tokenizer })
    }

    /// BLAKE3 of the manifest.
    pub const fn id(&self) -> ModelId {
        self.id
    }

    /// The name it was asked for by, or is announced under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the model is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its tokenizer, if it has one.
    pub const fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// Positions a session may have.
    pub fn context(&self) -> u32 {
        self.manifest.architecture.context.min(proto::session::MAX_POSITIONS)
    }

    /// Its chat template, if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.manifest.chat_template.as_deref()
    }

    /// A conversation in the model's template, and the ids of that; as [`Model::encode`] otherwise.
    pub fn encode_conversation(
        &self,
        conversation: &Conversation,
        now_unix_s: u64,
    ) -> Result<(String, Vec<u32>), PromptError> {
        let text = self.render(conversation, now_unix_s)?;
        let ids = self.checked(self.tokens_of(&text)?)?;
        Ok((text, ids))
    }

    /// The ids of a text, perhaps none. `special`: as a prompt's, with the model's own beginning; otherwise nothing in
    /// it is special.
    pub fn tokens(&self, text: &str, special: bool) -> Result<Vec<u32>, PromptError> {
        if special {
            self.encode_text(text)
        } else {
            Ok(self.need_tokenizer()?.encode(text, EncodeMode::Plain)?)
        }
    }

    /// The ids of a prompt; at least one, all known to the model, with room for one more. `now_unix_s` is for
    /// templates that print the date.
    pub fn encode(&self, prompt: &Prompt, now_unix_s: u64) -> Result<Vec<u32>, PromptError> {
        let ids = match prompt {
            Prompt::Text(text) => self.encode_text(text)?,
            Prompt::Chat(messages) => self.encode_chat(messages, now_unix_s)?,
            Prompt::TokenIds(ids) => ids.clone(),
        };
        self.checked(ids)
    }

    fn checked(&self, ids: Vec<u32>) -> Result<Vec<u32>, PromptError> {
        let vocab = self.manifest.architecture.vocab;
        if let Some(&id) = ids.iter().find(|&&id| id >= vocab) {
            return Err(PromptError::Id { id, model: self.name.clone(), vocab });
        }
        if ids.is_empty() {
            return Err(PromptError::Empty);
        }
        let context = self.context();
        if ids.len() >= context as usize {
            return Err(PromptError::TooLong { prompt: ids.len(), model: self.name.clone(), context });
        }
        Ok(ids)
    }

    /// As [`Model::encode`], on another thread and with a deadline: template and tokenizer are a stranger's, and
    /// connections must not starve meanwhile. A thread that is given up ends by its own limits; `held` is dropped when
    /// it has, not before.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; the thread's result is dropped.
    pub async fn encode_aside(
        &self,
        prompt: Prompt,
        now_unix_s: u64,
        held: impl Send + 'static,
    ) -> Result<Vec<u32>, PromptError> {
        if matches!(prompt, Prompt::TokenIds(_)) {
            return self.encode(&prompt, now_unix_s);
        }
        self.aside(held, move |model| model.encode(&prompt, now_unix_s)).await
    }

    /// Runs a stranger's template or tokenizer on another thread and with a deadline, as [`Model::encode_aside`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; the thread's result is dropped.
    pub async fn aside<T: Send + 'static>(
        &self,
        held: impl Send + 'static,
        work: impl FnOnce(&Self) -> Result<T, PromptError> + Send + 'static,
    ) -> Result<T, PromptError> {
        let model = self.clone();
        let encoding = tokio::task::spawn_blocking(move || {
            let done = work(&model);
            drop(held);
            done
        });
        match tokio::time::timeout(ENCODE_DEADLINE, encoding).await {
            Ok(Ok(encoded)) => encoded,
            Ok(Err(error)) => Err(PromptError::Broken { model: self.name.clone(), why: error.to_string() }),
            Err(_) => Err(PromptError::Slow { model: self.name.clone() }),
        }
    }

    fn encode_text(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let mut ids = self.tokens_of(text)?;
        if let Some(bos) = self.manifest.bos.filter(|_| self.manifest.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn encode_chat(&self, messages: &[ChatMessage], now_unix_s: u64) -> Result<Vec<u32>, PromptError> {
        let messages = messages.to_vec();
        let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
        self.tokens_of(&self.render(&conversation, now_unix_s)?)
    }

    fn render(&self, conversation: &Conversation, now_unix_s: u64) -> Result<String, PromptError> {
        let tokenizer = self.need_tokenizer()?;
        let source = self
            .manifest
            .chat_template
            .as_deref()
            .ok_or_else(|| PromptError::NoTemplate(self.name.clone()))?;
        let content = |id: Option<u32>| id.and_then(|id| tokenizer.token_content(id));
        let (bos, eos) = (content(self.manifest.bos), content(self.manifest.eos.first().copied()));
        let input = ChatInput {
            messages: &conversation.messages,
            add_generation_prompt: conversation.add_generation_prompt,
            bos: bos.as_deref(),
            eos: eos.as_deref(),
            now: i64::try_from(now_unix_s).ok(),
        };
        let options = ChatOptions { tools: &conversation.tools, variables: Some(&conversation.variables) };
        ChatTemplate::new(source)
            .and_then(|template| template.render_with(input, options))
            .map_err(|source| PromptError::Template { model: self.name.clone(), source })
    }

    /// Special tokens are what the text says: a template writes them itself. A text that no context holds is not looked
    /// at.
    fn tokens_of(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let (tokenizer, context) = (self.need_tokenizer()?, self.context());
        let most = tokenizer.longest_text(context);
        if text.len() > most {
            let (bytes, model) = (text.len(), self.name.clone());
            return Err(PromptError::TextTooLong { bytes, most, model, context });
        }
        Ok(tokenizer.encode(text, EncodeMode::Markup)?)
    }

    fn need_tokenizer(&self) -> Result<&Tokenizer, PromptError> {
        self.tokenizer.as_deref().ok_or_else(|| PromptError::NoTokenizer(self.name.clone()))
    }
}

/// A prompt that fills the longest context is tokenised in well under a second.
const ENCODE_DEADLINE: Duration = Duration::from_secs(5);

/// A model for tests.
#[cfg(test)]
pub(crate) mod testing {
    use proto::manifest::Architecture;

    use super::*;

    /// Four layers, a hundred ids, no tokenizer.
    pub(crate) fn toy() -> Model {
        let architecture = Architecture {
            family: "toy".into(),
            n_layers: 4,
            hidden: 8,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            ffn: 8,
            vocab: 100,
            context: 16,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tied_head: true,
            window: None,
            local_rope_theta: None,
            query_scalar: None,
            experts: None,
        };
        let manifest = Manifest {
            format: 1,
            architecture,
            quantisation: "F32".into(),
            container: "safetensors".into(),
            bos: None,
            add_bos: false,
            eos: vec![2],
            tokenizer: None,
            chat_template: None,
            licence: None,
            tensors: Vec::new(),
        };
        Model::new(manifest.model_id(), "toy".into(), manifest, None).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::toy;
    use super::*;

    fn error(prompt: &Prompt) -> String {
        toy().encode(prompt, 0).unwrap_err().to_string()
    }

    #[test]
    fn token_ids_are_used_as_they_are() {
        assert_eq!(toy().encode(&Prompt::TokenIds(vec![5, 6]), 0).unwrap(), [5, 6]);
    }

    #[tokio::test]
    async fn bad_prompts_are_told_from_the_other_thread_too() {
        let error = toy().encode_aside(Prompt::Text("hi".into()), 0, ()).await.unwrap_err();
        assert!(matches!(error, PromptError::NoTokenizer(_)));
        assert_eq!(toy().encode_aside(Prompt::TokenIds(vec![5]), 0, ()).await.unwrap(), [5]);
    }

    #[test]
    fn bad_prompts_are_named_with_their_numbers() {
        assert_eq!(
            error(&Prompt::TokenIds(vec![1; 16])),
            "the prompt has 16 tokens, but the context of toy is 16"
        );
        assert!(error(&Prompt::TokenIds(vec![100])).contains("token id 100"));
        assert!(error(&Prompt::TokenIds(vec![])).contains("empty"));
        assert!(error(&Prompt::Text("hi".into())).contains("no tokenizer"));
    }
}
