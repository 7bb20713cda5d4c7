//! Distribution and invariance of whole choices, against a plain reference that sorts everything.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

pub(crate) fn params(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, seed: 1, ..SamplingParams::default() }
}

fn sample(logits: &[f32], params: &SamplingParams, position: u32) -> Choice {
    sample_with(logits, params, &TokenCounts::new(), position, None).unwrap()
}

fn sample_with(
    logits: &[f32],
    params: &SamplingParams,
    history: &TokenCounts,
    position: u32,
    mask: Option<&TokenMask>,
) -> Result<Choice, SampleError> {
    let sampler = Sampler::new(params, logits.len()).unwrap();
    let mut row = logits.to_vec();
    sampler.sample(&mut row, history, Position::new(position), mask, &mut Scratch::default())
}

/// Survivors by full sort and floating-point sums, the way a textbook says it.
fn reference_survivors(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |i: usize| ((f64::from(logits[i]) - f64::from(max)) / f64::from(params.temperature)).exp();
    let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let mut mass = 0.0;
    let mut kept = Vec::new();
    for &i in &order {
        kept.push(i as u32);
        mass += weight(i);
        if params.top_p < 1.0 && mass >= f64::from(params.top_p) * total {
            break;
        }
    }
    kept.retain(|&i| weight(i as usize) >= f64::from(params.min_p));
    kept
}

fn random_logits(seed: u64, n: usize, spread: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // A sum of uniforms: bell-shaped, as logits are.
    (0..n).map(|_| (0..6).map(|_| rng.random_range(-spread..spread)).sum::<f32>()).collect()
}

/// Draws at many positions and compares the frequencies with `expected`, by chi-square.
fn assert_distribution(logits: &[f32], params: &SamplingParams, expected: &[f64]) {
    const DRAWS: u32 = 40_000;
    let sampler = Sampler::new(params, logits.len()).unwrap();
    let mut scratch = Scratch::default();
    let mut seen = vec![0u32; logits.len()];
    for position in 0..DRAWS {
        let mut row = logits.to_vec();
        let choice = sampler
            .sample(&mut row, &TokenCounts::new(), Position::new(position), None, &mut scratch)
            .unwrap();
        seen[choice.token as usize] += 1;
    }
    let (mut chi, mut cells) = (0.0, 0.0);
    for (&n, &p) in seen.iter().zip(expected) {
        let want = p * f64::from(DRAWS);
        if want < 5.0 {
            assert!(f64::from(n) < want + 25.0, "a token of probability {p} came {n} times");
            continue;
        }
        chi += (f64::from(n) - want).powi(2) / want;
        cells += 1.0;
    }
    // Mean `cells`, deviation sqrt(2 cells): five deviations.
    assert!(chi < cells + 5.0 * f64::sqrt(2.0 * cells) + 5.0, "seed {}: chi-square {chi}", params.seed);
}

fn softmax(logits: &[f32], temperature: f32, kept: &[u32]) -> Vec<f64> {
    let mut p = vec![0.0; logits.len()];
    for &i in kept {
        p[i as usize] = f64::from(logits[i as usize] / temperature).exp();
    }
    let total: f64 = p.iter().sum();
    p.iter().map(|x| x / total).collect()
}

#[test]
fn frequencies_follow_the_softmax() {
    for (seed, n, temperature) in [(1, 5, 1.0), (2, 50, 0.7), (3, 300, 1.6)] {
        let logits = random_logits(seed, n, 1.0);
        let params = SamplingParams { seed, ..params(temperature) };
        let all: Vec<u32> = (0..n as u32).collect();
        assert_distribution(&logits, &params, &softmax(&logits, temperature, &all));
    }
}

#[test]
fn frequencies_follow_the_truncated_softmax() {
    let logits = random_logits(9, 120, 1.2);
    let base = SamplingParams { seed: 77, ..params(0.9) };
    for params in [
        SamplingParams { top_k: 7, ..base.clone() },
        SamplingParams { top_p: 0.8, ..base.clone() },
        SamplingParams { min_p: 0.1, ..base.clone() },
        SamplingParams { top_k: 40, top_p: 0.9, min_p: 0.05, ..base.clone() },
    ] {
        let kept = reference_survivors(&logits, &params);
        assert!(kept.len() < 100);
        assert_distribution(&logits, &params, &softmax(&logits, 0.9, &kept));
    }
}

