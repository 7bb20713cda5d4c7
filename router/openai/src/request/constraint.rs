//! What the answer's text must look like. The grammar itself is followed elsewhere, at the tail; here is what it says.

use proto::answer::MAX_GRAMMAR_BYTES;
use serde_json::{Map, Value, json};

use super::generation::MAX_FIELDS;
use super::tools::{Tool, ToolChoice, Tools};
use crate::error::{ApiError, ErrorCode, Quote};
use crate::read::{Json, Object};

/// What the answer's text must look like.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Constraint {
    /// Anything.
    #[default]
    None,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema takes.
    JsonSchema(Value),
    /// A call of a tool, written as [`ToolFormat::Json`](crate::ToolFormat::Json).
    ToolCall(CallConstraint),
}

/// Which calls the answer must be.
#[derive(Clone, PartialEq, Debug)]
pub struct CallConstraint {
    /// The tools that may be called, each with the schema of its arguments.
    pub tools: Vec<(String, Value)>,
    /// Several calls, in a list; otherwise one, bare.
    pub many: bool,
    /// The answer may be JSON of this schema instead.
    pub or_answer: Option<Value>,
}

impl Constraint {
    /// The schema that the whole text must meet, as JSON of at most [`MAX_GRAMMAR_BYTES`]; `None` for any text.
    pub fn schema(&self) -> Option<Value> {
        match self {
            Self::None => None,
            Self::JsonObject => Some(json!({"type": "object"})),
            Self::JsonSchema(schema) => Some(schema.clone()),
            Self::ToolCall(call) => Some(call.schema()),
        }
    }

    /// What `tools` and the answer's format (`format`, at `place`) say together.
    pub(super) fn new(tools: &Tools, format: Self, at: &str) -> Result<Self, ApiError> {
        let chosen: Vec<&Tool> = match &tools.choice {
            ToolChoice::Named(name) => tools.list.iter().filter(|tool| tool.name == *name).collect(),
            ToolChoice::Required => tools.list.iter().collect(),
            // A grammar for the answer would make calls impossible: it must allow both.
            ToolChoice::Auto if format != Self::None => tools.list.iter().collect(),
            ToolChoice::Auto | ToolChoice::None => Vec::new(),
        };
        let constraint = if chosen.is_empty() {
            format
        } else {
            let tools_of = |tool: &Tool| {
                (tool.name.clone(), tool.parameters.clone().unwrap_or_else(|| json!({"type": "object"})))
            };
            let many = tools.parallel && !matches!(tools.choice, ToolChoice::Named(_));
            let or_answer = if tools.choice == ToolChoice::Auto { format.schema() } else { None };
            Self::ToolCall(CallConstraint {
                tools: chosen.into_iter().map(tools_of).collect(),
                many,
                or_answer,
            })
        };
        let bytes = constraint.schema().map_or(0, |schema| schema.to_string().len());
        if bytes > MAX_GRAMMAR_BYTES {
            let what = format_args!(
                "`{at}`: what the answer must look like takes {bytes} bytes of schema, but at most \
                 {MAX_GRAMMAR_BYTES} are followed"
            );
            return Err(ApiError::new(ErrorCode::InvalidValue, what, "use fewer or smaller schemas").at(at));
        }
        Ok(constraint)
    }
}

impl CallConstraint {
    fn schema(&self) -> Value {
        let mut definitions = Map::new();
        let mut alternatives = Vec::new();
        for (index, (name, parameters)) in self.tools.iter().enumerate() {
            let key = format!("tool_{index}");
            let mut parameters = parameters.clone();
            move_references(&mut parameters, &format!("#/$defs/{key}"));
            definitions.insert(key.clone(), parameters);
            alternatives.push(json!({
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": format!("#/$defs/{key}")}},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            }));
        }
        let call = json!({ "anyOf": alternatives });
        let calls = if self.many {
            json!({"type": "array", "minItems": 1, "maxItems": MAX_CALLS, "items": call})
        } else {
            call
        };
        let mut schema = match &self.or_answer {
            None => calls,
            Some(answer) => {
                let mut answer = answer.clone();
                move_references(&mut answer, "#/$defs/answer");
                definitions.insert("answer".into(), answer);
                json!({"anyOf": [calls, {"$ref": "#/$defs/answer"}]})
            }
        };
        schema["$defs"] = Value::Object(definitions);
        schema
    }
}

/// A schema that becomes part of another one: what it says of itself as `#/..` is now further down. The parser has
/// bounded its depth.
fn move_references(schema: &mut Value, to: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" && target.starts_with('#') => {
                        *target = format!("{to}{}", &target[1..]);
                    }
                    _ => move_references(value, to),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, to)),
        _ => {}
    }
}

/// Reads `response_format` of chat completions.
pub(super) fn response_format(json: Json<'_, '_>) -> Result<Constraint, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    let kind = fields.need("type")?;
    match &*kind.text()? {
        "text" => fields.only(&["type"]).map(|()| Constraint::None),
        "json_object" => fields.only(&["type"]).map(|()| Constraint::JsonObject),
        "json_schema" => {
            fields.only(&["type", "json_schema"])?;
            let inner = fields.need("json_schema")?.object(MAX_FIELDS)?;
            inner.only(&["name", "description", "schema", "strict"])?;
            named_schema(&inner)
        }
        other => Err(unknown_format(kind, other)),
    }
}

/// Reads `text.format` of responses, which has no inner object.
pub(super) fn text_format(json: Json<'_, '_>) -> Result<Constraint, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    let kind = fields.need("type")?;
    match &*kind.text()? {
        "text" => fields.only(&["type"]).map(|()| Constraint::None),
        "json_object" => fields.only(&["type"]).map(|()| Constraint::JsonObject),
        "json_schema" => {
            fields.only(&["type", "name", "description", "schema", "strict"])?;
            named_schema(&fields)
        }
        other => Err(unknown_format(kind, other)),
    }
}

fn named_schema(fields: &Object<'_, '_>) -> Result<Constraint, ApiError> {
    super::tools::function_name(fields.need("name")?)?;
    fields.read("description", |json| json.text())?;
    // A schema is always followed to the letter.
    fields.read("strict", |json| json.boolean())?;
    match fields.read("schema", |json| json.object_tree(MAX_SCHEMA_BYTES))? {
        Some(schema) => Ok(Constraint::JsonSchema(Value::Object(schema))),
        None => Ok(Constraint::JsonObject),
    }
}

fn unknown_format(kind: Json<'_, '_>, told: &str) -> ApiError {
    kind.invalid(format_args!(
        "it is {}, but one of `text`, `json_object`, `json_schema` is needed",
        Quote(told)
    ))
}

/// A schema, as JSON; what a tail takes.
pub(crate) const MAX_SCHEMA_BYTES: usize = MAX_GRAMMAR_BYTES;
/// Calls that a grammar lets an answer make: more than models make at once.
const MAX_CALLS: u32 = 16;
