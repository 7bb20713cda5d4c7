//! One turn of a conversation, and the shape in which templates see it.
//!
//! The shape is that of Hugging Face's `apply_chat_template`, which is OpenAI's with one difference: a call's
//! arguments are an object, not a text. What a message does not have is not there at all, so that `is defined` and
//! plain truth tests both work.

use minijinja::Value;
use serde::{Deserialize, Serialize};

use super::json::from_json;

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The text; none is `none` in the template, as for an answer that only calls tools.
    pub content: Option<String>,
    /// Who speaks, or which tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// What the tool's answer refers to.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, as a JSON text.
    pub arguments: String,
}

impl ChatMessage {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), ..Self::default() }
    }

    pub(super) fn to_value(&self) -> Value {
        let text = |text: &String| Value::from(text.as_str());
        let mut fields =
            vec![("role", text(&self.role)), ("content", self.content.as_ref().map_or_else(none, text))];
        fields.extend(self.name.as_ref().map(|name| ("name", text(name))));
        fields.extend(self.tool_call_id.as_ref().map(|id| ("tool_call_id", text(id))));
        fields.extend(self.reasoning_content.as_ref().map(|thoughts| ("reasoning_content", text(thoughts))));
        if !self.tool_calls.is_empty() {
            fields.push(("tool_calls", self.tool_calls.iter().map(ToolCall::to_value).collect()));
        }
        Value::from_pairs(fields)
    }
}

impl ToolCall {
    fn to_value(&self) -> Value {
        // Deeper than any real arguments is no JSON to the parser, and stays a text.
        let arguments = serde_json::from_str::<serde_json::Value>(&self.arguments)
            .map_or_else(|_| Value::from(self.arguments.as_str()), |tree| from_json(&tree));
        let function =
            Value::from_pairs([("name", Value::from(self.name.as_str())), ("arguments", arguments)]);
        Value::from_pairs([
            ("id", Value::from(self.id.as_str())),
            ("type", Value::from("function")),
            ("function", function),
        ])
    }
}

fn none() -> Value {
    Value::from(())
}
