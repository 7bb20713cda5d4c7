//! JSON Schemas of single parameters.

use serde_json::{Map, Value, json};

use crate::request::parameters::{Effect, Parameters};

/// A schema for an object with the parameters of an endpoint. Those that are acted upon are described by `describe`; all
/// but the needed ones may be `null`.
pub(super) fn parameters(of: Parameters, needed: &[&str], describe: impl Fn(&str) -> Value) -> Value {
    let mut properties = Map::new();
    for parameter in of.iter().copied().flatten() {
        let schema = match parameter.effect {
            Effect::Used if needed.contains(&parameter.name) => describe(parameter.name),
            Effect::Used => nullable(describe(parameter.name)),
            Effect::Ignored(why) => json!({"description": format!("Accepted without effect: {why}.")}),
            Effect::Refused(cure) => {
                json!({"type": "null", "description": format!("Not supported: {cure}.")})
            }
        };
        properties.insert(parameter.name.into(), schema);
    }
    json!({"type": "object", "properties": properties, "required": needed, "additionalProperties": false})
}

/// A schema for an object of some fields, and none else.
pub(super) fn object(fields: &[(&str, Value)], needed: &[&str]) -> Value {
    let field = |(name, schema): &(&str, Value)| {
        let schema = if needed.contains(name) { schema.clone() } else { nullable(schema.clone()) };
        ((*name).to_owned(), schema)
    };
    let properties: Map<String, Value> = fields.iter().map(field).collect();
    json!({"type": "object", "properties": properties, "required": needed, "additionalProperties": false})
}

/// A schema that takes `null` as well.
fn nullable(mut schema: Value) -> Value {
    // Anything is `null` too, and so is nothing.
    if schema.as_object().is_some_and(Map::is_empty) || schema["type"] == "null" {
        return schema;
    }
    let simple = schema.get("type").and_then(Value::as_str).map(str::to_owned);
    match simple {
        Some(kind) if schema.get("const").is_none() => {
            schema["type"] = json!([kind, "null"]);
            if let Some(Value::Array(words)) = schema.get_mut("enum") {
                words.push(Value::Null);
            }
            schema
        }
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

pub(super) fn number(range: (f64, f64)) -> Value {
    json!({"type": "number", "minimum": range.0, "maximum": range.1})
}

pub(super) fn integer(least: i64, most: i64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

pub(super) fn boolean() -> Value {
    json!({"type": "boolean"})
}

pub(super) fn text() -> Value {
    json!({"type": "string"})
}

pub(super) fn short_text(least: usize, most: usize) -> Value {
    json!({"type": "string", "minLength": least, "maxLength": most})
}

pub(super) fn word(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

pub(super) fn constant(word: &str) -> Value {
    json!({"type": "string", "const": word})
}

pub(super) fn list(items: &Value, least: usize, most: usize) -> Value {
    json!({"type": "array", "items": items, "minItems": least, "maxItems": most})
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
