//! The mix of lengths: how long prompts and answers are, drawn by weight from the lines of a file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::{Rng, RngExt};
use serde::Deserialize;

/// One line.
#[derive(Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Length {
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    /// How often, relative to the other lines.
    #[serde(default = "one")]
    weight: f64,
}

const fn one() -> f64 {
    1.0
}

impl Length {
    pub(crate) const fn of(prompt_tokens: u32, max_tokens: u32) -> Self {
        Self { prompt_tokens, max_tokens, weight: 1.0 }
    }
}

/// A mix; at least one line with a positive weight.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Mix(Vec<Length>);

impl Mix {
    /// The mix of a file, or the default one.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self> {
        match path {
            None => Self::parse(DEFAULT),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
                Self::parse(&text).with_context(|| format!("read {}", path.display()))
            }
        }
    }

    /// Always the same.
    pub(crate) fn only(length: Length) -> Self {
        Self(vec![length])
    }

    /// One as often as the other.
    pub(crate) fn either(one: Length, other: Length) -> Self {
        Self(vec![one, other])
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lengths = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let length: Length =
                serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?;
            let whole = length.prompt_tokens > 0 && length.max_tokens > 0;
            ensure!(whole, "line {}: prompt_tokens and max_tokens are at least 1", number + 1);
            ensure!(length.weight > 0.0 && length.weight.is_finite(), "line {}: weight", number + 1);
            lengths.push(length);
        }
        ensure!(!lengths.is_empty(), "no line");
        Ok(Self(lengths))
    }

    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Length {
        let total: f64 = self.0.iter().map(|length| length.weight).sum();
        let mut left = rng.random::<f64>() * total;
        for length in &self.0 {
            left -= length.weight;
            if left <= 0.0 {
                return *length;
            }
        }
        self.0[self.0.len() - 1]
    }
}

/// Short questions, conversations, long documents.
const DEFAULT: &str = include_str!("../../load-mix.jsonl");

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn lines_are_drawn_by_their_weight() {
        let mix = Mix::parse(
            "{\"prompt_tokens\":1,\"max_tokens\":1,\"weight\":3}\n\n{\"prompt_tokens\":2,\"max_tokens\":1}\n",
        )
        .unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let ones = (0..4000).filter(|_| mix.draw(&mut rng).prompt_tokens == 1).count();
        assert!((2800..3200).contains(&ones), "{ones}");
        assert!(Mix::read(None).is_ok());
        assert!(Mix::parse("").is_err());
        assert!(Mix::parse("{\"prompt_tokens\":0,\"max_tokens\":1}").is_err());
    }
}
