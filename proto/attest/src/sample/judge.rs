//! Whether a token follows from the committed logits of its row.
//!
//! Of the tokens outside the committed ones it is known only that none has a larger logit than the last of these, and
//! what all together weigh (by the logsumexp). So each decision of the sampler is taken with bounds: a token that comes
//! out whatever the others are passes, one that can't come out fails, and what they decide needs the full row.

use proto::session::SamplingParams;
use proto_sampling::{GumbelNoise, ParameterError, Sampler, Scratch, TokenCounts, TokenMask};

use crate::sample::{Sample, TOP};

/// What the committed logits say of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TokenVerdict {
    /// It follows.
    Pass = 1,
    /// It does not.
    Fail = 2,
    /// It depends on logits that were not committed to.
    NeedsFullLogits = 3,
}

/// Why a token can't be judged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JudgeError {
    /// The terms are not ones that a session can have.
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    /// A token beyond the vocabulary.
    #[error("token {0} is not in the vocabulary")]
    Vocabulary(u32),
    /// The terms leave nothing to choose from.
    #[error(transparent)]
    Sample(#[from] proto_sampling::SampleError),
}

/// Judges `token` as the choice at the sample's position. `history` holds the tokens before it, `mask` the ones that a
/// grammar allowed there.
pub fn judge(
    sample: &Sample,
    token: u32,
    params: &SamplingParams,
    vocab_size: usize,
    history: &TokenCounts,
    mask: Option<&TokenMask>,
) -> Result<TokenVerdict, JudgeError> {
    let sampler = Sampler::new(params, vocab_size)?;
    let beyond = sample.top.iter().map(|&(id, _)| id).chain([token]).find(|&id| id as usize >= vocab_size);
    if let Some(id) = beyond {
        return Err(JudgeError::Vocabulary(id));
    }
    // Penalties and biases are monotone in the logit, so that adjusting the largest possible one gives the largest.
    let floor = if sample.top.len() < TOP { f32::NEG_INFINITY } else { sample.top[TOP - 1].1 };
    let mut row = vec![floor; vocab_size];
    for &(id, logit) in &sample.top {
        row[id as usize] = logit;
    }
    sampler.sample(&mut row, history, sample.position, mask, &mut Scratch::default())?;
    Ok(Rows::new(sample, &row, floor).judge(token, params, sampler.is_greedy()))
}

/// Adjusted logits: of committed tokens as they are, of all others the largest that they can be.
struct Rows<'a> {
    sample: &'a Sample,
    row: &'a [f32],
    /// Committed tokens, larger adjusted logits first, then lower ids.
    known: Vec<(f32, u32)>,
    is_known: Vec<bool>,
    /// Before adjustment.
    floor: f32,
    /// The largest adjusted logit that a token which is not committed can have.
    others_max: f32,
}

/// What the truncations certainly keep and certainly drop.
struct Truncated {
    kept: Vec<Keeps>,
    others_may_be_kept: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Yes,
    No,
    Unknown,
}

impl<'a> Rows<'a> {
    fn new(sample: &'a Sample, row: &'a [f32], floor: f32) -> Self {
        let mut is_known = vec![false; row.len()];
        sample.top.iter().for_each(|&(id, _)| is_known[id as usize] = true);
        let mut known: Vec<(f32, u32)> = sample.top.iter().map(|&(id, _)| (row[id as usize], id)).collect();
        known.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let others = row.iter().zip(&is_known).filter(|(_, known)| !**known).map(|(logit, _)| *logit);
        let others_max = others.fold(f32::NEG_INFINITY, f32::max);
        Self { sample, row, known, is_known, floor, others_max }
    }

    fn judge(&self, token: u32, params: &SamplingParams, greedy: bool) -> TokenVerdict {
        let (max, first) = self.known[0];
        if max <= self.others_max {
            // Not even the largest logit is certain.
            return TokenVerdict::NeedsFullLogits;
        }
        if greedy {
            return if token == first { TokenVerdict::Pass } else { TokenVerdict::Fail };
        }
        let temperature = f64::from(params.temperature);
        let noise = GumbelNoise::new(params.seed, self.sample.position.get());
        // As the sampler computes it.
        let score =
            |logit: f32, id: u32| (f64::from(logit) - f64::from(max)) / temperature + noise.gumbel(id);
        let truncated = self.truncate(params, temperature);
        let scored = |wanted: Keeps| {
            let kept = self.known.iter().zip(&truncated.kept).filter(move |(_, keeps)| **keeps == wanted);
            kept.map(|(&(logit, id), _)| (score(logit, id), id))
        };
        let best = |a: (f64, u32), b: (f64, u32)| if beats(b, a) { b } else { a };
        let Some(winner) = scored(Keeps::Yes).reduce(best) else { return TokenVerdict::NeedsFullLogits };
        if token != winner.1 {
            let claimed = (score(self.row[token as usize], token), token);
            let place = self.known.iter().position(|&(_, id)| id == token);
            let may_be_kept = match place {
                Some(place) => truncated.kept[place] != Keeps::No,
                None => truncated.others_may_be_kept,
            };
            let possible =
                may_be_kept && self.row[token as usize] > f32::NEG_INFINITY && !beats(winner, claimed);
            return if possible { TokenVerdict::NeedsFullLogits } else { TokenVerdict::Fail };
        }
        let mut rivals = scored(Keeps::Unknown);
        if rivals.any(|rival| !beats(winner, rival)) {
            return TokenVerdict::NeedsFullLogits;
        }
        let other_wins = || {
            let others = (0..self.row.len() as u32).filter(|&id| !self.is_known[id as usize]);
            others
                .map(|id| (self.row[id as usize], id))
                .any(|(logit, id)| logit > f32::NEG_INFINITY && !beats(winner, (score(logit, id), id)))
        };
        if truncated.others_may_be_kept && other_wins() {
            return TokenVerdict::NeedsFullLogits;
        }
        TokenVerdict::Pass
    }

