//! The `tojson` filter as `apply_chat_template` defines it: Python's `json.dumps` with `ensure_ascii=False`.
//!
//! The engine's own filter escapes `<`, `>`, `&` and `'` for HTML, which would change what the model reads.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Writes `value` with the options of `json.dumps` that templates may give.
pub(super) fn to_json(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > 16) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is at most 16"));
    }
    let separators: Option<Value> = options.get("separators")?;
    let separator = |at: usize, otherwise: &str| -> Result<String, Error> {
        let Some(pair) = separators.as_ref().filter(|pair| !pair.is_none()) else {
            return Ok(otherwise.into());
        };
        match pair.get_item(&Value::from(at))?.as_str() {
            Some(text) if text.len() <= MAX_SEPARATOR => Ok(text.to_owned()),
            _ => Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two short strings")),
        }
    };
    let style = Style {
        indent,
        item: separator(0, if indent.is_some() { "," } else { ", " })?,
        key: separator(1, ": ")?,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

/// A tree of JSON as templates see it. The parser of the tree has bounded its depth.
pub(super) fn from_json(tree: &serde_json::Value) -> Value {
    use serde_json::Value as Tree;
    match tree {
        Tree::Null => Value::from(()),
        Tree::Bool(truth) => Value::from(*truth),
        Tree::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Tree::String(text) => Value::from(text.as_str()),
        Tree::Array(items) => items.iter().map(from_json).collect(),
        Tree::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, tree)| (name.as_str(), from_json(tree))))
        }
    }
}

/// The options of `json.dumps`.
struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sorted: bool,
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if out.len() > MAX_JSON_BYTES {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the text gets too long"));
        }
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.list(('{', '}'), &keys, depth, out, |key, out| {
                    match key.as_str() {
                        Some(text) => self.string(text, out),
                        None => self.string(&key.to_string(), out),
                    }
                    out.push_str(&self.key);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            kind => {
                let text = format!("tojson: a {kind} has no JSON form");
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        (open, close): (char, char),
        items: &[Value],
        depth: usize,
        out: &mut String,
        mut each: impl FnMut(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(&self.item);
            }
            line(depth + 1, out);
            each(item, out)?;
        }
        if !items.is_empty() {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        // A string has only one JSON form without ASCII escapes, and serde_json writes it.
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            return out.push_str(&quoted);
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("writing to a String does not fail");
            }
        }
    }
}

/// As much as the tokenizer takes.
const MAX_JSON_BYTES: usize = 8 << 20;

/// Far deeper than any tool schema.
const MAX_DEPTH: usize = 64;

/// `": "` is the longest in use.
const MAX_SEPARATOR: usize = 8;
