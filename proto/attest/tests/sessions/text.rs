//! Tokens of made-up sessions, their logits, and the rows that layers make of them: functions of the tokens before.

use proto::Position;
use proto::session::SamplingParams;
use proto_attest::sample::SamplingTerms;
use proto_sampling::{Sampler, Scratch, TokenCounts};

pub(crate) const VOCAB: usize = 200;

pub(crate) fn terms() -> SamplingTerms {
    let params = SamplingParams { temperature: 0.8, top_p: 0.9, seed: 42, ..Default::default() };
    SamplingTerms { params, constrained: false, salt: [7; 32] }
}

/// The tokens of every session, and what is computed from them.
pub(crate) struct Text {
    pub(crate) tokens: Vec<u32>,
    prefixes: Vec<[u8; 32]>,
    sampler: Sampler,
}

impl Text {
    pub(crate) fn new(prompt: u32) -> Self {
        let mut text = Self {
            tokens: Vec::new(),
            prefixes: Vec::new(),
            sampler: Sampler::new(&terms().params, VOCAB).unwrap(),
        };
        (0..prompt).for_each(|index| text.push(index * 7 % VOCAB as u32));
        text
    }

    pub(crate) fn push(&mut self, token: u32) {
        let before = self.prefixes.last().copied().unwrap_or_default();
        let bytes = [&before[..], &token.to_le_bytes()].concat();
        self.prefixes.push(*blake3::hash(&bytes).as_bytes());
        self.tokens.push(token);
    }

    /// The token at a position: made as it is asked for.
    pub(crate) fn token(&mut self, position: u32) -> u32 {
        while self.tokens.len() <= position as usize {
            let next = self.choose(self.tokens.len() as u32);
            self.push(next);
        }
        self.tokens[position as usize]
    }

    pub(crate) fn logits(&mut self, position: u32) -> Vec<f32> {
        self.token(position - 1);
        let mut bytes = [0; VOCAB];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.prefixes[position as usize - 1]).finalize_xof().fill(&mut bytes);
        bytes.iter().map(|&byte| -2.0 * (-((f32::from(byte) + 0.5) / 256.0).ln()).ln()).collect()
    }

    pub(crate) fn choose(&mut self, position: u32) -> u32 {
        let mut logits = self.logits(position);
        let history = TokenCounts::new();
        self.sampler
            .sample(&mut logits, &history, Position::new(position), None, &mut Scratch::default())
            .unwrap()
            .token
    }

    /// What leaves layer `boundary` at a position; boundary 0 is the token.
    pub(crate) fn row(&mut self, boundary: u32, position: u32) -> Vec<u8> {
        let token = self.token(position);
        if boundary == 0 {
            return token.to_le_bytes().to_vec();
        }
        let prefix = self.prefixes[position as usize];
        blake3::hash(&[&prefix[..], &boundary.to_le_bytes()].concat()).as_bytes().to_vec()
    }
}
