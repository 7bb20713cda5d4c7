//! JSON Schemas of requests, from the parser's own limits.

use proto::answer::MAX_TOP_LOGPROBS;
use proto::session::{MAX_LOGIT_BIAS, MAX_POSITIONS};
use proto::tensor::NumericsClass;
use proto_text::MAX_STOPS;
use serde_json::{Map, Value, json};

use super::types::{
    boolean, constant, integer, list, number, object, parameters, reference, short_text, text, word,
};
use crate::request::limits::{
    ANYWHERE, CALL_EXTRAS, FUNCTION_EXTRAS, INCLUDES, MAX_ALL_CHOICES, MAX_CHOICES, MAX_DEADLINE_MS,
    MAX_DIMENSIONS, MAX_FUNCTION_NAME, MAX_ID_CHARS, MAX_ID_DIGITS, MAX_LOGPROBS, MAX_MESSAGES,
    MAX_NAME_CHARS, MAX_PARTS, MAX_PROMPTS, MAX_STOP_CHARS, MAX_TOKENS, MAX_TOOL_CALLS, MAX_TOOLS, MAX_TOP_K,
    MAX_VARIABLES, OTHERS, PART_EXTRAS, PENALTY, PRIORITIES, REPETITION, SEED, SHARE, TEMPERATURE,
};
use crate::request::parameters::{CHAT, COMPLETION, DETOKENIZE, EMBEDDINGS, RESPONSES, TOKENIZE};

