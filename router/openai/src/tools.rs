//! Functions that an answer may call: what the request says of them, how the answer is made to call one, and how calls
//! stand in a model's text.

mod parser;

use std::fmt::Write as _;

use proto::answer::{Grammar, MAX_GRAMMAR_BYTES};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;

pub use parser::{ToolCallParser, ToolPart};

/// A function.
#[derive(Clone, PartialEq, Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    /// As the model's template gets it.
    written: Value,
}

/// The functions of a request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tools {
    /// In the order given.
    pub list: Vec<Tool>,
    /// Which of them may or must be called.
    pub choice: ToolChoice,
    /// Several at once may be called.
    pub parallel: bool,
}

/// Which functions may or must be called.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ToolChoice {
    /// None.
    #[default]
    None,
    /// As the model likes.
    Auto,
    /// Any, but at least one.
    Required,
    /// This one.
    Named(String),
}

/// How calls stand in a model's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToolFormat {
    /// `<tool_call>{"name": .., "arguments": ..}</tool_call>`: Hermes, Qwen, and whoever has no format of its own.
    Tagged,
    /// The whole text is `{"name": .., "parameters": ..}`: Llama 3.
    Bare,
    /// `[TOOL_CALLS][{"name": .., "arguments": ..}]`: Mistral.
    Listed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenTool {
    r#type: String,
    function: Option<WrittenFunction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFunction {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Value>,
    #[serde(default, rename = "strict")]
    _strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum WrittenChoice {
    Word(String),
    Named { r#type: String, function: NamedFunction },
}

#[derive(Deserialize)]
pub(crate) struct NamedFunction {
    name: String,
}

/// A call of an earlier answer, as clients send it back.
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenCall {
    id: String,
    r#type: String,
    function: WrittenCallFunction,
    #[serde(default, rename = "index")]
    _index: Option<u32>,
}

#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct WrittenCallFunction {
    name: String,
    arguments: String,
}

/// Functions of a request, as in the API.
pub(crate) const MAX_TOOLS: usize = 128;
/// As in the API.
const MAX_NAME: usize = 64;

impl Tools {
    pub(crate) fn check(
        given: Option<Vec<WrittenTool>>,
        choice: Option<WrittenChoice>,
        parallel: Option<bool>,
    ) -> Result<Self, ApiError> {
        let list = given.unwrap_or_default().into_iter().enumerate().map(|(index, tool)| tool.check(index));
        let list = list.collect::<Result<Vec<Tool>, ApiError>>()?;
        if let Some(index) = (1..list.len()).find(|&index| list[..index].iter().any(|t| t.name == list[index].name)) {
            let name = &list[index].name;
            return Err(ApiError::value(&format!("tools[{index}].function.name"), format_args!("`{name}` stands twice")));
        }
        let wrong = |why: String| Err(ApiError::value("tool_choice", why));
        let choice = match choice {
            None if list.is_empty() => ToolChoice::None,
            None => ToolChoice::Auto,
            Some(WrittenChoice::Word(word)) => match &word[..] {
                "none" => ToolChoice::None,
                "auto" if list.is_empty() => ToolChoice::None,
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                _ => return wrong("one of none, auto, required, or an object that names a function".into()),
            },
            Some(WrittenChoice::Named { r#type, function }) if r#type == "function" => {
                if list.iter().all(|tool| tool.name != function.name) {
                    let name: String = function.name.chars().take(MAX_NAME).collect();
                    return wrong(format!("`{name}` is none of `tools`"));
                }
                ToolChoice::Named(function.name)
            }
            Some(WrittenChoice::Named { .. }) => return wrong("only functions can be named".into()),
        };
        if choice == ToolChoice::Required && list.is_empty() {
            return wrong("a call is asked for, but `tools` is empty".into());
        }
        Ok(Self { list, choice, parallel: parallel.unwrap_or(true) })
    }

    /// Whether the text is to be searched for calls.
    pub fn may_call(&self) -> bool {
        self.choice != ToolChoice::None
    }

    /// Whether the answer is a call and nothing else.
    pub fn must_call(&self) -> bool {
        matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_))
    }

    /// As a template gets them; none where none may be called.
    pub fn for_template(&self) -> Vec<Value> {
        if self.may_call() { self.list.iter().map(|tool| tool.written.clone()).collect() } else { Vec::new() }
    }

    /// What a system message says of them where the model's template does not.
    pub fn as_text(&self) -> String {
        let mut text = String::from(
            "You can call functions. To call one, answer with nothing but\n<tool_call>\n{\"name\": NAME, \"arguments\": \
             OBJECT}\n</tool_call>\nThe functions, as JSON:\n",
        );
        for tool in self.for_template() {
            // Into a string: this can't fail.
            let _ = writeln!(text, "{tool}");
        }
        text
    }

    /// Which texts an answer that must call may be.
    pub fn grammar(&self, format: ToolFormat) -> Result<Option<Grammar>, ApiError> {
        if !self.must_call() {
            return Ok(None);
        }
        let wanted = |tool: &&Tool| match &self.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let calls: Vec<Value> = self.list.iter().filter(wanted).map(|tool| call_schema(tool, format)).collect();
        let call = json!({"anyOf": calls, "x-guidance": {"whitespace_flexible": false}});
        let list = json!({
            "type": "array", "items": call, "minItems": 1, "x-guidance": {"whitespace_flexible": false},
        });
        let several = if self.parallel { "(\"\\n\" one){0,15}" } else { "" };
        let lark = match format {
            ToolFormat::Tagged => format!(
                "start: one {several}\none: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json {call}\n"
            ),
            ToolFormat::Bare => format!("start: call\ncall: %json {call}\n"),
            ToolFormat::Listed => format!("start: <[TOOL_CALLS]> list\nlist: %json {list}\n"),
        };
        if lark.len() > MAX_GRAMMAR_BYTES {
            let bytes = lark.len();
            return Err(ApiError::value("tools", format_args!("{bytes} bytes of schemas, at most {MAX_GRAMMAR_BYTES}")));
        }
        Ok(Some(Grammar::Lark(lark)))
    }
}

fn call_schema(tool: &Tool, format: ToolFormat) -> Value {
    let arguments = format.arguments();
    json!({
        "type": "object",
        "properties": {"name": {"const": tool.name}, arguments: tool.parameters},
        "required": ["name", arguments],
        "additionalProperties": false,
    })
}

impl ToolFormat {
    /// The format of a model, by its template's text.
    pub fn of_template(template: Option<&str>) -> Self {
        let says = |word: &str| template.is_some_and(|template| template.contains(word));
        if says("[TOOL_CALLS]") {
            Self::Listed
        } else if says("<|python_tag|>") || (says("ipython") && !says("<tool_call>")) {
            Self::Bare
        } else {
            Self::Tagged
        }
    }

    /// Special tokens that are part of it.
    pub const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Tagged => &["<tool_call>", "</tool_call>"],
            Self::Bare => &["<|python_tag|>"],
            Self::Listed => &["[TOOL_CALLS]", "[ARGS]"],
        }
    }

    const fn arguments(self) -> &'static str {
        match self {
            Self::Bare => "parameters",
            Self::Tagged | Self::Listed => "arguments",
        }
    }
}

