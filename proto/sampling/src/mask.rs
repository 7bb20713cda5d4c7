//! Which tokens a grammar allows at one position: a bit per token.

/// A set of allowed tokens over a vocabulary of fixed size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    /// Bit `i % 64` of word `i / 64` is set when token `i` is allowed; bits past `len` are set too, so that a
    /// full word means "nothing to do".
    words: Vec<u64>,
    len: usize,
}

/// Why bytes or ids make no mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A token outside the vocabulary.
    #[error("mask names token {token}, but the vocabulary has {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Too few or too many words for the vocabulary.
    #[error("a mask over {vocab_size} tokens has {wanted} words of 64 bits, not {got}")]
    WordCount {
        /// Size of the vocabulary.
        vocab_size: usize,
        /// Words that it takes.
        wanted: usize,
        /// Words given.
        got: usize,
    },
}

impl TokenMask {
    /// A mask that allows all of `vocab_size` tokens.
    pub fn allow_all(vocab_size: usize) -> Self {
        Self { words: vec![u64::MAX; vocab_size.div_ceil(64)], len: vocab_size }
    }

    /// A mask that allows exactly `allowed`.
    pub fn allow_only(vocab_size: usize, allowed: &[u32]) -> Result<Self, MaskError> {
        let mut mask = Self::from_words(vocab_size, vec![0; vocab_size.div_ceil(64)])?;
        for &token in allowed {
            *mask.word_of(token)? |= 1 << (token % 64);
        }
        Ok(mask)
    }

    /// A mask from its words, least significant bit first, as grammar engines give it.
    pub fn from_words(vocab_size: usize, mut words: Vec<u64>) -> Result<Self, MaskError> {
        let wanted = vocab_size.div_ceil(64);
        if words.len() != wanted {
            return Err(MaskError::WordCount { vocab_size, wanted, got: words.len() });
        }
        if let Some(last) = words.last_mut().filter(|_| !vocab_size.is_multiple_of(64)) {
            *last |= u64::MAX << (vocab_size % 64);
        }
        Ok(Self { words, len: vocab_size })
    }

    /// Forbids one token.
    pub fn forbid(&mut self, token: u32) -> Result<(), MaskError> {
        *self.word_of(token)? &= !(1 << (token % 64));
        Ok(())
    }

    /// Whether `token` is in the vocabulary and allowed.
    pub fn allows(&self, token: u32) -> bool {
        let index = token as usize;
        index < self.len && self.words[index / 64] & (1 << (token % 64)) != 0
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.len
    }

    /// Sets the logit of every forbidden token to `-inf`. The lengths have been compared.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (word, chunk) in self.words.iter().zip(logits.chunks_mut(64)) {
            let mut forbidden = !word;
            while forbidden != 0 {
                chunk[forbidden.trailing_zeros() as usize] = f32::NEG_INFINITY;
                forbidden &= forbidden - 1;
            }
        }
    }

    fn word_of(&mut self, token: u32) -> Result<&mut u64, MaskError> {
        let index = token as usize;
        if index >= self.len {
            return Err(MaskError::TokenOutOfRange { token, vocab_size: self.len });
        }
        Ok(&mut self.words[index / 64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allowed_tokens_keep_their_logit() {
        let mask = TokenMask::allow_only(130, &[0, 63, 64, 129]).unwrap();
        let mut logits = vec![1.0; 130];
        mask.apply(&mut logits);
        let kept: Vec<_> = (0..130).filter(|&i| logits[i as usize] == 1.0).collect();
        assert_eq!(kept, [0, 63, 64, 129]);
        assert!((0..130).all(|i| mask.allows(i) == kept.contains(&i)));
        assert!(!mask.allows(130));
    }

    #[test]
    fn words_and_tokens_are_checked() {
        assert!(matches!(
            TokenMask::from_words(65, vec![0]),
            Err(MaskError::WordCount { wanted: 2, got: 1, .. })
        ));
        assert!(matches!(
            TokenMask::allow_only(64, &[64]),
            Err(MaskError::TokenOutOfRange { token: 64, .. })
        ));
        let mut mask = TokenMask::allow_all(10);
        mask.forbid(3).unwrap();
        assert!(!mask.allows(3) && mask.allows(4));
    }
}
