//! Calls in a growing text: what is text is given on at once, what may become a call is held back until it is one, or
//! is none and becomes text again.

use serde_json::{Map, Value};

use super::ToolFormat;

/// Finds calls.
#[derive(Clone, Debug)]
pub struct ToolCallParser {
    format: ToolFormat,
    /// Text that is not given on yet.
    held: String,
    /// So many bytes of it hold no end of a call.
    searched: usize,
    calls: u32,
    /// Something was given on as text: a bare call is the whole of an answer.
    spoke: bool,
}

/// A part of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToolPart {
    /// Text.
    Text(String),
    /// A whole call.
    Call {
        /// Its place among the answer's calls.
        index: u32,
        /// The function.
        name: String,
        /// A JSON object.
        arguments: String,
    },
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const LIST: &str = "[TOOL_CALLS]";
const PYTHON: &str = "<|python_tag|>";
/// What is held back at most: longer ones are text.
const MAX_HELD: usize = 256 << 10;

impl ToolCallParser {
    /// Nothing was said yet.
    pub const fn new(format: ToolFormat) -> Self {
        Self { format, held: String::new(), searched: 0, calls: 0, spoke: false }
    }

    /// Calls found so far.
    pub const fn calls(&self) -> u32 {
        self.calls
    }

    /// More text.
    pub fn push(&mut self, text: &str) -> Vec<ToolPart> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        match self.format {
            ToolFormat::Tagged => while self.tagged(&mut parts) {},
            // Both reach to the end of the answer.
            ToolFormat::Bare if !self.spoke && may_begin(self.held.trim_start(), &["{", PYTHON]) => {}
            ToolFormat::Listed if self.held.contains(LIST) => {
                if let Some(at) = self.held.find(LIST) {
                    let rest = self.held.split_off(at);
                    let before = std::mem::replace(&mut self.held, rest);
                    self.say(before, &mut parts);
                }
            }
            ToolFormat::Listed => {
                let keep = overlap(&self.held, LIST);
                let rest = self.held.split_off(self.held.len() - keep);
                let said = std::mem::replace(&mut self.held, rest);
                self.say(said, &mut parts);
            }
            ToolFormat::Bare => {
                let said = std::mem::take(&mut self.held);
                self.say(said, &mut parts);
            }
        }
        if self.held.len() > MAX_HELD {
            self.searched = 0;
            let said = std::mem::take(&mut self.held);
            self.say(said, &mut parts);
        }
        parts
    }

    /// The answer is over.
    pub fn finish(&mut self) -> Vec<ToolPart> {
        let held = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        let calls = match self.format {
            // Small models forget the end of the last one.
            ToolFormat::Tagged => held.strip_prefix(OPEN).map(one).unwrap_or_default(),
            ToolFormat::Bare if self.spoke => Vec::new(),
            ToolFormat::Bare => {
                let bare = held.trim_start();
                let bare = bare.strip_prefix(PYTHON).unwrap_or(bare);
                bare.split(';').map(one).collect::<Vec<_>>().concat()
            }
            ToolFormat::Listed => held.strip_prefix(LIST).map(listed).unwrap_or_default(),
        };
        if calls.is_empty() {
            self.say(held, &mut parts);
        }
        for (name, arguments) in calls {
            parts.push(self.call(name, arguments));
        }
        parts
    }

    /// One step; whether there may be more.
    fn tagged(&mut self, parts: &mut Vec<ToolPart>) -> bool {
        let Some(open) = self.held.find(OPEN) else {
            let keep = overlap(&self.held, OPEN);
            let rest = self.held.split_off(self.held.len() - keep);
            let said = std::mem::replace(&mut self.held, rest);
            self.say(said, parts);
            return false;
        };
        if open > 0 {
            let rest = self.held.split_off(open);
            let said = std::mem::replace(&mut self.held, rest);
            self.say(said, parts);
        }
        let from = self.held.floor_char_boundary(self.searched.saturating_sub(CLOSE.len()));
        let Some(close) = self.held[from..].find(CLOSE).map(|at| from + at) else {
            self.searched = self.held.len();
            return false;
        };
        self.searched = 0;
        let rest = self.held.split_off(close + CLOSE.len());
        let whole = std::mem::replace(&mut self.held, rest);
        let calls = one(&whole[OPEN.len()..close]);
        if calls.is_empty() {
            self.say(whole, parts);
        }
        for (name, arguments) in calls {
            let call = self.call(name, arguments);
            parts.push(call);
        }
        true
    }

    fn call(&mut self, name: String, arguments: String) -> ToolPart {
        let index = self.calls;
        self.calls += 1;
        ToolPart::Call { index, name, arguments }
    }

    /// Space around calls is none of the answer's text.
    fn say(&mut self, text: String, parts: &mut Vec<ToolPart>) {
        let space = text.chars().all(char::is_whitespace);
        if text.is_empty() || (space && self.calls > 0) {
            return;
        }
        self.spoke |= !space;
        parts.push(ToolPart::Text(text));
    }
}

/// Whether a text is, or may become, one that begins so.
fn may_begin(text: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| text.starts_with(beginning) || beginning.starts_with(text))
}

/// Bytes at the end that may be the beginning of `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    (1..mark.len().min(text.len() + 1)).rev().find(|&n| text.as_bytes().ends_with(&mark.as_bytes()[..n])).unwrap_or(0)
}

/// The call that an object is, if it is one.
fn one(text: &str) -> Vec<(String, String)> {
    serde_json::from_str(text.trim()).ok().and_then(call_of).into_iter().collect()
}

/// `[{..}, ..]`, or `name[ARGS]{..}` as later versions write it.
fn listed(text: &str) -> Vec<(String, String)> {
    if let Ok(list) = serde_json::from_str::<Vec<Map<String, Value>>>(text.trim()) {
        return list.into_iter().filter_map(call_of).collect();
    }
    let later = text.split(LIST).filter_map(|call| {
        let (name, arguments) = call.split_once("[ARGS]")?;
        let arguments: Map<String, Value> = serde_json::from_str(arguments.trim()).ok()?;
        Some((name.trim().to_owned(), Value::Object(arguments).to_string()))
    });
    later.collect()
}

fn call_of(mut object: Map<String, Value>) -> Option<(String, String)> {
    let Some(Value::String(name)) = object.remove("name") else { return None };
    let arguments = match object.remove("arguments").or_else(|| object.remove("parameters")) {
        Some(Value::Object(arguments)) => Value::Object(arguments).to_string(),
        // Some write the object as a text.
        Some(Value::String(text)) if serde_json::from_str::<Map<String, Value>>(&text).is_ok() => text,
        None => "{}".into(),
        Some(_) => return None,
    };
    Some((name, arguments))
}
