//! The values of a synthetic tensor: a pure function of (seed, tensor's name, index), in integer arithmetic up to one
//! product and one sum in f32, so that every machine makes the same bits and any part can be made alone.

use super::shape::Spec;

/// A tensor's values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    key: u64,
    mean: f32,
    scale: f32,
}

impl Stream {
    /// The stream of a tensor under a seed.
    pub(crate) fn new(seed: u64, spec: &Spec) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"layerlane synthetic tensor 1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(spec.name.as_bytes());
        let mut key = [0; 8];
        hasher.finalize_xof().fill(&mut key);
        Self {
            key: u64::from_le_bytes(key),
            mean: spec.mean,
            scale: (f64::from(spec.deviation) / SUM_DEVIATION) as f32,
        }
    }

    /// The values from `first` on.
    pub(crate) fn fill(&self, first: u64, out: &mut [f32]) {
        for (index, out) in (first..).zip(out) {
            *out = self.value(index);
        }
    }

    /// Four 16-bit uniforms summed: near enough to normal for a weight (no value beyond 3.46 deviations), and free of
    /// logarithms, which round differently from one library to the next.
    fn value(&self, index: u64) -> f32 {
        let bits = mixed(self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        self.mean + (sum as i32 - SUM_MEAN) as f32 * self.scale
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Mean of the sum of four uniforms over 0..65536.
const SUM_MEAN: i32 = 2 * 0xffff;
/// Its deviation: the root of 4 (65536^2 - 1) / 12.
const SUM_DEVIATION: f64 = 37_837.227_237;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_asked_mean_and_deviation() {
        let spec = Spec { name: "x".into(), shape: vec![1 << 18], mean: 1.0, deviation: 0.25 };
        let mut values = vec![0.0; 1 << 18];
        Stream::new(3, &spec).fill(0, &mut values);
        let count = values.len() as f64;
        let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
        let variance = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 2e-3, "{mean}");
        assert!((variance.sqrt() - 0.25).abs() < 1e-3, "{}", variance.sqrt());
        assert!((SUM_DEVIATION - (4.0 * (65_536.0_f64.powi(2) - 1.0) / 12.0).sqrt()).abs() < 1e-3);
    }

    #[test]
    fn any_part_of_a_tensor_can_be_made_alone() {
        let spec = Spec { name: "x".into(), shape: vec![1000], mean: 0.0, deviation: 1.0 };
        let stream = Stream::new(3, &spec);
        let (mut whole, mut part) = (vec![0.0; 1000], vec![0.0; 77]);
        stream.fill(0, &mut whole);
        stream.fill(500, &mut part);
        assert_eq!(part, whole[500..577]);
    }
}
