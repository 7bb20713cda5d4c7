//! Half-open ranges of layers.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

use crate::LayerIndex;

/// Layers of the largest model that is accepted; the deepest published decoders have about 130.
pub const MAX_LAYERS: u32 = 1024;

/// A half-open, non-empty range of decoder layers `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct LayerSpan {
    start: u32,
    end: u32,
}

/// Why two numbers or a text are not a span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// `start >= end`, or beyond [`MAX_LAYERS`].
    #[error("layers {start}..{end} are not a span: start must be below end, and end at most {MAX_LAYERS}")]
    Bounds {
        /// First layer given.
        start: u32,
        /// End given.
        end: u32,
    },
    /// A model can't be split into so many parts.
    #[error("{parts} parts of {n_layers} layers: at least one part, and at most one node per layer")]
    Parts {
        /// Parts asked for.
        parts: u32,
        /// Layers of the model.
        n_layers: u32,
    },
    /// Not of the form `A..B`.
    #[error("`{0}` is not a span: write it as A..B, for example 0..10 (B is not included)")]
    Syntax(String),
    /// Ends after the model's last layer.
    #[error("layers {span} are out of range: the model has {n_layers} layers, 0..{n_layers}")]
    OutOfRange {
        /// The span asked for.
        span: LayerSpan,
        /// Layers of the model.
        n_layers: u32,
    },
}

impl LayerSpan {
    /// Checks that the range is not empty and not absurd.
    pub fn new(start: u32, end: u32) -> Result<Self, SpanError> {
        if start < end && end <= MAX_LAYERS {
            Ok(Self { start, end })
        } else {
            Err(SpanError::Bounds { start, end })
        }
    }

    /// First layer.
    pub const fn start(self) -> u32 {
        self.start
    }

    /// One past the last layer.
    pub const fn end(self) -> u32 {
        self.end
    }

    /// Number of layers.
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub const fn len(self) -> u32 {
        self.end - self.start
    }

    /// Whether all layers of `part` are layers of this one.
    #[must_use]
    pub const fn holds(self, part: Self) -> bool {
        self.start <= part.start && part.end <= self.end
    }

    /// Whether the layer lies in the span.
    pub const fn contains(self, layer: LayerIndex) -> bool {
        self.start <= layer.get() && layer.get() < self.end
    }

    /// The layers in order.
    pub fn layers(self) -> impl DoubleEndedIterator<Item = LayerIndex> + ExactSizeIterator {
        (self.start..self.end).map(LayerIndex::new)
    }

    /// Fails if the span ends after the model does.
    pub fn within(self, n_layers: u32) -> Result<Self, SpanError> {
        if self.end <= n_layers { Ok(self) } else { Err(SpanError::OutOfRange { span: self, n_layers }) }
    }

    /// `parts` spans of nearly equal length that cover `[0, n_layers)`; the first ones are the longer ones.
    pub fn split_evenly(n_layers: u32, parts: u32) -> Result<Vec<Self>, SpanError> {
        if parts == 0 || parts > n_layers {
            return Err(SpanError::Parts { parts, n_layers });
        }
        let (base, longer) = (n_layers / parts, n_layers % parts);
        let mut start = 0;
        (0..parts)
            .map(|part| {
                let end = start + base + u32::from(part < longer);
                let span = Self::new(start, end);
                start = end;
                span
            })
            .collect()
    }

    /// Whether the spans, in order, cover `[0, n_layers)` without gap or overlap.
    pub fn tile(spans: impl IntoIterator<Item = Self>, n_layers: u32) -> bool {
        let mut next = 0;
        for span in spans {
            if span.start != next {
                return false;
            }
            next = span.end;
        }
        next == n_layers
    }
}

impl<C> Decode<C> for LayerSpan {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        let (start, end) = (u32::decode(decoder)?, u32::decode(decoder)?);
        Self::new(start, end).map_err(|_| bincode::error::DecodeError::Other("not a layer span"))
    }
}

bincode::impl_borrow_decode!(LayerSpan);

impl fmt::Display for LayerSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for LayerSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerSpan({self})")
    }
}

impl FromStr for LayerSpan {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let parsed = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (start, end) = parsed.ok_or_else(|| SpanError::Syntax(text.chars().take(80).collect()))?;
        Self::new(start, end)
    }
}

impl serde::Serialize for LayerSpan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.start, self.end].serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for LayerSpan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [start, end] = <[u32; 2]>::deserialize(deserializer)?;
        Self::new(start, end).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_parse_and_refuse_nonsense() {
        assert_eq!("0..10".parse::<LayerSpan>().unwrap(), LayerSpan::new(0, 10).unwrap());
        for bad in ["", "3", "5..5", "6..5", "-1..3", "0..99999", "a..b", "0...3"] {
            assert!(bad.parse::<LayerSpan>().is_err(), "{bad}");
        }
        assert!(LayerSpan::new(0, 31).unwrap().within(30).is_err());
    }

    #[test]
    fn an_even_split_tiles_the_model() {
        for n in 1..64 {
            for parts in 1..=n {
                let spans = LayerSpan::split_evenly(n, parts).unwrap();
                assert!(LayerSpan::tile(spans.iter().copied(), n));
                let (min, max) = (spans.iter().map(|s| s.len()).min(), spans.iter().map(|s| s.len()).max());
                assert!(max.unwrap() - min.unwrap() <= 1);
            }
        }
        let error = LayerSpan::split_evenly(30, 40).unwrap_err().to_string();
        assert!(
            error.starts_with("40 parts of 30 layers") && error.contains("one node per layer"),
            "{error}"
        );
    }
}
