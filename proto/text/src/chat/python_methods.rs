//! The methods of Python's `str`, `dict` and `list` that chat templates call.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Called by the engine for a method that it does not know.
pub(super) fn call(
    _: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => on_string(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => on_map(value, method, args),
        ValueKind::Seq => on_list(value, method, args),
        _ => Err(unknown()),
    }
}

fn on_string(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let trimmed = |args: &[Value], start: bool, end: bool| -> Result<Value, Error> {
        let (set,): (Option<&str>,) = from_args(args)?;
        let strips = |c: char| set.map_or_else(|| c.is_whitespace(), |set| set.contains(c));
        let text = if start { text.trim_start_matches(strips) } else { text };
        Ok(Value::from(if end { text.trim_end_matches(strips) } else { text }))
    };
    let none = |args: &[Value]| from_args::<()>(args);
    Ok(match method {
        "strip" => trimmed(args, true, true)?,
        "lstrip" => trimmed(args, true, false)?,
        "rstrip" => trimmed(args, false, true)?,
        "upper" => none(args).map(|()| text.to_uppercase().into())?,
        "lower" => none(args).map(|()| text.to_lowercase().into())?,
        "capitalize" => none(args).map(|()| capitalised(text).into())?,
        "title" => none(args).map(|()| titled(text).into())?,
        "startswith" => any_of(args, |part| text.starts_with(part))?,
        "endswith" => any_of(args, |part| text.ends_with(part))?,
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            text.strip_prefix(part).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            text.strip_suffix(part).unwrap_or(text).into()
        }
        "replace" => replace(text, args)?,
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => none(args).map(|()| text.lines().collect())?,
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() }.into()
        }
        "find" => position(text, args, |text, part| text.find(part))?,
        "rfind" => position(text, args, |text, part| text.rfind(part))?,
        "join" => {
            let (parts,): (Value,) = from_args(args)?;
            let parts: Vec<String> = parts.try_iter()?.map(|part| part.to_string()).collect();
            parts.join(text).into()
        }
        "isdigit" => (!text.is_empty() && text.chars().all(char::is_numeric)).into(),
        "isspace" => (!text.is_empty() && text.chars().all(char::is_whitespace)).into(),
        "isupper" => (text != text.to_lowercase() && text == text.to_uppercase()).into(),
        "islower" => (text != text.to_uppercase() && text == text.to_lowercase()).into(),
        _ => return Err(unknown()),
    })
}

fn on_map(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let pairs = || -> Result<Vec<(Value, Value)>, Error> {
        map.try_iter()?.map(|key| map.get_item(&key).map(|value| (key, value))).collect()
    };
    match method {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(key)?;
            Ok(if found.is_undefined() { default.unwrap_or_else(|| Value::from(())) } else { found })
        }
        "keys" => from_args::<()>(args).and_then(|()| Ok(map.try_iter()?.collect())),
        "values" => from_args::<()>(args).and_then(|()| Ok(pairs()?.into_iter().map(|(_, v)| v).collect())),
        "items" => from_args::<()>(args)
            .and_then(|()| Ok(pairs()?.into_iter().map(|(k, v)| Value::from(vec![k, v])).collect())),
        _ => Err(unknown()),
    }
}

fn on_list(list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (item,): (&Value,) = from_args(args)?;
    match method {
        "count" => Ok(list.try_iter()?.filter(|other| other == item).count().into()),
        "index" => match list.try_iter()?.position(|other| other == *item) {
            Some(at) => Ok(at.into()),
            None => Err(Error::new(ErrorKind::InvalidOperation, "the item is not in the list")),
        },
        _ => Err(unknown()),
    }
}

/// `startswith` and `endswith` take a string or several.
fn any_of(args: &[Value], test: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let (parts,): (&Value,) = from_args(args)?;
    if let Some(part) = parts.as_str() {
        return Ok(test(part).into());
    }
    Ok(parts.try_iter()?.any(|part| part.as_str().is_some_and(&test)).into())
}

fn replace(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let hits = text.matches(old).count();
    if hits.saturating_mul(new.len()).saturating_add(text.len()) > MAX_STRING_BYTES {
        return Err(Error::new(ErrorKind::InvalidOperation, "replace: the result is too long"));
    }
    Ok(match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => text.replacen(old, new, count).into(),
        None => text.replace(old, new).into(),
    })
}

/// `split` and `rsplit`, by a separator or by runs of whitespace, at most `count` times.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, count): (Option<&str>, Option<i64>) = from_args(args)?;
    if separator == Some("") {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let mut left = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = if separator.is_none() { text.trim() } else { text };
    while left > 0 {
        let cut = match (separator, from_end) {
            (Some(separator), false) => rest.split_once(separator),
            (Some(separator), true) => rest.rsplit_once(separator).map(|(a, b)| (b, a)),
            (None, false) => rest.split_once(char::is_whitespace).map(|(a, b)| (a, b.trim_start())),
            (None, true) => rest.rsplit_once(char::is_whitespace).map(|(a, b)| (b, a.trim_end())),
        };
        let Some((part, remaining)) = cut else { break };
        parts.push(part);
        rest = remaining;
        left -= 1;
    }
    if separator.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().collect())
}

/// Index in characters, -1 if absent, as Python counts.
fn position(text: &str, args: &[Value], find: impl Fn(&str, &str) -> Option<usize>) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    Ok(find(text, part).map_or(-1, |at| text[..at].chars().count() as i64).into())
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect()
    })
}

fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn unknown() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

/// As much as a whole prompt may have.
const MAX_STRING_BYTES: usize = 8 << 20;