/// All of them, by name.
pub(super) fn schemas() -> Map<String, Value> {
    let mut chat = parameters(CHAT, &["messages"], described);
    chat["allOf"] = json!([stream_options_need_a_stream(), {
        "if": {"properties": {"top_logprobs": {"type": "integer", "minimum": 1}}, "required": ["top_logprobs"]},
        "then": {"properties": {"logprobs": {"const": true}}, "required": ["logprobs"]},
    }]);
    let mut completion = parameters(COMPLETION, &["prompt"], |name| match name {
        "prompt" => prompt(),
        "logprobs" => integer(0, i64::from(MAX_LOGPROBS)),
        "echo" => json!({"type": "boolean", "enum": [false]}),
        "best_of" => describe("At most `n`: all answers are given.", integer(1, MAX_CHOICES)),
        name => described(name),
    });
    completion["allOf"] = json!([stream_options_need_a_stream()]);
    let mut responses = parameters(RESPONSES, &["input"], |name| match name {
        "tools" => list(&reference("FlatTool"), 0, MAX_TOOLS),
        "tool_choice" => tool_choice(&object(
            &[("type", constant("function")), ("name", function_name())],
            &["type", "name"],
        )),
        name => described(name),
    });
    responses["allOf"] = json!([stream_options_need_a_stream()]);
    let mut tokenize =
        parameters(TOKENIZE, &[], |name| if name == "prompt" { text() } else { described(name) });
    tokenize["oneOf"] = json!([has("prompt", "string"), has("messages", "array")]);
    let all = [
        ("ChatRequest", chat),
        ("CompletionRequest", completion),
        ("ResponsesRequest", responses),
        ("TokenizeRequest", tokenize),
        ("DetokenizeRequest", parameters(DETOKENIZE, &["tokens"], described)),
        (
            "EmbeddingRequest",
            parameters(EMBEDDINGS, &["input"], |name| match name {
                "input" => json!({"anyOf": [text(), {"type": "array", "maxItems": MAX_POSITIONS}]}),
                name => described(name),
            }),
        ),
        ("ChatMessage", message()),
        (
            "Tool",
            object(
                &[("type", constant("function")), ("function", function(&[])), ("cache_control", json!({}))],
                &["type", "function"],
            ),
        ),
        ("FlatTool", function(&[("type", constant("function"))])),
        ("InputItem", item()),
    ];
    all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// A parameter that means the same wherever it is.
fn described(name: &str) -> Value {
    match name {
        "model" => json!({"type": "string", "pattern": "^[ -~]{1,128}$", "description":
            "An alias, `ORG/NAME`, `NAME@` and the first 8 digits of the id, or the id. Needed where several are served."}),
        "messages" => list(&reference("ChatMessage"), 1, MAX_MESSAGES),
        "stream"
        | "parallel_tool_calls"
        | "add_generation_prompt"
        | "logprobs"
        | "add_special_tokens"
        | "return_token_strs" => boolean(),
        "stream_options" => {
            let flags = ["include_usage", "include_obfuscation", "continuous_usage_stats"];
            object(&flags.map(|name| (name, boolean())), &[])
        }
        "temperature" => number(TEMPERATURE),
        "top_p" | "min_p" => number(SHARE),
        "top_k" => describe("0 and -1 are all tokens.", integer(-1, MAX_TOP_K)),
        "presence_penalty" | "frequency_penalty" => number(PENALTY),
        "repetition_penalty" => number(REPETITION),
        "logit_bias" => {
            json!({"type": "object", "maxProperties": MAX_LOGIT_BIAS, "additionalProperties": number((-100.0, 100.0)),
            "propertyNames": {"pattern": format!("^(0|[1-9][0-9]{{0,{}}})$", MAX_ID_DIGITS - 1)}})
        }
        "seed" => integer(SEED.0, SEED.1),
        "numerics" => word(&NumericsClass::ALL.map(NumericsClass::name)),
        "priority" => word(&PRIORITIES.iter().map(|(word, _)| *word).collect::<Vec<_>>()),
        "deadline_ms" => integer(1, MAX_DEADLINE_MS),
        "n" => integer(1, MAX_CHOICES),
        "stop" => {
            let stop = short_text(1, MAX_STOP_CHARS);
            json!({"anyOf": [stop, list(&stop, 0, MAX_STOPS)]})
        }
        "max_tokens" | "max_output_tokens" => integer(1, MAX_TOKENS),
        "max_completion_tokens" => describe(
            "The same as `max_tokens`, whose value it must have if both are given.",
            integer(1, MAX_TOKENS),
        ),
        "top_logprobs" => integer(0, i64::from(MAX_TOP_LOGPROBS)),
        "tools" => list(&reference("Tool"), 0, MAX_TOOLS),
        "tool_choice" => {
            let named = object(&[("name", function_name())], &["name"]);
            tool_choice(&object(
                &[("type", constant("function")), ("function", named)],
                &["type", "function"],
            ))
        }
        "response_format" => formats(&object(
            &[("type", constant("json_schema")), ("json_schema", object(&named_schema(), &["name"]))],
            &["type", "json_schema"],
        )),
        "modalities" => list(&constant("text"), 0, 2),
        "chat_template_kwargs" => json!({"type": "object", "maxProperties": MAX_VARIABLES,
            "propertyNames": {"pattern": "^(?!(messages|tools|documents|add_generation_prompt|bos_token|eos_token)$)[A-Za-z][A-Za-z0-9_]*$"},
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}),
        "input" => json!({"anyOf": [text(), list(&reference("InputItem"), 1, MAX_MESSAGES)]}),
        "instructions" => text(),
        "include" => {
            list(&word(&INCLUDES.iter().map(|(word, _)| *word).collect::<Vec<_>>()), 0, INCLUDES.len())
        }
        "text" => {
            let fields: Vec<(&str, Value)> =
                [("type", constant("json_schema"))].into_iter().chain(named_schema()).collect();
            let format = formats(&object(&fields, &["type", "name"]));
            object(&[("format", format), ("verbosity", word(&["low", "medium", "high"]))], &[])
        }
        "background" => json!({"type": "boolean", "enum": [false]}),
        "truncation" => word(&["disabled"]),
        "tokens" => list(&integer(0, i64::from(u32::MAX)), 0, MAX_POSITIONS as usize),
        "dimensions" => integer(1, MAX_DIMENSIONS),
        "encoding_format" => word(&["float", "base64"]),
        // A test looks for it.
        _ => json!({"description": "undescribed"}),
    }
}

fn describe(words: &str, mut schema: Value) -> Value {
    schema["description"] = Value::from(words);
    schema
}

fn stream_options_need_a_stream() -> Value {
    json!({
        "if": {"properties": {"stream_options": {"type": "object"}}, "required": ["stream_options"]},
        "then": {"properties": {"stream": {"const": true}}, "required": ["stream"]},
    })
}

fn has(name: &str, kind: &str) -> Value {
    json!({"properties": {name: {"type": kind}}, "required": [name]})
}

fn prompt() -> Value {
    let ids = list(&integer(0, i64::from(u32::MAX)), 1, MAX_POSITIONS as usize);
    let text = json!({"type": "string", "minLength": 1});
    json!({
        "anyOf": [text, list(&text, 1, MAX_PROMPTS), ids, list(&ids, 1, MAX_PROMPTS)],
        "description": format!("All prompts together may have {MAX_ALL_CHOICES} answers."),
    })
}

fn message() -> Value {
    let role = |role: &str, more: &[(&str, Value)], needed: &[&str]| {
        let own = [("role", constant(role)), ("content", content())].into_iter().chain(more.iter().cloned());
        let others = OTHERS.iter().filter(|(name, _)| more.iter().all(|(own, _)| own != name));
        let others = others.map(|(name, _)| (*name, json!({"type": "null"})));
        let fields: Vec<(&str, Value)> = own.chain(others).chain(anything(ANYWHERE)).collect();
        let needed: Vec<&str> = ["role"].iter().chain(needed).copied().collect();
        object(&fields, &needed)
    };
    let name = || ("name", short_text(0, MAX_NAME_CHARS));
    let function = [("name", function_name()), ("arguments", text())].into_iter();
    let function: Vec<(&str, Value)> = function.chain(anything(FUNCTION_EXTRAS)).collect();
    let call = [
        ("id", short_text(0, MAX_ID_CHARS)),
        ("type", constant("function")),
        ("function", object(&function, &["name", "arguments"])),
    ];
    let call: Vec<(&str, Value)> = call.into_iter().chain(anything(CALL_EXTRAS)).collect();
    let call = object(&call, &["id", "type", "function"]);
    let assistant = [
        name(),
        ("tool_calls", list(&call, 0, MAX_TOOL_CALLS)),
        ("refusal", text()),
        ("reasoning_content", text()),
        ("reasoning", text()),
    ];
    let mut assistant = role("assistant", &assistant, &[]);
    assistant["anyOf"] = json!([
        {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
        {"properties": {"refusal": {"type": "string"}}, "required": ["refusal"]},
        {"properties": {"tool_calls": {"type": "array", "minItems": 1}}, "required": ["tool_calls"]},
    ]);
    let tool = [("tool_call_id", short_text(0, MAX_ID_CHARS)), name()];
    let plain = ["system", "developer", "user"].map(|word| role(word, &[name()], &["content"]));
    let all: Vec<Value> =
        plain.into_iter().chain([assistant, role("tool", &tool, &["content", "tool_call_id"])]).collect();
    json!({ "oneOf": all })
}

fn content() -> Value {
    let part = |kind: &str| {
        let own = [("type", constant(kind)), (kind, text())].into_iter();
        object(&own.chain(anything(PART_EXTRAS)).collect::<Vec<_>>(), &["type", kind])
    };
    let parts = json!({"oneOf": [part("text"), part("refusal")]});
    json!({"anyOf": [text(), list(&parts, 0, MAX_PARTS)]})
}

/// Fields of any value, that mean nothing here.
fn anything<'a>(names: &'a [&'a str]) -> impl Iterator<Item = (&'a str, Value)> {
    names.iter().map(|name| (*name, json!({})))
}

fn item() -> Value {
    let any = |name| (name, json!({}));
    let item = |kind: &str, fields: &[(&str, Value)], needed: &[&str]| {
        let fields: Vec<(&str, Value)> = [("type", constant(kind)), any("id"), any("status")]
            .into_iter()
            .chain(fields.iter().cloned())
            .collect();
        object(&fields, needed)
    };
    let part = |kind: &str, field: &str| {
        let own = [("type", constant(kind)), (field, text())].into_iter();
        object(&own.chain(anything(PART_EXTRAS)).collect::<Vec<_>>(), &["type", field])
    };
    let parts = ["input_text", "output_text", "text", "reasoning_text", "summary_text"]
        .map(|kind| part(kind, "text"));
    let parts: Vec<Value> = parts.into_iter().chain([part("refusal", "refusal")]).collect();
    let content = json!({"anyOf": [text(), list(&json!({ "oneOf": parts }), 0, MAX_PARTS)]});
    let id = || ("call_id", short_text(0, MAX_ID_CHARS));
    json!({"anyOf": [
        item("message", &[("role", word(&["user", "assistant", "system", "developer"])), ("content", content.clone()), any("phase"), any("cache_control")], &["role", "content"]),
        item("function_call", &[id(), ("name", function_name()), ("arguments", text()), any("namespace"), any("caller")], &["type", "call_id", "name", "arguments"]),
        item("function_call_output", &[id(), ("output", content.clone()), any("caller")], &["type", "call_id", "output"]),
        item("reasoning", &[("content", content), any("summary"), any("encrypted_content")], &["type"]),
    ]})
}

fn function(more: &[(&str, Value)]) -> Value {
    let own = [
        ("name", function_name()),
        ("description", text()),
        ("parameters", json!({"type": "object"})),
        ("strict", boolean()),
        ("cache_control", json!({})),
    ];
    let fields: Vec<(&str, Value)> = more.iter().cloned().chain(own).collect();
    let needed: Vec<&str> = more.iter().map(|(name, _)| *name).chain(["name"]).collect();
    object(&fields, &needed)
}

fn function_name() -> Value {
    json!({"type": "string", "pattern": format!("^[A-Za-z0-9_-]{{1,{MAX_FUNCTION_NAME}}}$")})
}

fn tool_choice(named: &Value) -> Value {
    describe(
        "`required` and a named function need `tools` that have it.",
        json!({"anyOf": [word(&["none", "auto", "required"]), named]}),
    )
}

fn named_schema() -> [(&'static str, Value); 4] {
    [
        ("name", function_name()),
        ("description", text()),
        ("schema", json!({"type": "object"})),
        ("strict", boolean()),
    ]
}

fn formats(schema: &Value) -> Value {
    let plain = |kind: &str| object(&[("type", constant(kind))], &["type"]);
    json!({"oneOf": [plain("text"), plain("json_object"), schema]})
}
