//! A body's JSON, read value by value: each with its place, its type and its bounds.
//!
//! The text is checked as a whole first and cut into raw pieces; a piece is parsed only when somebody asks for it, as
//! what they expect and no larger than they take. So nothing grows beyond a bound however small its items are, and
//! an error knows which parameter it is about. Memory for raw pieces is 16 bytes an item of a bounded list.

mod nearest;
mod pieces;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;

use proto_text::count_json_values;
use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{ApiError, ErrorCode, Quote};
use nearest::nearest;
use pieces::{FieldsSeed, ItemsSeed, TextSeed};

/// Where a value stands, as clients write it: `messages[2].content[0]`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'p> {
    /// The body itself.
    Body,
    /// A field of an object.
    Name(&'p Self, &'p str),
    /// An item of a list.
    Item(&'p Self, usize),
}

/// A value that is still to be parsed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<'a, 'p> {
    raw: &'a RawValue,
    place: Place<'p>,
}

/// The fields of an object, each still to be parsed. A field that is `null` counts as absent, as in OpenAI's API.
#[derive(Debug)]
pub(crate) struct Object<'a, 'p> {
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
    place: Place<'p>,
}

/// The items of a list, each still to be parsed.
#[derive(Debug)]
pub(crate) struct List<'a, 'p> {
    items: Vec<&'a RawValue>,
    place: Place<'p>,
}

/// Checks that a body is one JSON object and cuts it into its fields.
pub(crate) fn body(bytes: &[u8]) -> Result<Object<'_, 'static>, ApiError> {
    let invalid = |what: String| ApiError::new(ErrorCode::InvalidJson, what, "send one JSON object in UTF-8");
    let text = std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("the body is no UTF-8 from byte {} on", error.valid_up_to())))?;
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|error| invalid(format!("the body is no JSON: {error}")))?;
    let json = Json { raw, place: Place::Body };
    match json.kind() {
        Kind::Object => json.object(MAX_FIELDS),
        kind => Err(invalid(format!("the body is {kind}, not an object"))),
    }
}

impl<'a, 'p> Json<'a, 'p> {
    /// What it is.
    pub(crate) fn kind(&self) -> Kind {
        match self.raw.get().as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::List,
            Some(b'"') => Kind::Text,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// It, as it was written.
    pub(crate) fn source(&self) -> &'a str {
        self.raw.get()
    }