    /// Each truncation keeps a beginning of the order by logit; see `proto-sampling`.
    fn truncate(&self, params: &SamplingParams, temperature: f64) -> Truncated {
        let max = f64::from(self.known[0].0);
        let masses: Vec<f64> =
            self.known.iter().map(|&(logit, _)| ((f64::from(logit) - max) / temperature).exp()).collect();
        // So many lead the order for certain.
        let sure = self.known.iter().take_while(|&&(logit, _)| logit > self.others_max).count();
        let top_k = Some(params.top_k as usize).filter(|&k| k > 0 && k < self.row.len());
        let ranked_out = |place: usize| top_k.is_some_and(|k| place >= k);
        let (least, most) = match top_k {
            Some(k) if k <= sure => {
                let total = masses[..k].iter().sum();
                (total, total)
            }
            Some(_) => {
                (masses[..sure].iter().sum(), masses.iter().sum::<f64>() + self.others_mass(temperature))
            }
            None => (masses.iter().sum(), masses.iter().sum::<f64>() + self.others_mass(temperature)),
        };
        let (least, most) = (least * (1.0 - SLACK), most * (1.0 + SLACK));
        let p = (params.top_p < 1.0).then(|| f64::from(params.top_p));
        let min_p = (params.min_p > 0.0).then(|| max + temperature * f64::from(params.min_p).ln());
        let mut before = 0.0;
        let mut kept = Vec::with_capacity(masses.len());
        for (place, (&mass, &(logit, _))) in masses.iter().zip(&self.known).enumerate() {
            let logit = f64::from(logit);
            let dropped = ranked_out(place)
                || (place > 0 && p.is_some_and(|p| before >= p * most))
                || min_p.is_some_and(|limit| logit < limit - SLACK)
                || logit == f64::NEG_INFINITY;
            let certain = place == 0
                || (place < sure
                    && p.is_none_or(|p| before < p * least)
                    && min_p.is_none_or(|limit| logit > limit + SLACK));
            kept.push(match (dropped, certain) {
                (true, _) => Keeps::No,
                (false, true) => Keeps::Yes,
                (false, false) => Keeps::Unknown,
            });
            before += mass;
        }
        let sure_mass: f64 = masses[..sure].iter().sum();
        let others_may_be_kept = self.others_max > f32::NEG_INFINITY
            && top_k.is_none_or(|k| k > sure)
            && p.is_none_or(|p| sure_mass < p * most)
            && min_p.is_none_or(|limit| f64::from(self.others_max) >= limit - SLACK);
        Truncated { kept, others_may_be_kept }
    }

    /// The most that tokens which are not committed can weigh together, the largest adjusted logit weighing 1.
    fn others_mass(&self, temperature: f64) -> f64 {
        let max = f64::from(self.known[0].0);
        let weight = |logit: f32| ((f64::from(logit) - max) / temperature).exp();
        let others = self.row.iter().zip(&self.is_known).filter(|(_, known)| !**known);
        let (mut adjusted, mut as_they_were) = (0.0, 0.0);
        for (&logit, _) in others {
            if logit == self.floor { as_they_were += 1.0 } else { adjusted += weight(logit) }
        }
        if as_they_were == 0.0 || self.floor == f32::NEG_INFINITY {
            return adjusted;
        }
        let floor = f64::from(self.floor);
        let by_count = as_they_were * weight(self.floor);
        // What is left of the sum of exponentials, the largest unmodified logit weighing 1.
        let raw = f64::from(self.sample.top[0].1);
        let committed: f64 = self.sample.top.iter().map(|&(_, logit)| (f64::from(logit) - raw).exp()).sum();
        let all = (f64::from(self.sample.logsumexp) - raw).exp();
        let left = (all - committed).max(0.0) + SLACK * all;
        let by_sum = if temperature <= 1.0 {
            // exp((l - max) / t) = exp(l - raw) exp(..), and the second factor rises with l.
            left * ((floor - max) / temperature - (floor - raw)).exp()
        } else {
            // Power means: of n values with a given sum, equal ones have the largest sum of roots.
            as_they_were.powf(1.0 - 1.0 / temperature)
                * left.powf(1.0 / temperature)
                * ((raw - max) / temperature).exp()
        };
        adjusted + by_count.min(by_sum)
    }
}

