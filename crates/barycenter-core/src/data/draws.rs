//! Random numbers that are a function of a key.

/// Odd constant near `2^64 / golden ratio`: the step of `SplitMix64`.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers that belongs to a key.
///
/// The stream is `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014, with the
/// mixing constants of Stafford's variant 13); its start is the key's words, absorbed one by one through the mixer.
#[derive(Clone, Debug)]
pub struct Draws {
    state: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Draws {
    /// The stream of this key. Keys that differ in a word or in their order have unrelated streams.
    pub fn keyed(words: &[u64]) -> Self {
        Self { state: words.iter().fold(0, |state, word| mix(state.wrapping_add(STEP) ^ word)) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A whole number below `bound` (which is above 0), by the multiply-shift of Lemire 2019 without its rejection: a
    /// number is favoured by less than `bound / 2^64`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number in [0, 1) with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A standard normal number (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_key_zero_follows_the_published_generator() {
        // First outputs of SplitMix64 started at 0.
        let mut draws = Draws { state: 0 };
        assert_eq!(draws.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(draws.bits(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn keys_that_differ_in_order_have_different_streams() {
        assert_ne!(Draws::keyed(&[1, 2]).bits(), Draws::keyed(&[2, 1]).bits());
        assert_ne!(Draws::keyed(&[0]).bits(), Draws::keyed(&[0, 0]).bits());
    }

    #[test]
    fn numbers_below_a_bound_fall_evenly() {
        let mut counts = [0; 9];
        let mut draws = Draws::keyed(&[7]);
        for _ in 0..9000 {
            counts[draws.below(9)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut draws = Draws::keyed(&[8]);
        let values: Vec<f64> = (0..20_000).map(|_| draws.normal()).collect();
        let mean = values.iter().sum::<f64>() / 2e4;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 2e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
