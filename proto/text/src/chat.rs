//! Chat templates: Jinja as models bring it, rendered with the idioms of Hugging Face's `apply_chat_template`.
//!
//! A template is a program by a stranger. It gets fuel (instructions), a budget for the bytes it touches (`metered`),
//! a recursion limit, a limit on its own size and one on its output, and sees nothing but the conversation.

mod date;
mod json;
mod message;
mod metered;
mod python_methods;

use std::sync::Arc;

use minijinja::machinery::{CompiledTemplate, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use metered::Meter;
use proto::manifest::MAX_TEMPLATE_BYTES;

pub use message::{ChatMessage, ToolCall};

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
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

/// What a template is told beyond the conversation; `Default` is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatOptions<'a> {
    /// Tools that the model may call, each as OpenAI's API has it: `{"type":"function","function":{..}}`.
    pub tools: &'a [serde_json::Value],
    /// Further variables, such as `enable_thinking`. Those of the conversation itself can't be replaced by them.
    pub variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
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
    /// No thread to render on.
    #[error("start a thread for the chat template: {0}")]
    Thread(#[source] std::io::Error),
    /// The engine broke down over it.
    #[error("the chat template breaks the template engine")]
    Panicked,
    /// Any other failure.
    #[error("the chat template fails: {0}")]
    Render(#[source] Error),
}

impl ChatTemplate {
    /// Compiles `source`, the `chat_template` of a model.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge { bytes: source.len(), limit: MAX_TEMPLATE_BYTES });
        }
        let syntax = syntax().map_err(TemplateError::Syntax)?;
        let source = metered::without_constant_products(&without_generation_tags(source), &syntax)
            .map_err(TemplateError::Syntax)?;
        compile(&source).map_err(TemplateError::Syntax)?;
        Ok(Self { source })
    }

    /// The prompt for a conversation. BOS is part of it only where the template writes it, so it is to be encoded
    /// with [`EncodeMode::Markup`](crate::EncodeMode::Markup).
    ///
    /// Blocks for up to a second with a hostile template.
    pub fn render(&self, input: ChatInput<'_>) -> Result<String, TemplateError> {
        self.render_with(input, ChatOptions::default())
    }

    /// As [`ChatTemplate::render`], for a conversation with tools or with variables of its own.
    pub fn render_with(
        &self,
        input: ChatInput<'_>,
        options: ChatOptions<'_>,
    ) -> Result<String, TemplateError> {
        // Lists in lists, as deep as there is fuel, are dropped level by level: on its own, large stack.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
            let rendering = thread
                .spawn_scoped(scope, || self.render_here(input, options))
                .map_err(TemplateError::Thread)?;
            rendering.join().unwrap_or(Err(TemplateError::Panicked))
        })
    }

    fn render_here(&self, input: ChatInput<'_>, options: ChatOptions<'_>) -> Result<String, TemplateError> {
        let calls: usize = input.messages.iter().map(|message| message.tool_calls.len()).sum();
        let mut environment = environment(input.messages.len() + calls + options.tools.len());
        if let Some(now) = input.now {
            environment.add_function("strftime_now", move |format: String| date::format(now, &format));
        }
        let context = context(input, options);
        let template = compile(&self.source).map_err(TemplateError::Syntax)?;
        let mut text = String::new();
        let rendered = {
            let mut output = make_string_output(&mut text);
            let (instructions, blocks) = (&template.instructions, &template.blocks);
            eval(&environment, instructions, context, blocks, &mut output, AutoEscape::None).map(drop)
        };
        if text.len() > MAX_OUTPUT_BYTES {
            return Err(TemplateError::OutputTooLong { limit: MAX_OUTPUT_BYTES });
        }
        match rendered {
            Ok(()) => Ok(text),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(TemplateError::OutOfFuel),
            Err(error) => Err(raised(&error).map_or(TemplateError::Render(error), TemplateError::Raised)),
        }
    }
}

/// What the template sees, as `apply_chat_template` names it.
fn context(input: ChatInput<'_>, options: ChatOptions<'_>) -> Value {
    let messages: Vec<Value> = input.messages.iter().map(ChatMessage::to_value).collect();
    let token = |token: Option<&str>| Value::from(token.unwrap_or_default());
    // Templates tell no tools from an empty list by `none`.
    let tools = match options.tools {
        [] => Value::from(()),
        tools => tools.iter().map(json::from_json).collect(),
    };
    let own = [
        ("messages", Value::from(messages)),
        ("add_generation_prompt", Value::from(input.add_generation_prompt)),
        ("bos_token", token(input.bos)),
        ("eos_token", token(input.eos)),
        ("tools", tools),
        ("documents", Value::from(())),
    ];
    let variables = options.variables.into_iter().flatten();
    let variables = variables.map(|(name, value)| (name.as_str(), json::from_json(value)));
    Value::from_pairs(variables.chain(own))
}

/// An engine for one rendering, with a full budget. `turns`: messages, calls and tools, each of which it pays for.
fn environment(turns: usize) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_recursion_limit(RECURSION);
    environment.set_fuel(Some(MOST_FUEL.min(FUEL + FUEL_OF_A_TURN * turns as u64)));
    environment.set_unknown_method_callback(python_methods::call);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    environment.add_filter("tojson", |value: Value, options: Kwargs| json::to_json(&value, &options));
    metered::install(&mut environment, &Arc::new(Meter::new()));
    environment
}

/// The instructions of a template, metered.
fn compile(source: &str) -> Result<CompiledTemplate<'_>, Error> {
    let config =
        TemplateConfig { syntax_config: syntax()?, default_auto_escape: Arc::new(|_| AutoEscape::None) };
    let mut template = CompiledTemplate::new(NAME, source, &config)?;
    metered::meter(&mut template)?;
    Ok(template)
}

/// The whitespace rules of `apply_chat_template`.
fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
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

/// As much as the tokenizer takes.
const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// Templates with tool schemas take some thousand instructions; metering doubles that.
const FUEL: u64 = 100_000;

/// About 100 instructions are usual, and metering doubles that.
const FUEL_OF_A_TURN: u64 = 300;

/// A conversation of 3,000 messages.
const MOST_FUEL: u64 = 1_000_000;

/// Each level of a nest of lists takes an instruction to make and some 300 bytes of stack to drop. Only what is used
/// is ever backed by memory.
const STACK_BYTES: usize = 512 << 20;

/// Templates nest some ten levels; a macro call counts as several.
const RECURSION: usize = 100;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tools;
