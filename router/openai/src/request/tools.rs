//! Tools that a model may call, and which of them it must.

use serde_json::{Value, json};

use super::constraint::MAX_SCHEMA_BYTES;
use super::generation::MAX_FIELDS;
use crate::error::{ApiError, ErrorCode, Quote};
use crate::read::{Json, Kind, Object};

/// The tools of a request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tools {
    /// All of them; names are unique.
    pub list: Vec<Tool>,
    /// Which must be called.
    pub choice: ToolChoice,
    /// Whether an answer may call several.
    pub parallel: bool,
}

/// A function that a model may call.
#[derive(Clone, PartialEq, Debug)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Option<Value>,
    /// As templates see it: `{"type":"function","function":{..}}`.
    pub definition: Value,
}

/// Whether tools are called.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ToolChoice {
    /// None: the answer is text, and what looks like a call is text too.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl Tools {
    /// What templates are told; nothing when none may be called.
    pub fn definitions(&self) -> Vec<Value> {
        match self.choice {
            ToolChoice::None => Vec::new(),
            _ => self.list.iter().map(|tool| tool.definition.clone()).collect(),
        }
    }

    /// Whether calls are looked for in the model's text.
    pub fn may_be_called(&self) -> bool {
        !self.list.is_empty() && self.choice != ToolChoice::None
    }

    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(super) fn read(body: &Object<'_, '_>, shape: ToolShape) -> Result<Self, ApiError> {
        let list = body.read("tools", |json| tools(json, shape))?.unwrap_or_default();
        let parallel = body.read("parallel_tool_calls", |json| json.boolean())?.unwrap_or(true);
        let Some(json) = body.get("tool_choice") else {
            return Ok(Self { list, choice: ToolChoice::Auto, parallel });
        };
        let choice = choice(json, shape)?;
        match &choice {
            ToolChoice::Required if list.is_empty() => {
                Err(json.error(ErrorCode::Conflict, "there are no `tools` to call; give some"))
            }
            ToolChoice::Named(name) if !list.iter().any(|tool| tool.name == *name) => {
                Err(json.invalid(format_args!("there is no {} among `tools`; add it", Quote(name))))
            }
            _ => Ok(Self { list, choice, parallel }),
        }
    }
}

/// How an endpoint writes tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ToolShape {
    /// `{"type":"function","function":{"name":..}}`, of chat completions.
    Nested,
    /// `{"type":"function","name":..}`, of responses.
    Flat,
}

fn tools(json: Json<'_, '_>, shape: ToolShape) -> Result<Vec<Tool>, ApiError> {
    if json.source().len() > MAX_TOOLS_BYTES {
        let bytes = json.source().len();
        return Err(
            json.invalid(format_args!("they have {bytes} bytes, but at most {MAX_TOOLS_BYTES} are taken"))
        );
    }
    let mut list: Vec<Tool> = Vec::new();
    for json in json.list(MAX_TOOLS)?.iter() {
        let tool = tool(json, shape)?;
        if list.iter().any(|other| other.name == tool.name) {
            return Err(
                json.invalid(format_args!("{} is there twice; give it another name", Quote(&tool.name)))
            );
        }
        list.push(tool);
    }
    Ok(list)
}

fn tool(json: Json<'_, '_>, shape: ToolShape) -> Result<Tool, ApiError> {
    let outer = json.object(MAX_FIELDS)?;
    let kind = outer.need("type")?;
    if kind.text()? != "function" {
        return Err(kind
            .unsupported(format_args!("it is {}, but only `function` is supported", Quote(&kind.text()?))));
    }
    if shape == ToolShape::Flat {
        outer.only(&["type", "name", "description", "parameters", "strict", "cache_control"])?;
        return function(&outer);
    }
    outer.only(&["type", "function", "cache_control"])?;
    let inner = outer.need("function")?.object(MAX_FIELDS)?;
    inner.only(&["name", "description", "parameters", "strict", "cache_control"])?;
    function(&inner)
}

fn function(fields: &Object<'_, '_>) -> Result<Tool, ApiError> {
    let name = function_name(fields.need("name")?)?;
    let description = fields.read("description", |json| json.text())?;
    let parameters = fields.read("parameters", |json| json.object_tree(MAX_SCHEMA_BYTES))?.map(Value::Object);
    // Arguments are held to their schema whenever a call is certain, and never otherwise.
    fields.read("strict", |json| json.boolean())?;
    let mut function = json!({ "name": name });
    if let Some(description) = description {
        function["description"] = json!(description);
    }
    if let Some(parameters) = &parameters {
        function["parameters"] = parameters.clone();
    }
    let definition = json!({"type": "function", "function": function});
    Ok(Tool { name, parameters, definition })
}

/// A function's name as OpenAI's API has it.
pub(super) fn function_name(json: Json<'_, '_>) -> Result<String, ApiError> {
    let name = json.text()?;
    if is_function_name(&name) {
        return Ok(name.into_owned());
    }
    Err(json.invalid(format_args!(
        "{} is no name of a function; 1 to {MAX_FUNCTION_NAME} letters, digits, `_` and `-` are",
        Quote(&name)
    )))
}

/// Whether a text may be a function's name.
pub(crate) fn is_function_name(name: &str) -> bool {
    (1..=MAX_FUNCTION_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn choice(json: Json<'_, '_>, shape: ToolShape) -> Result<ToolChoice, ApiError> {
    match json.kind() {
        Kind::Text => match &*json.text()? {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" => Ok(ToolChoice::Required),
            other => Err(json.invalid(format_args!(
                "it is {}, but one of `none`, `auto`, `required` or an object that names a function is needed",
                Quote(other)
            ))),
        },
        Kind::Object => {
            let outer = json.object(MAX_FIELDS)?;
            let kind = outer.need("type")?;
            if kind.text()? != "function" {
                let told = kind.text()?;
                return Err(kind.unsupported(format_args!("it is {}, but only `function` is supported", Quote(&told))));
            }
            if shape == ToolShape::Flat {
                outer.only(&["type", "name"])?;
                return function_name(outer.need("name")?).map(ToolChoice::Named);
            }
            outer.only(&["type", "function"])?;
            let inner = outer.need("function")?.object(MAX_FIELDS)?;
            inner.only(&["name"])?;
            function_name(inner.need("name")?).map(ToolChoice::Named)
        }
        _ => Err(json.wrong_type("a string or an object")),
    }
}

/// As many as OpenAI's API takes.
pub(crate) const MAX_TOOLS: usize = 128;
/// All definitions together, as JSON: they become part of the prompt, of which this is more than half a long context.
pub(crate) const MAX_TOOLS_BYTES: usize = 256 << 10;
/// As in OpenAI's API.
pub(crate) const MAX_FUNCTION_NAME: usize = 64;
