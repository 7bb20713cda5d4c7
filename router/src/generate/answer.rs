//! The text of a growing answer: ids in, text that is safe to show out, until a stop string.

use std::sync::Arc;

use proto_text::{DetokenStream, StopError, StopMatcher, Tokenizer, TokenizerError};

/// Detokenises and watches for stop strings. Without a tokenizer there is no text.
#[derive(Debug)]
pub(super) struct AnswerText {
    stream: Option<DetokenStream>,
    stop: StopMatcher,
    text: String,
    stopped: bool,
}

impl AnswerText {
    pub(super) fn new(tokenizer: Option<Arc<Tokenizer>>, stops: &[String]) -> Result<Self, StopError> {
        Ok(Self {
            stream: tokenizer.map(|tokenizer| DetokenStream::new(tokenizer, true)),
            stop: StopMatcher::new(stops)?,
            text: String::new(),
            stopped: false,
        })
    }

    /// Special tokens with these contents are shown.
    pub(super) fn show(&mut self, markers: &[&str]) {
        if let Some(stream) = &mut self.stream {
            stream.show(markers);
        }
    }

    /// Takes the next id; gives the text to show now.
    pub(super) fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let piece = match &mut self.stream {
            Some(stream) => stream.push(id)?,
            None => None,
        };
        Ok(piece.map(|piece| self.emit(&piece)).unwrap_or_default())
    }

    /// The answer has ended; gives what was held back.
    pub(super) fn finish(&mut self) -> Result<String, TokenizerError> {
        let piece = match &mut self.stream {
            Some(stream) => stream.finish()?,
            None => None,
        };
        let mut shown = piece.map(|piece| self.emit(&piece)).unwrap_or_default();
        if !self.stopped {
            let held = self.stop.finish();
            self.text.push_str(&held);
            shown.push_str(&held);
        }
        Ok(shown)
    }

    /// Whether a stop string was found; the text ends before it.
    pub(super) const fn stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn emit(&mut self, piece: &str) -> String {
        let outcome = self.stop.push(piece);
        self.stopped |= outcome.matched.is_some();
        self.text.push_str(&outcome.emit);
        outcome.emit
    }
}
