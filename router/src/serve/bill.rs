//! What a request takes of its key, told when the last of its answers is dropped, however they ended.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::keys::Admitted;

/// The bill of one request.
#[derive(Debug)]
pub(super) struct Bill {
    admitted: Admitted,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

impl Bill {
    pub(super) const fn new(admitted: Admitted) -> Self {
        Self { admitted, prompt_tokens: AtomicU64::new(0), completion_tokens: AtomicU64::new(0) }
    }

    /// An answer to a prompt of so many tokens begins.
    pub(super) fn prompt(&self, tokens: u64) {
        self.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// So many more tokens were given out.
    pub(super) fn generated(&self, tokens: u64) {
        self.completion_tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let (prompt, completion) = (*self.prompt_tokens.get_mut(), *self.completion_tokens.get_mut());
        if prompt > 0 {
            self.admitted.used(prompt, completion);
        }
    }
}