    /// A text of any length: the body's own bound holds.
    pub(crate) fn text(&self) -> Result<Cow<'a, str>, ApiError> {
        self.expect(Kind::Text)?;
        let mut deserializer = serde_json::Deserializer::from_str(self.raw.get());
        TextSeed.deserialize(&mut deserializer).map_err(|error| self.invalid(reason(&error)))
    }

    /// A text of at most so many characters.
    pub(crate) fn short_text(&self, most: usize) -> Result<String, ApiError> {
        let text = self.text()?;
        if text.len() > most && text.chars().nth(most).is_some() {
            return Err(self.invalid(format_args!("it has more than {most} characters")));
        }
        Ok(text.into_owned())
    }

    /// A truth value.
    pub(crate) fn boolean(&self) -> Result<bool, ApiError> {
        self.expect(Kind::Bool)?;
        Ok(self.raw.get() == "true")
    }

    /// A whole number in a range; 7.0 is one, as in JSON Schema.
    pub(crate) fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
        self.expect(Kind::Number)?;
        let number: serde_json::Number =
            serde_json::from_str(self.raw.get()).map_err(|error| self.invalid(reason(&error)))?;
        let whole = number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // 2^63 itself is no i64; everything whole below it that a double holds is.
            (float.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(&float)).then_some(float as i64)
        });
        whole.filter(|whole| range.contains(whole)).ok_or_else(|| {
            self.invalid(format_args!(
                "it is {}, but a whole number from {} to {} is needed",
                Quote(self.raw.get()),
                range.start(),
                range.end()
            ))
        })
    }

    /// A number in a range.
    pub(crate) fn number(&self, range: RangeInclusive<f64>) -> Result<f64, ApiError> {
        self.expect(Kind::Number)?;
        let number: f64 =
            serde_json::from_str(self.raw.get()).map_err(|error| self.invalid(reason(&error)))?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.invalid(format_args!(
            "it is {}, but it must lie between {} and {}",
            Quote(self.raw.get()),
            range.start(),
            range.end()
        )))
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ApiError> {
        let text = self.text()?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => Err(self.invalid(format_args!(
                "it is {}, but one of {} is needed",
                Quote(&text),
                words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// The items of a list of at most so many.
    pub(crate) fn list(&self, most: usize) -> Result<List<'a, 'p>, ApiError> {
        self.expect(Kind::List)?;
        let mut deserializer = serde_json::Deserializer::from_str(self.raw.get());
        let items = ItemsSeed { most }.deserialize(&mut deserializer);
        let items = items.map_err(|error| self.invalid(reason(&error)))?;
        match items {
            Some(items) => Ok(List { items, place: self.place }),
            None => Err(self.too_many(most)),
        }
    }

    /// A list of token ids.
    pub(crate) fn ids(&self, most: usize) -> Result<Vec<u32>, ApiError> {
        let list = self.list(most)?;
        list.iter().map(|json| json.integer(0..=i64::from(u32::MAX)).map(|id| id as u32)).collect()
    }

    /// The fields of an object of at most so many.
    pub(crate) fn object(&self, most: usize) -> Result<Object<'a, 'p>, ApiError> {
        self.expect(Kind::Object)?;
        let mut deserializer = serde_json::Deserializer::from_str(self.raw.get());
        let fields = FieldsSeed { most }
            .deserialize(&mut deserializer)
            .map_err(|error| self.invalid(reason(&error)))?;
        let fields = fields.ok_or_else(|| self.too_many(most))?;
        let mut names = HashSet::with_capacity(fields.len());
        if let Some((twice, _)) = fields.iter().find(|(name, _)| !names.insert(name.as_ref())) {
            return Err(
                Json { raw: self.raw, place: Place::Name(&self.place, twice) }.invalid("it is given twice")
            );
        }
        Ok(Object { fields, place: self.place })
    }

    /// Any value, as a tree of at most so many bytes of JSON.
    pub(crate) fn tree(&self, most_bytes: usize) -> Result<Value, ApiError> {
        let source = self.raw.get();
        if source.len() > most_bytes {
            return Err(self
                .invalid(format_args!("it has {} bytes, but at most {most_bytes} are taken", source.len())));
        }
        // A parsed value takes seventy bytes and more, one in a text two.
        let values = count_json_values(source.as_bytes()).map_err(|error| self.invalid(reason(&error)))?;
        if values > MAX_TREE_VALUES {
            return Err(self
                .invalid(format_args!("it holds {values} values, but at most {MAX_TREE_VALUES} are taken")));
        }
        serde_json::from_str(source).map_err(|error| self.invalid(reason(&error)))
    }

    /// An object, as a tree.
    pub(crate) fn object_tree(&self, most_bytes: usize) -> Result<serde_json::Map<String, Value>, ApiError> {
        self.expect(Kind::Object)?;
        match self.tree(most_bytes)? {
            Value::Object(map) => Ok(map),
            _ => Err(self.wrong_type(Kind::Object)),
        }
    }

    /// The error that the value can't be used.
    pub(crate) fn invalid(&self, why: impl fmt::Display) -> ApiError {
        self.error(ErrorCode::InvalidValue, why)
    }

    /// The error that the value is not taken here, though OpenAI's API has it.
    pub(crate) fn unsupported(&self, why: impl fmt::Display) -> ApiError {
        self.error(ErrorCode::UnsupportedValue, why)
    }

    /// An error about it.
    pub(crate) fn error(&self, code: ErrorCode, why: impl fmt::Display) -> ApiError {
        ApiError::new(code, format_args!("`{}`: {why}", self.place), "").at(self.place)
    }

    /// The error that it is something else than is needed.
    pub(crate) fn wrong_type(&self, needed: impl fmt::Display) -> ApiError {
        self.error(ErrorCode::InvalidType, format_args!("it is {}, but {needed} is needed", self.kind()))
    }

    fn too_many(&self, most: usize) -> ApiError {
        self.error(
            ErrorCode::TooMany,
            format_args!("it has more than {most} entries, which is the most taken"),
        )
    }

    fn expect(&self, needed: Kind) -> Result<(), ApiError> {
        if self.kind() == needed { Ok(()) } else { Err(self.wrong_type(needed)) }
    }
}

impl<'a> Object<'a, '_> {
    /// A field, if it is there and not `null`.
    pub(crate) fn get<'s>(&'s self, name: &'s str) -> Option<Json<'a, 's>> {
        let (_, raw) = self.fields.iter().find(|(field, _)| field == name)?;
        Some(Json { raw, place: Place::Name(&self.place, name) }).filter(|json| json.kind() != Kind::Null)
    }

    /// A field that must be there.
    pub(crate) fn need<'s>(&'s self, name: &'s str) -> Result<Json<'a, 's>, ApiError> {
        self.get(name).ok_or_else(|| {
            let place = Place::Name(&self.place, name);
            ApiError::new(ErrorCode::MissingParameter, format_args!("`{place}` is missing"), "add it")
                .at(place)
        })
    }

    /// A field read by a function.
    pub(crate) fn read<'s, T>(
        &'s self,
        name: &'s str,
        read: impl FnOnce(Json<'a, 's>) -> Result<T, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        self.get(name).map(read).transpose()
    }

    /// Whether there are only fields of these names.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.names().find(|name| !known.contains(name)) {
            Some(unknown) => Err(self.unknown(unknown, known.iter().copied())),
            None => Ok(()),
        }
    }

    /// The error that nobody knows a field, with the known one that looks most like it.
    pub(crate) fn unknown<'k>(&self, name: &str, known: impl Iterator<Item = &'k str>) -> ApiError {
        let short: String = name.chars().take(MAX_NAME_CHARS).collect();
        let place = Place::Name(&self.place, &short);
        let cure = nearest(&short, known)
            .map_or_else(|| "leave it out".to_owned(), |near| format!("did you mean `{near}`?"));
        ApiError::new(
            ErrorCode::UnknownParameter,
            format_args!("nobody knows a parameter {}", Quote(&place.to_string())),
            cure,
        )
        .at(place)
    }

    /// The names of all fields, as they came; those that are `null` too.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }

    /// All fields.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Json<'a, '_>)> {
        self.fields.iter().map(|(name, raw)| {
            let name = name.as_ref();
            (name, Json { raw, place: Place::Name(&self.place, name) })
        })
    }
}

impl<'a> List<'a, '_> {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Json<'a, '_>> {
        self.items.iter().enumerate().map(|(at, raw)| Json { raw, place: Place::Item(&self.place, at) })
    }
}

/// The types of JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Object,
    List,
    Text,
    Number,
    Bool,
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "an object",
            Self::List => "a list",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::Bool => "a boolean",
            Self::Null => "null",
        })
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("body"),
            Self::Name(Place::Body, name) => f.write_str(name),
            Self::Name(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// What serde says, without the line and column inside the piece, which mean nothing to whoever sent the whole.
fn reason(error: &serde_json::Error) -> String {
    let told = error.to_string();
    told.rsplit_once(" at line ").map_or_else(|| told.clone(), |(what, _)| what.to_owned())
}

/// Fields of a body: more than twice what the largest request has.
const MAX_FIELDS: usize = 128;
/// Values of a tree: a schema of 64 KiB of real text has some 5,000.
const MAX_TREE_VALUES: u64 = 20_000;
/// Characters of an unknown name that are looked at: bounds the work of finding one like it.
const MAX_NAME_CHARS: usize = 64;
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

#[cfg(test)]
mod tests;
