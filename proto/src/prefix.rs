//! Names of prompts' beginnings, so that stages find rows that they have computed before.
//!
//! A prompt is cut into blocks of [`BLOCK_TOKENS`] tokens. A block's hash covers its tokens and everything before it,
//! so that one hash names a whole beginning. The chain starts from the tenant: equal prompts of two tenants have no
//! hash in common, and who does not know a tenant's id can't guess at its prompts. What may be reused for whom is the
//! node's to decide.

use bincode::{Decode, Encode};

use crate::id::BlockHash;

/// Tokens of a block.
pub const BLOCK_TOKENS: u32 = 64;

/// Whose request it is, as far as a node must know: an opaque number that the router makes from its clients' keys.
/// Shares of a node's time are counted by it, and prefixes are kept apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Encode, Decode)]
pub struct TenantId([u8; 16]);

impl TenantId {
    /// Takes the bytes as they are. All zero stands for a router's clients that it does not tell apart.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From a client's key; without the router's `salt` nobody finds the key by trying.
    pub fn of_key(salt: &[u8; 32], key: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::keyed_hash(salt, key).as_bytes()[..16]);
        Self(id)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The hashes of the whole blocks of `tokens`, in order.
pub fn block_hashes(tenant: &TenantId, tokens: &[u32]) -> Vec<BlockHash> {
    let mut before = [0; 32];
    before[..16].copy_from_slice(tenant.as_bytes());
    tokens
        .chunks_exact(BLOCK_TOKENS as usize)
        .map(|block| {
            let mut hasher = blake3::Hasher::new_derive_key("layerlane prefix block 1");
            hasher.update(&before);
            for token in block {
                hasher.update(&token.to_le_bytes());
            }
            before = *hasher.finalize().as_bytes();
            BlockHash::from_bytes(before)
        })
        .collect()
}

/// The blocks of `prompt` that a router offers for reuse: at least the last token is always computed, since the first
/// answer is sampled from its row.
pub fn reusable_blocks(tenant: &TenantId, prompt: &[u32]) -> Vec<BlockHash> {
    block_hashes(tenant, &prompt[..prompt.len().saturating_sub(1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_covers_everything_before_it_and_the_tenant() {
        let tokens: Vec<u32> = (0..200).collect();
        let tenant = TenantId::default();
        let hashes = block_hashes(&tenant, &tokens);
        assert_eq!(hashes.len(), 3);
        assert_eq!(block_hashes(&tenant, &tokens[..130]), hashes[..2]);
        let mut other = tokens.clone();
        other[70] += 1;
        let others = block_hashes(&tenant, &other);
        assert_eq!(others[0], hashes[0]);
        assert!(others[1] != hashes[1] && others[2] != hashes[2]);
        let elsewhere = block_hashes(&TenantId::of_key(&[1; 32], b"key"), &tokens);
        assert!(elsewhere.iter().all(|hash| !hashes.contains(hash)));
        assert_eq!(hashes[0].short(), "a0999705", "another hash finds nothing on other versions");
    }

    #[test]
    fn the_last_token_is_never_offered() {
        let tokens: Vec<u32> = (0..129).collect();
        for (length, blocks) in [(0, 0), (1, 0), (64, 0), (65, 1), (128, 1), (129, 2)] {
            assert_eq!(reusable_blocks(&TenantId::default(), &tokens[..length]).len(), blocks, "{length}");
        }
    }
}
