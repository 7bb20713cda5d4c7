//! What an answer cost, in tokens.

use crate::json::write_u64;

/// Tokens of an answer, all its choices together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Those of them that nodes still held.
    pub cached: u64,
    /// Tokens generated.
    pub completion: u64,
    /// Tokens that nodes computed and nobody got: beyond a stop string, or twice because a node was lost.
    pub waste: u64,
}

impl Usage {
    /// Appends it as completions have it. `reasoning`: those of the generated tokens that were thoughts.
    pub(super) fn write_completion(&self, reasoning: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"prompt_tokens\":");
        write_u64(self.prompt, out);
        out.extend_from_slice(b",\"completion_tokens\":");
        write_u64(self.completion, out);
        out.extend_from_slice(b",\"total_tokens\":");
        write_u64(self.prompt + self.completion, out);
        out.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
        write_u64(self.cached, out);
        out.extend_from_slice(b"},\"completion_tokens_details\":{\"reasoning_tokens\":");
        write_u64(reasoning, out);
        out.extend_from_slice(b",\"waste_tokens\":");
        write_u64(self.waste, out);
        out.extend_from_slice(b"}}");
    }

    /// Appends it as responses have it.
    pub(super) fn write_response(&self, reasoning: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"input_tokens\":");
        write_u64(self.prompt, out);
        out.extend_from_slice(b",\"input_tokens_details\":{\"cached_tokens\":");
        write_u64(self.cached, out);
        out.extend_from_slice(b",\"cache_write_tokens\":0},\"output_tokens\":");
        write_u64(self.completion, out);
        out.extend_from_slice(b",\"output_tokens_details\":{\"reasoning_tokens\":");
        write_u64(reasoning, out);
        out.extend_from_slice(b",\"waste_tokens\":");
        write_u64(self.waste, out);
        out.extend_from_slice(b"},\"total_tokens\":");
        write_u64(self.prompt + self.completion, out);
        out.push(b'}');
    }
}
