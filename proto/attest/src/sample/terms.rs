//! How tokens of a session are chosen, as the open names it: a hash of the parameters, and a commitment to the seed that
//! tells nothing of it before it is opened.

use proto::session::{MAX_LOGIT_BIAS, SamplingParams};

use crate::Digest;
use crate::layout::{LayoutError, Reader, Writer};

/// Parameters and the salt that hides the seed in its commitment.
#[derive(Clone, PartialEq)]
pub struct SamplingTerms {
    /// How tokens are chosen.
    pub params: SamplingParams,
    /// A grammar allowed only some tokens. It is not in the evidence, so no token is called forged by it.
    pub constrained: bool,
    /// Drawn at random by the router, and opened with the seed.
    pub salt: [u8; 32],
}

impl SamplingTerms {
    /// What an open says of the parameters, the seed apart.
    pub fn hash(&self) -> Digest {
        let mut writer = Writer::new();
        self.write_params(&mut writer);
        Digest::from_bytes(blake3::derive_key("layerlane attest sampling 1", &writer.finish()))
    }

    /// What an open says of the seed.
    pub fn seed_commit(&self) -> Digest {
        let mut writer = Writer::new();
        writer.bytes(&self.salt);
        writer.u64(self.params.seed);
        Digest::from_bytes(blake3::derive_key("layerlane attest seed 1", &writer.finish()))
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        self.write_params(writer);
        writer.u64(self.params.seed);
        writer.bytes(&self.salt);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let (mut params, constrained) = Self::read_params(reader)?;
        params.seed = reader.u64("seed")?;
        Ok(Self { params, constrained, salt: reader.array("salt")? })
    }

    fn read_params(reader: &mut Reader<'_>) -> Result<(SamplingParams, bool), LayoutError> {
        let mut params = SamplingParams {
            temperature: reader.f32("temperature")?,
            top_k: reader.u32("top_k")?,
            top_p: reader.f32("top_p")?,
            min_p: reader.f32("min_p")?,
            repetition_penalty: reader.f32("repetition penalty")?,
            presence_penalty: reader.f32("presence penalty")?,
            frequency_penalty: reader.f32("frequency penalty")?,
            logit_bias: Vec::new(),
            seed: 0,
        };
        let constrained = reader.flag("constrained")?;
        params.logit_bias = reader.list::<_, LayoutError>(MAX_LOGIT_BIAS, 8, "biases", |reader| {
            Ok((reader.u32("token")?, reader.f32("bias")?))
        })?;
        Ok((params, constrained))
    }

    fn write_params(&self, writer: &mut Writer) {
        let params = &self.params;
        writer.f32(params.temperature);
        writer.u32(params.top_k);
        for value in [
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        ] {
            writer.f32(value);
        }
        writer.u8(u8::from(self.constrained));
        writer.u32(params.logit_bias.len() as u32);
        for &(token, bias) in &params.logit_bias {
            writer.u32(token);
            writer.f32(bias);
        }
    }
}

/// Without the salt: it hides the seed for as long as it is not told.
impl std::fmt::Debug for SamplingTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SamplingTerms").field("params", &self.params).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_round_trip_and_the_hash_hides_the_seed() {
        let params =
            SamplingParams { temperature: 0.7, logit_bias: vec![(3, -1.5)], seed: 9, ..Default::default() };
        let terms = SamplingTerms { params, constrained: false, salt: [6; 32] };
        let mut writer = Writer::new();
        terms.write(&mut writer);
        let bytes = writer.finish();
        assert_eq!(SamplingTerms::read(&mut Reader::new(&bytes)), Ok(terms.clone()));
        for len in 0..bytes.len() {
            assert!(SamplingTerms::read(&mut Reader::new(&bytes[..len])).is_err());
        }
        let mut other = terms.clone();
        other.params.seed = 10;
        assert_eq!(other.hash(), terms.hash());
        assert_ne!(other.seed_commit(), terms.seed_commit());
        other.constrained = true;
        assert_ne!(other.hash(), terms.hash());
        other.constrained = false;
        other.params.top_k = 1;
        assert_ne!(other.hash(), terms.hash());
        assert_ne!(SamplingTerms { salt: [7; 32], ..terms.clone() }.seed_commit(), terms.seed_commit());
    }
}
