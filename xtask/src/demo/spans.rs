//! Equal spans: pure arithmetic.

use anyhow::{Result, ensure};

/// A half-open range of layers, as `--layers` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Splits `[0, layers)` into `nodes` spans whose lengths differ by one at most; longer ones come first.
pub(super) fn equal(layers: u32, nodes: u32) -> Result<Vec<Span>> {
    ensure!(
        nodes > 0 && nodes <= layers,
        "{nodes} nodes cannot share {layers} layers; choose --nodes 1 to {layers}"
    );
    let (short, longer) = (layers / nodes, layers % nodes);
    let mut start = 0;
    let next = |index| {
        let span = Span { start, end: start + short + u32::from(index < longer) };
        start = span.end;
        span
    };
    Ok((0..nodes).map(next).collect())
}

impl std::fmt::Display for Span {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_tile_the_layers_and_differ_by_one_at_most() {
        for layers in 1..=40 {
            for nodes in 1..=layers {
                let spans = equal(layers, nodes).unwrap();
                assert_eq!(
                    (spans[0].start, spans[spans.len() - 1].end, spans.len()),
                    (0, layers, nodes as usize)
                );
                assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start));
                let lengths = || spans.iter().map(|span| span.end - span.start);
                assert!(
                    lengths().max().unwrap() - lengths().min().unwrap() <= 1 && lengths().min().unwrap() > 0
                );
            }
        }
    }

    #[test]
    fn more_nodes_than_layers_is_an_error_with_the_cure() {
        let error = equal(2, 3).unwrap_err().to_string();
        assert!(error.contains("choose --nodes 1 to 2"), "{error}");
    }
}