impl WrittenTool {
    fn check(self, index: usize) -> Result<Tool, ApiError> {
        let at = |field: &str| format!("tools[{index}].{field}");
        if self.r#type != "function" {
            return Err(ApiError::unsupported(&at("type"), "only functions are served here"));
        }
        let Some(function) = self.function else {
            return Err(ApiError::value(&at("function"), "it is missing"));
        };
        let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if function.name.is_empty() || function.name.len() > MAX_NAME || !function.name.chars().all(named) {
            let why = format_args!("1 to {MAX_NAME} letters, digits, `_` or `-`");
            return Err(ApiError::value(&at("function.name"), why));
        }
        let parameters = function.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        if !parameters.is_object() {
            return Err(ApiError::value(&at("function.parameters"), "a schema is a JSON object"));
        }
        let mut written = Map::new();
        written.insert("name".into(), function.name.clone().into());
        if let Some(description) = function.description {
            written.insert("description".into(), description.into());
        }
        written.insert("parameters".into(), parameters.clone());
        let written = json!({"type": "function", "function": written});
        Ok(Tool { name: function.name, parameters, written })
    }
}

impl WrittenCall {
    /// Arguments as the object that they are: templates write them as JSON themselves.
    pub(crate) fn into_template_value(self) -> Value {
        let arguments = serde_json::from_str::<Map<String, Value>>(&self.function.arguments);
        let arguments = arguments.map_or_else(|_| Value::String(self.function.arguments.clone()), Value::Object);
        json!({"id": self.id, "type": self.r#type, "function": {"name": self.function.name, "arguments": arguments}})
    }
}

#[cfg(test)]
mod tests;
