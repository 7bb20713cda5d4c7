//! That the document and the parser say the same.

use serde_json::{Map, Value, json};

use super::*;
use crate::error::ApiError;
use crate::request::parameters::{
    CHAT, COMPLETION, DETOKENIZE, EMBEDDINGS, Effect, Parameters, RESPONSES, TOKENIZE, names,
};
use crate::request::{
    ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, ResponsesRequest, TokenizeRequest,
};

type Parse = fn(&[u8]) -> Result<(), ApiError>;

/// Each request: its schema, its parameters, its parser, and the least that it takes.
fn requests() -> [(&'static str, Parameters, Parse, Value); 6] {
    let messages = json!({"messages": [{"role": "user", "content": "x"}]});
    [
        ("ChatRequest", CHAT, |body| ChatRequest::parse(body).map(drop), messages.clone()),
        (
            "CompletionRequest",
            COMPLETION,
            |body| CompletionRequest::parse(body).map(drop),
            json!({"prompt": "x"}),
        ),
        (
            "ResponsesRequest",
            RESPONSES,
            |body| ResponsesRequest::parse(body).map(drop),
            json!({"input": "x"}),
        ),
        ("TokenizeRequest", TOKENIZE, |body| TokenizeRequest::parse(body).map(drop), messages),
        (
            "DetokenizeRequest",
            DETOKENIZE,
            |body| DetokenizeRequest::parse(body).map(drop),
            json!({"tokens": [1]}),
        ),
        (
            "EmbeddingRequest",
            EMBEDDINGS,
            |body| EmbeddingRequest::parse(body).map(drop),
            json!({"input": "x"}),
        ),
    ]
}

fn properties(name: &str) -> Map<String, Value> {
    document("1")["components"]["schemas"][name]["properties"].as_object().unwrap().clone()
}

fn with(base: &Value, name: &str, value: Value) -> Vec<u8> {
    let mut body = base.clone();
    body[name] = value;
    // What a value needs beside it.
    match name {
        "stream_options" => body["stream"] = json!(true),
        "top_logprobs" if body.get("messages").is_some() => body["logprobs"] = json!(true),
        "best_of" => body["n"] = body["best_of"].clone(),
        _ => {}
    }
    body.to_string().into_bytes()
}

#[test]
fn every_property_is_a_parameter_and_every_parameter_a_property() {
    for (schema, parameters, _, _) in requests() {
        let properties = properties(schema);
        let known: Vec<&str> = names(parameters).collect();
        assert_eq!(properties.keys().map(String::as_str).collect::<Vec<_>>(), known, "{schema}");
        for (name, property) in properties {
            assert_ne!(property["description"], json!("undescribed"), "{schema}.{name}");
        }
    }
}

#[test]
fn bounds_are_what_the_parser_takes() {
    let mut checked = 0;
    for (schema, parameters, parse, base) in requests() {
        assert!(parse(base.to_string().as_bytes()).is_ok(), "{schema}");
        for (name, property) in properties(schema) {
            let taken = |value: Value| parse(&with(&base, &name, value));
            let effect =
                parameters.iter().copied().flatten().find(|known| known.name == name).unwrap().effect;
            match effect {
                Effect::Ignored(_) => assert!(taken(json!([{"any": 1}])).is_ok(), "{schema}.{name}"),
                Effect::Refused(_) => {
                    assert!(taken(json!(1)).is_err() && taken(Value::Null).is_ok(), "{schema}.{name}");
                }
                Effect::Used => {}
            }
            let refused = |value: Value| {
                // `best_of` brings an `n` with it.
                let at = if name == "best_of" { "n" } else { &name };
                let error = taken(value.clone()).expect_err(&format!("{schema}.{name} {value}"));
                assert!(error.param().unwrap().starts_with(at), "{schema}.{name}: {}", error.message());
            };
            for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(value) = property.get(bound).filter(|value| value.is_number()) else { continue };
                taken(value.clone()).unwrap_or_else(|error| panic!("{schema}.{name} {value}: {error}"));
                // 2^63 ends the numbers; a float next to it is as far as it goes.
                let beyond = value.as_f64().unwrap()
                    + if value.as_f64().unwrap().abs() > 1e18 { step * 1e4 } else { step };
                refused(json!(beyond));
                checked += 1;
            }
            for word in property.get("enum").and_then(Value::as_array).into_iter().flatten() {
                taken(word.clone()).unwrap_or_else(|error| panic!("{schema}.{name} {word}: {error}"));
                checked += 1;
            }
            if property["type"] == json!(["string", "null"]) && property.get("enum").is_some() {
                refused(json!("no such word"));
            }
            if let Some(most) = property.get("maxItems").and_then(Value::as_u64) {
                refused(json!(vec![0; most as usize + 1]));
                checked += 1;
            }
            if let Some(most) = property.get("maxProperties").and_then(Value::as_u64) {
                let fields =
                    |count: u64| Value::Object((0..count).map(|at| (at.to_string(), json!(1))).collect());
                if name == "logit_bias" {
                    taken(fields(most)).unwrap_or_else(|error| panic!("{schema}.{name}: {error}"));
                }
                refused(fields(most + 1));
                checked += 1;
            }
        }
        let unknown = parse(&with(&base, "no_such_parameter", json!(1))).unwrap_err();
        assert_eq!(unknown.code().name(), "unknown_parameter");
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn needed_parameters_are_missed() {
    for (schema, _, parse, base) in requests() {
        let needed = document("1")["components"]["schemas"][schema]["required"].clone();
        for name in needed.as_array().unwrap() {
            let mut body = base.clone();
            body.as_object_mut().unwrap().remove(name.as_str().unwrap());
            let error = parse(body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.param(), error.code().name()), (name.as_str(), "missing_required_parameter"));
        }
    }
}

#[test]
fn the_document_is_whole() {
    let document = document("1.2.3");
    assert_eq!((&document["openapi"], &document["info"]["version"]), (&json!("3.1.0"), &json!("1.2.3")));
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 30);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let codes =
        &document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"];
    assert_eq!(codes.as_array().unwrap().len(), ErrorCode::ALL.len());
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(target) if name == "$ref" => references.push(target.to_owned()),
                    _ => collect(value, references),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}
