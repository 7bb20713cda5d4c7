//! Chat templates: Jinja as models bring it, rendered with the idioms of Hugging Face's `apply_chat_template`.
//!
//! A template is a program by a stranger. It gets fuel (instructions), a recursion limit, a limit on its own size
//! and one on its output, and sees nothing but the conversation. One hole is known: a loop that doubles a string
//! *variable* is stopped by nothing but memory, since the engine has no limit there.

mod date;
mod json;
mod output;
mod python_methods;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use output::BoundedOutput;

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What a template is rendered with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatInput<'a> {
    /// The conversation, oldest first.
    pub messages: &'a [ChatMessage],
    /// Whether to end with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Content of the BOS token, if the model has one.
    pub bos: Option<&'a str>,
    /// Content of the EOS token, if the model has one.
    pub eos: Option<&'a str>,
    /// Seconds since 1970, UTC, for templates that print the date. Without it they take their own default or fail.
    pub now: Option<i64>,
}

/// Why a template can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// More bytes than any chat template has.
    #[error("the chat template has {bytes} bytes, but at most {limit} are read")]
    TooLarge {
        /// Size given.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// Not a template.
    #[error("the chat template can't be read: {0}")]
    Syntax(#[source] Error),
    /// The template itself refused the conversation, by `raise_exception`.
    #[error("the chat template refuses the conversation: {0}")]
    Raised(String),
    /// It needs more steps than any chat template does.
    #[error("the chat template takes too long")]
    OutOfFuel,
    /// It wrote more than any context holds.
    #[error("the chat template writes more than {limit} bytes")]
    OutputTooLong {
        /// Size allowed.
        limit: usize,
    },
    /// Any other failure.
    #[error("the chat template fails: {0}")]
    Render(#[source] Error),
}

impl ChatMessage {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl ChatTemplate {
    /// Compiles `source`, the `chat_template` of a model.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge { bytes: source.len(), limit: MAX_TEMPLATE_BYTES });
        }
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(TemplateError::Syntax)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_recursion_limit(RECURSION);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python_methods::call);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised by the template")
                .with_source(Raised(message)))
        });
        environment.add_filter("tojson", |value: Value, options: Kwargs| json::to_json(&value, &options));
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(TemplateError::Syntax)?;
        Ok(Self { environment })
    }

    /// The prompt for a conversation. BOS is part of it only where the template writes it, so it is to be encoded
    /// with [`EncodeMode::Markup`](crate::EncodeMode::Markup).
    pub fn render(&self, input: ChatInput<'_>) -> Result<String, TemplateError> {
        let mut environment = self.environment.clone();
        if let Some(now) = input.now {
            environment.add_function("strftime_now", move |format: String| date::format(now, &format));
        }
        let messages: Vec<Value> = input
            .messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
            .collect();
        let token = |token: Option<&str>| Value::from(token.unwrap_or_default());
        let context = Value::from_pairs([
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("bos_token", token(input.bos)),
            ("eos_token", token(input.eos)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        let template = environment.get_template(NAME).map_err(TemplateError::Render)?;
        let mut output = BoundedOutput::new(MAX_OUTPUT_BYTES);
        let rendered = template.render_captured_to(context, &mut output).map(|_| ());
        if output.overflowed() {
            return Err(TemplateError::OutputTooLong { limit: MAX_OUTPUT_BYTES });
        }
        match rendered {
            Ok(()) => Ok(output.into_text()),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(TemplateError::OutOfFuel),
            Err(error) => Err(raised(&error).map_or(TemplateError::Render(error), TemplateError::Raised)),
        }
    }
}

/// What a template said with `raise_exception`, wherever in the chain of errors it stands.
fn raised(error: &Error) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        next = error.source();
    }
    None
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// `{% generation %}` marks the assistant's part for training and prints nothing: it becomes a block that is
/// always taken, which keeps the whitespace rules of tags.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}") else { break };
        let tag = &rest[start + 2..][..length];
        let name = tag.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        let instead = match name {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..start + 2]);
        match instead {
            Some(instead) => out.push_str(&tag.replacen(name, instead, 1)),
            None => out.push_str(tag),
        }
        rest = &rest[start + 2 + length..];
    }
    out.push_str(rest);
    out
}

const NAME: &str = "chat_template";

/// The largest in use, with tool schemas, have about 20 kB.
const MAX_TEMPLATE_BYTES: usize = 128 << 10;

/// As much as the tokenizer takes.
const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// About 100 instructions per message and a conversation of 10,000 messages; some 100 ms.
const FUEL: u64 = 1_000_000;

/// Templates nest some ten levels; a macro call counts as several.
const RECURSION: usize = 100;

#[cfg(test)]
mod tests;