/// Larger scores win, then lower tokens.
fn beats(a: (f64, u32), b: (f64, u32)) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// More than what the sampler's single-precision weights and the f32 of a logsumexp can be off by.
const SLACK: f64 = 1e-4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Position;

    use super::*;

    /// Logits whose largest stand out as those of a model do: `peak` is the spread in units of a logit.
    fn logits(seed: u64, vocab: usize, peak: f32) -> Vec<f32> {
        let mut bytes = vec![0u8; 2 * vocab];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let unit =
            bytes.chunks_exact(2).map(|b| (f32::from(u16::from_le_bytes([b[0], b[1]])) + 0.5) / 65_536.0);
        unit.map(|u| -peak * (-u.ln()).ln()).collect()
    }

    fn choose(row: &[f32], params: &SamplingParams, history: &TokenCounts) -> u32 {
        let sampler = Sampler::new(params, row.len()).unwrap();
        let mut row = row.to_vec();
        sampler.sample(&mut row, history, Position::new(9), None, &mut Scratch::default()).unwrap().token
    }

    prop_compose! {
        fn params()(
            temperature in prop_oneof![Just(0.0f32), 0.2f32..2.0],
            top_k in prop_oneof![Just(0u32), 1u32..100],
            top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
            min_p in prop_oneof![Just(0.0f32), 0.001f32..0.5],
            repetition_penalty in prop_oneof![Just(1.0f32), 0.7f32..1.6],
            frequency_penalty in prop_oneof![Just(0.0f32), -1.0f32..1.0],
            logit_bias in prop::collection::vec((0u32..300, -3.0f32..6.0), 0..3),
            seed: u64,
        ) -> SamplingParams {
            let mut logit_bias: Vec<(u32, f32)> = logit_bias;
            logit_bias.dedup_by_key(|bias| bias.0);
            logit_bias.sort_by_key(|bias| bias.0);
            logit_bias.dedup_by_key(|bias| bias.0);
            SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, logit_bias, seed, ..Default::default() }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn verdicts_are_never_wrong(
            params in params(), row_seed: u64, vocab in 40usize..400, peak in 0.3f32..4.0,
            wrong in any::<prop::sample::Index>(), history in prop::collection::vec(0u32..300, 0..20),
        ) {
            let vocab = vocab.max(params.logit_bias.iter().map(|b| b.0 as usize + 1).max().unwrap_or(0));
            let row = logits(row_seed, vocab, peak);
            let history = TokenCounts::from_history(&history, 10);
            let sample = Sample::of_logits(Position::new(9), &row).unwrap();
            let right = choose(&row, &params, &history);
            let verdict = judge(&sample, right, &params, vocab, &history, None).unwrap();
            prop_assert_ne!(verdict, TokenVerdict::Fail);
            let near = sample.top()[wrong.index(sample.top().len())].0;
            for wrong in [wrong.index(vocab) as u32, near] {
                if wrong != right {
                    let verdict = judge(&sample, wrong, &params, vocab, &history, None).unwrap();
                    prop_assert_ne!(verdict, TokenVerdict::Pass);
                }
            }
        }
    }

    #[test]
    fn usual_settings_are_decided_by_what_is_committed() {
        let usual = [
            SamplingParams::default(),
            SamplingParams { temperature: 0.7, top_p: 0.9, ..Default::default() },
            SamplingParams { temperature: 0.8, top_k: 40, top_p: 0.95, ..Default::default() },
            SamplingParams { temperature: 1.0, min_p: 0.05, ..Default::default() },
        ];
        for base in usual {
            let mut open = 0;
            for seed in 0..200 {
                let params = SamplingParams { seed, ..base.clone() };
                let row = logits(seed, 5_000, 1.6);
                let right = choose(&row, &params, &TokenCounts::new());
                let sample = Sample::of_logits(Position::new(9), &row).unwrap();
                match judge(&sample, right, &params, row.len(), &TokenCounts::new(), None).unwrap() {
                    TokenVerdict::Pass => {}
                    TokenVerdict::NeedsFullLogits => open += 1,
                    TokenVerdict::Fail => panic!("seed {seed} {params:?}"),
                }
                let wrong = sample.top()[usize::from(sample.top()[0].0 == right)].0;
                let verdict = judge(&sample, wrong, &params, row.len(), &TokenCounts::new(), None).unwrap();
                assert_ne!(verdict, TokenVerdict::Pass);
            }
            assert!(open <= 20, "{open} of 200 need the row: {base:?}");
        }
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_an_error() {
        let sample = Sample::of_logits(Position::new(9), &[0.0, 1.0]).unwrap();
        let judged = |token, vocab| {
            judge(&sample, token, &SamplingParams::default(), vocab, &TokenCounts::new(), None)
        };
        assert_eq!(judged(2, 2), Err(JudgeError::Vocabulary(2)));
        assert_eq!(judged(1, 1), Err(JudgeError::Vocabulary(1)));
        assert_eq!(judged(1, 2), Ok(TokenVerdict::Pass));
        assert_eq!(judged(0, 2), Ok(TokenVerdict::Fail));
    }
}
