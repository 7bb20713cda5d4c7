//! Stop strings in streamed text, also across the pieces of a stream.
//!
//! The match that *ends* first wins, so the result does not depend on how the text was cut into pieces; of two that
//! end at the same place the longer one wins. What may still become a match is held back, and nothing more.

/// Watches a stream for stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Automaton>,
    /// The end of the text so far, as long as the longest match that is under way.
    held: String,
    matched: Option<usize>,
}

/// What to do after a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is safe to show now. It never contains a stop string or the beginning of one.
    pub emit: String,
    /// Index of the stop string that was found; the text ended before it.
    pub matched: Option<usize>,
}

/// Why stop strings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// An empty one would end every text at once.
    #[error("stop string {index} is empty")]
    Empty {
        /// Which one.
        index: usize,
    },
    /// Longer than the limit.
    #[error("stop string {index} has {bytes} bytes, but at most {limit} are allowed")]
    TooLong {
        /// Which one.
        index: usize,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More than the limit.
    #[error("{count} stop strings, but at most {limit} are allowed")]
    TooMany {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

impl StopMatcher {
    /// A matcher for `stops`; none is fine.
    pub fn new(stops: &[String]) -> Result<Self, StopError> {
        if stops.len() > MAX_STOPS {
            return Err(StopError::TooMany { count: stops.len(), limit: MAX_STOPS });
        }
        for (index, stop) in stops.iter().enumerate() {
            if stop.is_empty() {
                return Err(StopError::Empty { index });
            }
            if stop.len() > MAX_STOP_BYTES {
                return Err(StopError::TooLong { index, bytes: stop.len(), limit: MAX_STOP_BYTES });
            }
        }
        let stops = stops.iter().map(|stop| Automaton::new(stop.as_bytes())).collect();
        Ok(Self { stops, held: String::new(), matched: None })
    }

    /// Takes the next piece. After a match every further piece is swallowed.
    pub fn push(&mut self, text: &str) -> StopOutcome {
        if self.matched.is_some() {
            return StopOutcome { emit: String::new(), matched: self.matched };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            let Some((index, length)) = self.step(byte) else { continue };
            self.matched = Some(index);
            self.held.truncate(before + at + 1 - length);
            return StopOutcome { emit: std::mem::take(&mut self.held), matched: self.matched };
        }
        let keep = self.stops.iter().map(|stop| stop.state).max().unwrap_or_default();
        let rest = self.held.split_off(self.held.len() - keep);
        StopOutcome { emit: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// The stream has ended: what was held back is ordinary text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Advances all automata by a byte; gives the longest stop that ends with it, with its length.
    fn step(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut longest: Option<(usize, usize)> = None;
        for (index, stop) in self.stops.iter_mut().enumerate() {
            if stop.step(byte) && longest.is_none_or(|(_, length)| stop.pattern.len() > length) {
                longest = Some((index, stop.pattern.len()));
            }
        }
        longest
    }
}

/// Knuth, Morris and Pratt's matcher: constant amortised time per byte.
#[derive(Debug, Clone)]
struct Automaton {
    pattern: Vec<u8>,
    /// For each matched length, the longest shorter beginning of the pattern that also ends there.
    fallback: Vec<usize>,
    /// Bytes of the pattern matched by the end of the text so far; less than the pattern's length.
    state: usize,
}

impl Automaton {
    fn new(pattern: &[u8]) -> Self {
        let mut fallback = vec![0; pattern.len() + 1];
        let mut k = 0;
        for i in 1..pattern.len() {
            while k > 0 && pattern[i] != pattern[k] {
                k = fallback[k];
            }
            k += usize::from(pattern[i] == pattern[k]);
            fallback[i + 1] = k;
        }
        Self { pattern: pattern.to_vec(), fallback, state: 0 }
    }

    /// Whether the pattern ends with this byte.
    fn step(&mut self, byte: u8) -> bool {
        while self.state > 0 && self.pattern[self.state] != byte {
            self.state = self.fallback[self.state];
        }
        self.state += usize::from(self.pattern[self.state] == byte);
        let complete = self.state == self.pattern.len();
        if complete {
            self.state = self.fallback[self.state];
        }
        complete
    }
}

/// The usual APIs allow 4; each costs one comparison per byte of text.
pub const MAX_STOPS: usize = 64;

/// Also bounds what is held back.
const MAX_STOP_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    /// The text before the match that ends first, by trying every end.
    fn naive(text: &str, stops: &[String]) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let found = (0..stops.len())
                .filter(|&i| text.as_bytes()[..end].ends_with(stops[i].as_bytes()))
                .max_by_key(|&i| (stops[i].len(), std::cmp::Reverse(i)));
            if let Some(index) = found {
                return (text[..end - stops[index].len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn a_stop_across_pieces_is_never_shown() {
        let mut stops = matcher(&["\n\nUser:", "</s>"]);
        assert_eq!(stops.push("Hello\n").emit, "Hello");
        assert_eq!(stops.push("\nUs"), StopOutcome { emit: String::new(), matched: None });
        assert_eq!(stops.push("age <").emit, "\n\nUsage ");
        assert_eq!(stops.push("/s> tail"), StopOutcome { emit: String::new(), matched: Some(1) });
        assert_eq!(stops.push("more"), StopOutcome { emit: String::new(), matched: Some(1) });
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn what_is_held_comes_out_at_the_end() {
        let mut stops = matcher(&["END"]);
        assert_eq!(stops.push("the EN").emit, "the ");
        assert_eq!(stops.finish(), "EN");
    }

    #[test]
    fn bad_stop_strings_are_named() {
        let stops = |s: &[String]| StopMatcher::new(s).unwrap_err();
        assert_eq!(stops(&["a".into(), String::new()]), StopError::Empty { index: 1 });
        assert!(matches!(stops(&["x".repeat(2000)]), StopError::TooLong { index: 0, bytes: 2000, .. }));
        assert!(matches!(stops(&vec!["x".into(); 100]), StopError::TooMany { count: 100, .. }));
    }

    fn tricky() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!['a', 'b', 'é', '😀', '你']), 0..60)
            .prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn equals_the_naive_search_however_the_text_is_cut(
            text in tricky(),
            stops in prop::collection::vec(tricky().prop_filter("empty", |s| !s.is_empty() && s.chars().count() < 6), 0..4),
            cuts in prop::collection::vec(1usize..5, 1..60),
        ) {
            let mut matcher = StopMatcher::new(&stops).unwrap();
            let (mut shown, mut matched) = (String::new(), None);
            let (mut rest, mut cut) = (text.as_str(), cuts.iter().cycle());
            let longest = stops.iter().map(String::len).max().unwrap_or_default();
            let mut fed = 0;
            while !rest.is_empty() && matched.is_none() {
                let end = rest.char_indices().nth(*cut.next().unwrap()).map_or(rest.len(), |(at, _)| at);
                let outcome = matcher.push(&rest[..end]);
                (fed, rest) = (fed + end, &rest[end..]);
                shown.push_str(&outcome.emit);
                matched = outcome.matched;
                // No more is held back than could begin a stop string.
                prop_assert!(matched.is_some() || fed - shown.len() < longest.max(1));
            }
            if matched.is_none() { shown.push_str(&matcher.finish()); }
            prop_assert_eq!((shown, matched), naive(&text, &stops));
        }
    }
}
