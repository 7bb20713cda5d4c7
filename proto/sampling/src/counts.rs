//! How often each token occurs in a session so far: all that penalties need of the history.
//!
//! Prompt and generated tokens are counted apart, because the repetition penalty looks at both and the
//! presence and frequency penalties only at what the model generated.

use std::collections::HashMap;

/// Occurrences per token, built up as the session goes on. The order of pushes does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCounts {
    counts: HashMap<u32, TokenCount>,
}

/// Occurrences of one token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCount {
    /// In the prompt.
    pub prompt: u32,
    /// In the generated tokens, forced ones after a resume included.
    pub generated: u32,
}

impl TokenCounts {
    /// Counts of an empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts of a prompt.
    pub fn from_prompt(ids: &[u32]) -> Self {
        let mut counts = Self::new();
        for &id in ids {
            counts.push_prompt(id);
        }
        counts
    }

    /// Counts of a session's ids so far, of which the last `generated` were generated (all, if there are fewer).
    pub fn from_history(ids: &[u32], generated: u32) -> Self {
        let (prompt, output) = ids.split_at(ids.len().saturating_sub(generated as usize));
        let mut counts = Self::from_prompt(prompt);
        for &id in output {
            counts.push_generated(id);
        }
        counts
    }

    /// Adds a token of the prompt.
    pub fn push_prompt(&mut self, id: u32) {
        let count = self.counts.entry(id).or_default();
        count.prompt = count.prompt.saturating_add(1);
    }

    /// Adds a generated token.
    pub fn push_generated(&mut self, id: u32) {
        let count = self.counts.entry(id).or_default();
        count.generated = count.generated.saturating_add(1);
    }

    /// Takes back one [`Self::push_generated`], when a position is discarded. A token that was not there is
    /// ignored.
    pub fn retract_generated(&mut self, id: u32) {
        if let Some(count) = self.counts.get_mut(&id) {
            count.generated = count.generated.saturating_sub(1);
            if *count == TokenCount::default() {
                self.counts.remove(&id);
            }
        }
    }

    /// Occurrences of `id`, zero when it never occurred.
    pub fn get(&self, id: u32) -> TokenCount {
        self.counts.get(&id).copied().unwrap_or_default()
    }

    /// Each token that occurred, once, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, TokenCount)> + '_ {
        self.counts.iter().map(|(&id, &count)| (id, count))
    }

    /// Whether nothing occurred yet.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_history_is_what_was_generated() {
        let counts = TokenCounts::from_history(&[5, 6, 5, 7], 2);
        assert_eq!(counts.get(5), TokenCount { prompt: 1, generated: 1 });
        assert_eq!(counts.get(6), TokenCount { prompt: 1, generated: 0 });
        assert_eq!(TokenCounts::from_history(&[5], 9).get(5), TokenCount { prompt: 0, generated: 1 });
    }

    #[test]
    fn retracting_undoes_a_push() {
        let mut counts = TokenCounts::from_prompt(&[1, 2, 1]);
        let before = counts.clone();
        counts.push_generated(7);
        counts.push_generated(1);
        assert_eq!(counts.get(1), TokenCount { prompt: 2, generated: 1 });
        counts.retract_generated(1);
        counts.retract_generated(7);
        counts.retract_generated(99);
        assert_eq!(counts, before);
    }
}