#[test]
fn each_position_draws_anew_and_repeats_exactly() {
    let logits = random_logits(4, 1000, 0.3);
    let draw = |seed, position| sample(&logits, &SamplingParams { seed, ..params(1.0) }, position).token;
    let first: Vec<u32> = (0..64).map(|p| draw(5, p)).collect();
    assert_eq!(first, (0..64).map(|p| draw(5, p)).collect::<Vec<_>>());
    assert_ne!(first, (0..64).map(|p| draw(6, p)).collect::<Vec<_>>());
    assert_ne!(first, (1..65).map(|p| draw(5, p)).collect::<Vec<_>>());
}

/// Choices that must never change between versions or machines.
#[test]
fn golden_choices() {
    let logits: Vec<f32> = (0..512u32).map(|i| ((i * 7919) % 512) as f32 / 64.0).collect();
    let params = SamplingParams { seed: 2024, top_k: 200, top_p: 0.95, ..params(0.8) };
    let tokens: Vec<u32> = (0..8).map(|p| sample(&logits, &params, p).token).collect();
    assert_eq!(tokens, GOLDEN_CHOICES);
}

const GOLDEN_CHOICES: [u32; 8] = [332, 19, 186, 109, 242, 122, 184, 426];

#[test]
fn ties_go_to_the_lowest_token() {
    for n in [1, 2, 15, 16, 17, 64, 65, 1000] {
        for first in [0, n / 3, n - 1] {
            let mut logits = vec![0.5; n];
            logits[first..].fill(2.0);
            let choice = sample(&logits, &params(0.0), 0);
            assert_eq!(choice.token as usize, first);
            if first + 1 < n {
                assert_eq!(choice.margin, 0.0);
            }
            let one = SamplingParams { top_k: 1, ..params(3.0) };
            assert_eq!(sample(&logits, &one, 9).token as usize, first);
        }
    }
}

#[test]
fn logprob_is_of_the_unmodified_distribution_and_margin_of_the_deciding_logits() {
    let logits = [1.0f32, 3.0, 2.5, -1.0];
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let plain = sample(&logits, &params(0.0), 0);
    assert_eq!((plain.token, plain.margin), (1, 0.5));
    let biased = SamplingParams { logit_bias: vec![(0, 5.0)], ..params(0.0) };
    let choice = sample(&logits, &biased, 0);
    assert_eq!((choice.token, choice.margin), (0, 3.0));
    for (choice, raw) in [(plain, 3.0f64), (choice, 1.0)] {
        assert!((f64::from(choice.logprob) - (raw - total.ln())).abs() < 1e-6);
    }
    assert_eq!(
        sample(&[4.0], &params(1.0), 0),
        Choice { logsumexp: 4.0, token: 0, logprob: 0.0, margin: f32::INFINITY }
    );
}

#[test]
fn penalties_count_prompt_and_output_as_documented() {
    let logits = [2.0f32, 2.0, -2.0, 2.0];
    let mut history = TokenCounts::from_prompt(&[0, 2, 900]);
    history.push_generated(1);
    history.push_generated(1);
    let adjusted = |params: &SamplingParams| {
        let mut row = logits.to_vec();
        let sampler = Sampler::new(params, 4).unwrap();
        sampler.sample(&mut row, &history, Position::new(0), None, &mut Scratch::default()).unwrap();
        row
    };
    let base = params(0.0);
    let repetition = SamplingParams { repetition_penalty: 2.0, ..base.clone() };
    assert_eq!(adjusted(&repetition), [1.0, 1.0, -4.0, 2.0]);
    assert_eq!(adjusted(&SamplingParams { presence_penalty: 0.5, ..base.clone() }), [2.0, 1.5, -2.0, 2.0]);
    assert_eq!(adjusted(&SamplingParams { frequency_penalty: 0.5, ..base }), [2.0, 1.0, -2.0, 2.0]);
}

