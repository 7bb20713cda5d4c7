//! Lists that are not built beyond their limit, and values that may be one or many: small items take many times their
//! bytes of a body.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A list of at most `N` items.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct AtMost<T, const N: usize>(pub(crate) Vec<T>);

/// One text, or a list of at most `N`.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Texts<const N: usize>(pub(crate) Vec<String>);

struct ListVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData)).map(Self)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for ListVisitor<T, N> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {N}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == N {
                return Err(de::Error::custom(format_args!("more than {N} entries")));
            }
            items.push(item);
        }
        Ok(items)
    }
}

struct TextsVisitor<const N: usize>;

impl<'de, const N: usize> Deserialize<'de> for Texts<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor::<N>).map(Self)
    }
}

impl<'de, const N: usize> Visitor<'de> for TextsVisitor<N> {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text or a list of at most {N} texts")
    }

    fn visit_str<E: de::Error>(self, one: &str) -> Result<Vec<String>, E> {
        Ok(vec![one.to_owned()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<String>, A::Error> {
        ListVisitor::<String, N>(PhantomData).visit_seq(list)
    }
}
