//! The `OpenAPI` 3.1 document of all endpoints.
//!
//! Paths and the objects of answers are data (`openapi/*.json`). Requests are built from the parser's own tables and limits,
//! so that what the document allows is what is taken; a test feeds their bounds to the parser.

mod requests;
mod types;

use proto::tensor::NumericsClass;
use serde_json::{Map, Value};

use crate::error::ErrorCode;

/// The document. `version`: the router's.
pub fn document(version: &str) -> Value {
    let mut document = data(include_str!("openapi/paths.json"));
    document["info"]["version"] = Value::from(version);
    let mut components = data(include_str!("openapi/components.json"));
    if let Value::Object(schemas) = &mut components["schemas"] {
        schemas.append(&mut requests::schemas());
    }
    let codes: Vec<Value> = ErrorCode::ALL.iter().map(|code| Value::from(code.name())).collect();
    components["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"] = Value::from(codes);
    let names: Vec<Value> = NumericsClass::ALL.iter().map(|class| Value::from(class.name())).collect();
    components["schemas"]["Model"]["properties"]["classes"]["items"]["enum"] = Value::from(names);
    let classes = NumericsClass::ALL.iter().map(|class| Value::from(class.name()));
    let classes: Vec<Value> = classes.chain([Value::Null]).collect();
    components["schemas"]["GenerateRequest"]["properties"]["numerics"]["enum"] = Value::from(classes);
    document["components"] = components;
    document
}

fn data(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::Object(Map::new()))
}

#[cfg(test)]
mod tests;
