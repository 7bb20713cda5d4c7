//! How many values a JSON text holds, counted without allocating anything for them. A parsed value takes seventy
//! bytes and more, one in a text two: whoever parses strangers' JSON into a tree counts first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The values of a JSON text: numbers, strings, lists and all that they hold; not the keys of objects.
pub fn count_json_values(bytes: &[u8]) -> Result<u64, serde_json::Error> {
    serde_json::from_slice::<Counted>(bytes).map(|counted| counted.values)
}

/// Any JSON value: how many values it is, itself among them, and how many it holds directly.
pub(crate) struct Counted {
    pub(crate) values: u64,
    pub(crate) elements: u64,
}

impl Counted {
    const SCALAR: Self = Self { values: 1, elements: 0 };
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Counted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Counted, E> {
        Ok(Counted::SCALAR)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Counted, E> {
        Ok(Counted::SCALAR)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Counted, E> {
        Ok(Counted::SCALAR)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Counted, E> {
        Ok(Counted::SCALAR)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Counted, E> {
        Ok(Counted::SCALAR)
    }

    fn visit_unit<E: Error>(self) -> Result<Counted, E> {
        Ok(Counted::SCALAR)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Counted, A::Error> {
        let mut counted = Counted::SCALAR;
        while let Some(element) = seq.next_element::<Counted>()? {
            counted.values += element.values;
            counted.elements += 1;
        }
        Ok(counted)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counted, A::Error> {
        let mut counted = Counted::SCALAR;
        while let Some((_, value)) = map.next_entry::<IgnoredAny, Counted>()? {
            counted.values += value.values;
            counted.elements += 1;
        }
        Ok(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_counts_once() {
        for (text, values) in
            [("1", 1), ("[]", 1), (r#"{"a":[1,-2.5,"x",null,true,{}],"b":{"c":0}}"#, 10), ("[[[]]]", 3)]
        {
            assert_eq!(count_json_values(text.as_bytes()).unwrap(), values, "{text}");
        }
        assert!(count_json_values(&b"[".repeat(1_000_000)).is_err(), "nests are limited");
        assert!(count_json_values(b"[1,]").is_err());
    }
}
