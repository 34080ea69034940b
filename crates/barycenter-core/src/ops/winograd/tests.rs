//! On a processor without AVX-512 nothing is usable, and there is nothing to compare.

use proptest::prelude::*;

use super::super::by_columns;
use super::super::conv2d::ConvolutionForm;
use super::*;

/// Allowed distance from a plain sum of products, relative to the length of the expected vector.
const TOLERANCE: f64 = 2e-6;

fn values(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| ((i as f32 + 0.5) * step).fract() * 2.0 - 1.0).collect()
}

fn length(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

fn assert_near(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let apart = length(got.iter().zip(expected).map(|(got, expected)| got - expected));
    let expected = length(expected.iter().copied());
    // Not `>`, which a NaN would pass.
    assert!(apart <= TOLERANCE * expected, "{apart} apart of {expected}");
}

fn geometry([batch, height, width, channels, outputs]: [usize; 5]) -> Geometry {
    Geometry::new(&[batch, height, width, channels], &[outputs, channels, 3, 3], ConvolutionForm::new(1, 1)).unwrap()
}

/// Images, kernel and gradients of outputs.
fn operands(batch: usize, geometry: &Geometry) -> [Vec<f32>; 3] {
    [
        values(batch * geometry.input_length(), 0.618_034),
        values(geometry.patch_length() * geometry.outputs, 0.381_966),
        values(batch * geometry.output_length(), 0.732_051),
    ]
}

fn assert_agrees_with_columns(sizes: [usize; 5]) {
    let geometry = geometry(sizes);
    if !usable(&geometry) {
        return;
    }
    let [inputs, kernel, gradient] = operands(sizes[0], &geometry);
    let got = convolve_images(&inputs, &kernel, &geometry);
    assert_near(&got, &by_columns::convolve(&inputs, &kernel, &geometry));
    let got = part_of_gradient(&inputs, &gradient, &geometry);
    assert_near(&got, &by_columns::part_of_gradient(&inputs, &gradient, &geometry));
}

/// Batch, height, width, channels, outputs.
#[test]
fn outputs_and_gradients_agree_with_columns_in_the_sizes_of_networks() {
    for sizes in [
        [3, 32, 32, 16, 16],
        [3, 16, 16, 32, 32],
        [5, 8, 8, 64, 64],
        [2, 14, 14, 48, 64],
        [2, 2, 2, 256, 128],
        [1, 2, 70, 16, 48],
    ] {
        assert_agrees_with_columns(sizes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn outputs_and_gradients_agree_with_columns(
        batch in 1..6_usize, height in 1..6_usize, width in 1..20_usize, channels in 1..6_usize, outputs in 1..6_usize,
    ) {
        assert_agrees_with_columns([batch, 2 * height, 2 * width, LANES * channels, LANES * outputs]);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let geometry = geometry([9, 6, 10, 32, 48]);
    if !usable(&geometry) {
        return;
    }
    let [inputs, kernel, _] = operands(9, &geometry);
    let bits = |threads: usize| -> Vec<u32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let outputs = pool.install(|| convolve_images(&inputs, &kernel, &geometry));
        outputs.into_iter().map(f32::to_bits).collect()
    };
    let alone = bits(1);
    assert!(alone == bits(2) && alone == bits(5));
}

#[test]
fn sizes_that_tiles_do_not_cover_are_left_to_other_ways() {
    for sizes in [[1, 5, 8, 16, 16], [1, 8, 7, 16, 16], [1, 8, 8, 3, 16], [1, 8, 8, 16, 24]] {
        assert!(!usable(&geometry(sizes)), "{sizes:?}");
    }
    let strided = Geometry::new(&[1, 8, 8, 16], &[16, 16, 3, 3], ConvolutionForm::new(2, 1)).unwrap();
    assert!(!usable(&strided));
}
