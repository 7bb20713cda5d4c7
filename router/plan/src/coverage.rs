//! Which layers of a model somebody holds, and which nobody does.

use std::fmt;

use proto::LayerSpan;

/// Ranges of layers that nobody holds, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gaps(Vec<LayerSpan>);

impl Gaps {
    /// The ranges.
    pub fn spans(&self) -> &[LayerSpan] {
        &self.0
    }

    /// Whether every layer is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("every layer is held by somebody");
        }
        f.write_str("layers ")?;
        for (index, span) in self.0.iter().enumerate() {
            let separator = if index == 0 {
                ""
            } else if index + 1 == self.0.len() {
                " and "
            } else {
                ", "
            };
            write!(f, "{separator}{span}")?;
        }
        f.write_str(" are held by nobody")
    }
}

/// How many nodes hold each layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage {
    holders: Vec<u32>,
}

impl Coverage {
    /// Counts the holders of each of `n_layers` layers. Spans that reach beyond the model count as far as it goes.
    pub fn of(n_layers: u32, spans: impl IntoIterator<Item = LayerSpan>) -> Self {
        let mut holders = vec![0; n_layers as usize];
        for span in spans {
            for layer in span.layers() {
                if let Some(count) = holders.get_mut(layer.get() as usize) {
                    *count += 1;
                }
            }
        }
        Self { holders }
    }

    /// Number of holders of each layer.
    pub fn holders(&self) -> &[u32] {
        &self.holders
    }

    /// Layers that somebody holds.
    pub fn held(&self) -> usize {
        self.holders.iter().filter(|&&count| count > 0).count()
    }

    /// The ranges that nobody holds.
    pub fn gaps(&self) -> Gaps {
        let mut gaps = Vec::new();
        let mut start = None;
        for (layer, &count) in (0u32..).zip(self.holders.iter().chain([&1])) {
            match (start, count) {
                (None, 0) => start = Some(layer),
                (Some(from), 1..) => {
                    gaps.extend(LayerSpan::new(from, layer));
                    start = None;
                }
                _ => {}
            }
        }
        Gaps(gaps)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start: u32, end: u32) -> LayerSpan {
        LayerSpan::new(start, end).unwrap()
    }

    #[test]
    fn gaps_are_named_for_people() {
        let gaps = |spans: &[LayerSpan]| Coverage::of(30, spans.iter().copied()).gaps().to_string();
        assert_eq!(gaps(&[span(0, 10), span(20, 30)]), "layers 10..20 are held by nobody");
        assert_eq!(gaps(&[span(5, 10), span(12, 29)]), "layers 0..5, 10..12 and 29..30 are held by nobody");
        assert_eq!(gaps(&[]), "layers 0..30 are held by nobody");
        assert_eq!(gaps(&[span(0, 30)]), "every layer is held by somebody");
    }

    proptest! {
        #[test]
        fn a_layer_is_in_a_gap_exactly_if_no_span_holds_it(
            n in 1u32..60,
            raw in prop::collection::vec((0u32..60, 1u32..60), 0..6),
        ) {
            let spans: Vec<_> = raw.iter().map(|&(start, len)| span(start, start + len)).collect();
            let gaps = Coverage::of(n, spans.iter().copied()).gaps();
            for layer in span(0, n).layers() {
                let held = spans.iter().any(|span| span.contains(layer));
                let in_gap = gaps.spans().iter().any(|span| span.contains(layer));
                prop_assert_eq!(held, !in_gap);
            }
        }
    }
}