#[test]
fn a_bias_of_minus_100_removes_a_token() {
    let mut logits = vec![0.0; 50];
    logits[7] = 1000.0;
    let banned = SamplingParams { logit_bias: vec![(7, -100.0)], ..params(50.0) };
    assert!((0..500).all(|p| sample(&logits, &banned, p).token != 7));
    let forced = SamplingParams { logit_bias: vec![(3, 100.0)], ..params(1.0) };
    assert!((0..500).all(|p| sample(&[0.0; 50], &forced, p).token == 3));
}

#[test]
fn the_mask_leaves_only_its_tokens() {
    let logits = random_logits(8, 200, 2.0);
    let mask = TokenMask::allow_only(200, &[5, 64, 199]).unwrap();
    let hot = params(20.0);
    let mut seen = std::collections::BTreeSet::new();
    for position in 0..200 {
        seen.insert(sample_with(&logits, &hot, &TokenCounts::new(), position, Some(&mask)).unwrap().token);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [5, 64, 199]);
}

#[test]
fn impossible_input_is_an_error() {
    let history = TokenCounts::new();
    for (bad, n, at) in [(f32::NAN, 40, 33), (f32::INFINITY, 40, 0), (f32::NAN, 1, 0), (-f32::NAN, 17, 16)] {
        let mut logits = vec![0.0; n];
        logits[at] = bad;
        for temperature in [0.0, 1.0] {
            let got = sample_with(&logits, &params(temperature), &history, 0, None);
            assert!(matches!(got, Err(SampleError::NotFinite { token, .. }) if token as usize == at));
        }
    }
    let none = TokenMask::allow_only(3, &[]).unwrap();
    assert_eq!(sample_with(&[0.0; 3], &params(1.0), &history, 0, Some(&none)), Err(SampleError::NothingLeft));
    assert_eq!(
        sample_with(&[f32::NEG_INFINITY; 3], &params(0.0), &history, 0, None),
        Err(SampleError::NothingLeft)
    );
    let wide = TokenMask::allow_all(4);
    assert!(matches!(
        sample_with(&[0.0; 3], &params(0.0), &history, 0, Some(&wide)),
        Err(SampleError::MaskSize { got: 4, vocab_size: 3 })
    ));
    let sampler = Sampler::new(&params(0.0), 3).unwrap();
    let got = sampler.sample(&mut [0.0; 2], &history, Position::new(0), None, &mut Scratch::default());
    assert_eq!(got, Err(SampleError::LogitCount { got: 2, vocab_size: 3 }));
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let rough = prop::collection::vec((-20i8..20).prop_map(|l| f32::from(l) / 4.0), 1..400);
    let wild = prop::collection::vec(
        prop_oneof![Just(f32::NEG_INFINITY), Just(f32::MAX), Just(f32::MIN), any::<f32>(), -5.0f32..5.0],
        1..80,
    );
    let smooth = (any::<u64>(), 1usize..3000, 0.01f32..4.0).prop_map(|(s, n, w)| random_logits(s, n, w));
    prop_oneof![rough, wild, smooth]
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0f32), 0.0f32..2.0, Just(100.0), Just(1e-5), Just(1e-4)];
    let top_k = prop_oneof![Just(0u32), 1u32..50, Just(u32::MAX)];
    let unit = || prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..1.0];
    let penalties = (0.5f32..2.0, -2.0f32..2.0, -2.0f32..2.0);
    (temperature, top_k, unit(), unit(), penalties, any::<u64>()).prop_map(
        |(
            temperature,
            top_k,
            top_p,
            min_p,
            (repetition_penalty, presence_penalty, frequency_penalty),
            seed,
        )| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                seed,
                ..SamplingParams::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_scratch_leaves_no_trace(
        logits in any_logits(),
        params in any_params(),
        history in prop::collection::vec(0u32..500, 0..30),
        position: u32,
    ) {
        let mut counts = TokenCounts::from_prompt(&history);
        for &id in history.iter().take(10) { counts.push_generated(id); }
        let fresh = sample_with(&logits, &params, &counts, position, None);
        let mut scratch = Scratch::default();
        let other = SamplingParams { temperature: 1.0, top_k: 3, top_p: 0.5, ..SamplingParams::default() };
        let _ = Sampler::new(&other, 4).unwrap()
            .sample(&mut [1.0, 2.0, 3.0, 4.0], &counts, Position::new(1), None, &mut scratch);
        let again = Sampler::new(&params, logits.len()).unwrap()
            .sample(&mut logits.clone(), &counts, Position::new(position), None, &mut scratch);
        prop_assert_eq!(&fresh, &again);
        if let Ok(choice) = fresh {
            prop_assert!(logits[choice.token as usize] > f32::NEG_INFINITY);
            prop_assert!(choice.logprob <= 0.0 && choice.margin >= 0.0);
        }
    }

    #[test]
    fn the_choice_is_the_reference_argmax(
        seed: u64, n in 1usize..600, spread in 0.05f32..3.0, temperature in 0.05f32..3.0,
        top_k in 0u32..60, top_p in 0.02f32..1.0, min_p in 0.0f32..0.3, position: u32,
    ) {
        let logits = random_logits(seed, n, spread);
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() };
        let kept = reference_survivors(&logits, &params);
        let noise = GumbelNoise::new(seed, position);
        let score = |t: u32| f64::from(logits[t as usize]) / f64::from(temperature) + noise.gumbel(t);
        let want = kept.iter().copied().max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
        let got = sample(&logits, &params, position).token;
        // Rounding at the nucleus' edge may keep one token more or less; then the reference is not unique.
        let edge = SamplingParams { top_p: (top_p + 1e-6).min(1.0), ..params.clone() };
        let inner = SamplingParams { top_p: (top_p - 1e-6).max(0.0), ..params.clone() };
        if reference_survivors(&logits, &edge) == reference_survivors(&logits, &inner) {
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn narrow_truncation_is_greedy(logits in any_logits(), seed: u64, temperature in 0.001f32..5.0, position: u32) {
        let greedy = sample_with(&logits, &params(0.0), &TokenCounts::new(), position, None);
        let base = SamplingParams { seed, ..params(temperature) };
        for narrow in [
            SamplingParams { top_k: 1, ..base.clone() },
            SamplingParams { top_p: 0.0, ..base.clone() },
            SamplingParams { top_p: 1e-9, ..base.clone() },
            SamplingParams { top_k: 1, top_p: 0.3, min_p: 0.2, ..base.clone() },
        ] {
            let got = sample_with(&logits, &narrow, &TokenCounts::new(), position, None);
            prop_assert_eq!(got, greedy.clone());
        }
        let only_best = SamplingParams { min_p: 1.0, ..base };
        if let (Ok(got), Ok(greedy)) =
            (sample_with(&logits, &only_best, &TokenCounts::new(), position, None), greedy)
        {
            prop_assert_eq!(logits[got.token as usize], logits[greedy.token as usize]);
        }
    }

    #[test]
    fn the_order_of_history_and_bias_does_not_matter(
        logits in any_logits(), params in any_params(), position: u32,
        history in prop::collection::vec(0u32..300, 0..40), biased in prop::collection::btree_map(0u32..50, -5.0f32..5.0, 0..6),
    ) {
        let n = logits.len() as u32;
        let mut forward = params.clone();
        forward.logit_bias = biased.into_iter().filter(|(t, _)| *t < n).collect();
        let mut backward = forward.clone();
        backward.logit_bias.reverse();
        let mut a = TokenCounts::new();
        let mut b = TokenCounts::new();
        for &id in &history { a.push_generated(id); }
        for &id in history.iter().rev() { b.push_generated(id); }
        prop_assert_eq!(
            sample_with(&logits, &forward, &a, position, None),
            sample_with(&logits, &backward, &b, position, None)
        );
    }

    /// Tokens that can't be chosen change nothing, however many there are and wherever the row ends.
    #[test]
    fn impossible_tokens_change_nothing(seed: u64, n in 1usize..200, extra in 0usize..200, position: u32) {
        let logits = random_logits(seed, n, 1.0);
        let mut longer = logits.clone();
        longer.resize(n + extra, f32::NEG_INFINITY);
        let params = SamplingParams { top_p: 0.9, top_k: 50, seed, ..params(1.0) };
        prop_assert_eq!(sample(&logits, &params, position).token, sample(&longer, &params, position).token);
    }
}
