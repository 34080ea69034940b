//! Paired bootstrap intervals (Efron and Tibshirani 1993, chapter 13).

use crate::data::Draws;

const RESAMPLES: usize = 1000;
/// Keeps these draws apart from those of shuffling and augmentation.
const STREAM: u64 = 0xb007;

/// 95 % interval of the mean of `first[i] - second[i]`, resampling the pairs; deterministic.
///
/// The slices hold the losses of the same samples in the same order and what each sample weighs in a mean, above 0; empty
/// ones give `[0, 0]`. A resample's mean is that of its own weights, as the mean of the losses is.
pub fn paired_interval(first: &[f32], second: &[f32], weights: &[u32], seed: u64) -> [f64; 2] {
    let weighted = |((a, b), weight): ((&f32, &f32), &u32)| {
        let weight = f64::from(*weight);
        (weight * (f64::from(*a) - f64::from(*b)), weight)
    };
    let differences: Vec<(f64, f64)> = first.iter().zip(second).zip(weights).map(weighted).collect();
    if differences.is_empty() {
        return [0.0, 0.0];
    }
    let mut draws = Draws::keyed(&[seed, STREAM]);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn = differences.iter().map(|_| differences[draws.below(differences.len())]);
            let (sum, weight) =
                drawn.fold((0.0, 0.0), |(sum, all), (difference, weight)| (sum + difference, all + weight));
            sum / weight
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [means[RESAMPLES * 25 / 1000], means[RESAMPLES * 975 / 1000 - 1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_losses_have_a_zero_interval() {
        let interval = paired_interval(&[1.0, 2.0], &[1.0, 2.0], &[1, 1], 1);
        assert!(interval.iter().all(|bound| *bound == 0.0), "{interval:?}");
    }

    #[test]
    fn a_sample_counts_as_often_as_it_weighs() {
        let bits = |weights| paired_interval(&[1.0, 3.0], &[0.0, 0.0], weights, 1).map(f64::to_bits);
        assert_eq!(bits(&[7, 7]), bits(&[1, 1]));
        let [low, high] = paired_interval(&[1.0, 3.0, 1.0, 3.0, 1.0, 3.0], &[0.0; 6], &[9, 1, 9, 1, 9, 1], 1);
        assert!(low < 1.1 && high < 2.0, "the mean is 1.2: {low} {high}");
    }

    #[test]
    fn the_interval_holds_the_mean_and_shrinks_with_the_square_root_of_the_samples() {
        let losses = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 101) as f32 / 101.0).collect() };
        let width = |n: usize| {
            let [low, high] = paired_interval(&losses(n), &vec![0.0; n], &vec![1; n], 3);
            let mean = losses(n).iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
            assert!(low < mean && mean < high, "{low} {mean} {high}");
            high - low
        };
        let ratio = width(101) / width(10100);
        assert!((8.0..12.5).contains(&ratio), "{ratio}");
    }
}
