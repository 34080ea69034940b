//! Every operation's gradient against central differences.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::*;

mod transformers;

/// Values spread over (-1, 1), none close to another's negative, from a golden-ratio sequence.
fn values(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| ((i as f32 + seed) * 0.618_034).fract() * 2.0 - 1.0).collect()
}

fn variable(shape: &[usize], seed: f32) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(values(count, seed), shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    read(tensor, <[f32]>::to_vec).unwrap()
}

/// `Σ weights · output` in `f64`, the weights being fixed.
fn weighted_sum(output: &Tensor) -> f64 {
    let weights = values(output.elem_count(), 0.37);
    read(output, |output| output.iter().zip(&weights).map(|(o, w)| f64::from(*o) * f64::from(*w)).sum()).unwrap()
}

/// Checks the gradient of each argument along each of a few of its coordinates.
fn check(arguments: &[Tensor], operation: impl Fn(&Graph, &[Tensor]) -> Tensor) {
    const STEP: f32 = 1e-2;
    let graph = Graph::tracking(arguments);
    let output = operation(&graph, arguments);
    let mut gradients = graph.backward(&output, values(output.elem_count(), 0.37)).unwrap();
    for (index, argument) in arguments.iter().enumerate() {
        let gradient = gradients.take(argument).unwrap();
        let plain = flat(argument);
        for position in (0..plain.len()).step_by((plain.len() / 40).max(1)) {
            let moved = |by: f32| {
                let mut changed = plain.clone();
                changed[position] += by;
                let mut tensors = arguments.to_vec();
                tensors[index] = Tensor::from_vec(changed, argument.dims(), &Device::Cpu).unwrap();
                weighted_sum(&operation(&Graph::untracked(), &tensors))
            };
            let difference = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            let got = f64::from(gradient[position]);
            let bound = 2e-3 * difference.abs().max(1.0);
            assert!((got - difference).abs() < bound, "argument {index}[{position}]: {got}, expected {difference}");
        }
    }
}

#[test]
fn linear_has_the_right_gradients() {
    check(&[variable(&[5, 7], 0.1), variable(&[3, 7], 0.2), variable(&[3], 0.3)], |graph, a| {
        linear(graph, &a[0], &a[1], &a[2]).unwrap()
    });
}

#[test]
fn conv2d_has_the_right_gradients() {
    for (kernel, stride, padding, size) in
        [(3, 1, 1, 6), (3, 2, 1, 6), (3, 2, 1, 7), (1, 2, 0, 6), (1, 1, 0, 5), (3, 1, 0, 5), (7, 2, 3, 9), (2, 3, 1, 7)]
    {
        let form = ConvolutionForm::new(stride, padding);
        check(&[variable(&[3, size, size, 4], 0.1), variable(&[5, 4, kernel, kernel], 0.2)], |graph, a| {
            conv2d(graph, &a[0], &a[1], None, form).unwrap()
        });
    }
}

#[test]
fn a_grouped_convolution_with_bias_has_the_right_gradients() {
    let form = ConvolutionForm { stride: 2, padding: 1, groups: 3 };
    check(&[variable(&[2, 7, 6, 6], 0.1), variable(&[9, 2, 3, 3], 0.2), variable(&[9], 0.3)], |graph, a| {
        conv2d(graph, &a[0], &a[1], Some(&a[2]), form).unwrap()
    });
}

#[test]
fn poolings_have_the_right_gradients() {
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)] {
        let form = PoolForm { kernel, stride, padding };
        check(&[variable(&[2, 7, 6, 3], 0.4)], |graph, a| average_pool2d(graph, &a[0], form).unwrap());
        // Values further apart than the step of the differences.
        let spread: Vec<f32> = (0..252).map(|i| (i * 101 % 252) as f32 / 10.0).collect();
        let images = Tensor::from_vec(spread, (2, 7, 6, 3), &Device::Cpu).unwrap();
        check(&[images], |graph, a| max_pool2d(graph, &a[0], form).unwrap());
    }
    check(&[variable(&[2, 7, 5, 3], 0.4)], |graph, a| adaptive_average_pool2d(graph, &a[0], (3, 2)).unwrap());
}

#[test]
fn a_maximum_that_is_tied_passes_its_gradient_to_the_first() {
    let images = Tensor::new(&[1.0_f32, 2.0, 2.0, 2.0], &Device::Cpu).unwrap().reshape((1, 2, 2, 1)).unwrap();
    let graph = Graph::tracking([&images]);
    let form = PoolForm { kernel: 2, stride: 2, padding: 0 };
    let maximum = max_pool2d(&graph, &images, form).unwrap();
    assert_eq!(graph.backward(&maximum, vec![5.0]).unwrap().take(&images).unwrap(), [0.0, 5.0, 0.0, 0.0]);
}

#[test]
fn a_maximum_lets_a_nan_through() {
    let images = Tensor::new(&[1.0_f32, f32::NAN, 3.0, 2.0], &Device::Cpu).unwrap().reshape((1, 2, 2, 1)).unwrap();
    let form = PoolForm { kernel: 2, stride: 2, padding: 0 };
    assert!(flat(&max_pool2d(&Graph::untracked(), &images, form).unwrap())[0].is_nan());
}

#[test]
fn windows_that_leave_the_image_are_refused() {
    let images = variable(&[1, 3, 3, 1], 0.1);
    for form in [(4, 1, 0), (2, 0, 0), (2, 1, 2), (0, 1, 0)] {
        let form = PoolForm { kernel: form.0, stride: form.1, padding: form.2 };
        assert!(max_pool2d(&Graph::untracked(), &images, form).is_err());
        assert!(average_pool2d(&Graph::untracked(), &images, form).is_err());
    }
    assert!(adaptive_average_pool2d(&Graph::untracked(), &images, (0, 1)).is_err());
}

#[test]
fn add_has_the_right_gradients() {
    check(&[variable(&[3, 4], 0.1), variable(&[3, 4], 0.2)], |graph, a| add(graph, &a[0], &a[1]).unwrap());
}

#[test]
fn batch_norm_has_the_right_gradients() {
    let arguments =
        [variable(&[4, 3, 3, 18], 0.1), variable(&[18], 0.2), variable(&[18], 0.3), variable(&[4, 3, 3, 18], 0.7)];
    let form = BatchNormForm { from_batch: true, relu: false };
    check(&arguments, |graph, a| {
        batch_norm(graph, &a[0], (&a[1], &a[2]), Some(&a[3]), (&Moments::of(&a[0]).unwrap(), 1e-5), form).unwrap()
    });
    check(&arguments[..3], |graph, a| {
        batch_norm(graph, &a[0], (&a[1], &a[2]), None, (&Moments::of(&a[0]).unwrap(), 1e-5), form).unwrap()
    });
    let given = Moments::of(&arguments[3]).unwrap();
    let form = BatchNormForm { from_batch: false, relu: false };
    check(&arguments, |graph, a| batch_norm(graph, &a[0], (&a[1], &a[2]), Some(&a[3]), (&given, 1e-5), form).unwrap());
}

#[test]
fn batch_norm_with_a_relu_equals_the_two_one_after_the_other() {
    let [x, weight, bias, residual] =
        [variable(&[4, 3, 3, 18], 0.1), variable(&[18], 0.2), variable(&[18], 0.3), variable(&[4, 3, 3, 18], 0.7)];
    let moments = Moments::of(&x).unwrap();
    let run = |fused: bool| {
        let form = BatchNormForm { from_batch: true, relu: fused };
        let graph = Graph::tracking([&x, &weight, &bias, &residual]);
        let out = batch_norm(&graph, &x, (&weight, &bias), Some(&residual), (&moments, 1e-5), form).unwrap();
        let out = if fused { out } else { relu(&graph, &out).unwrap() };
        let mut gradients = graph.backward(&out, values(out.elem_count(), 0.37)).unwrap();
        (flat(&out), [&x, &weight, &bias, &residual].map(|tensor| gradients.take(tensor).unwrap()))
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn moments_keep_their_digits_far_from_zero() {
    let spread = values(3 * 50 * 50 * 17, 0.5);
    let far: Vec<f32> = spread.iter().map(|value| 1000.0 + value).collect();
    let moments = Moments::of(&Tensor::from_vec(far.clone(), (3, 50, 50, 17), &Device::Cpu).unwrap()).unwrap();
    for channel in 0..17 {
        let column: Vec<f64> = far.iter().skip(channel).step_by(17).map(|v| f64::from(*v)).collect();
        let mean = column.iter().sum::<f64>() / column.len() as f64;
        let variance = column.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / column.len() as f64;
        assert!((moments.mean[channel] - mean).abs() < 1e-4);
        assert!((moments.variance[channel] / variance - 1.0).abs() < 1e-5, "{} {variance}", moments.variance[channel]);
    }
}

#[test]
fn relu_has_the_right_gradient_and_none_at_zero() {
    let inputs = Tensor::new(&[-1.0_f32, 0.0, 2.0], &Device::Cpu).unwrap();
    let graph = Graph::tracking([&inputs]);
    let output = relu(&graph, &inputs).unwrap();
    assert_eq!(graph.backward(&output, vec![1.0; 3]).unwrap().take(&inputs).unwrap(), [0.0, 0.0, 1.0]);
}

#[test]
fn relu_lets_a_nan_through() {
    let inputs = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
    assert!(relu(&Graph::untracked(), &inputs).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
}

#[test]
fn global_average_pool_has_the_right_gradient() {
    check(&[variable(&[2, 4, 3, 5], 0.4)], |graph, a| global_average_pool(graph, &a[0]).unwrap());
}

#[test]
fn cross_entropy_has_the_right_gradient() {
    let labels: Arc<[u32]> = Arc::from([0, 2, 3]);
    for smoothing in [0.0, 0.1] {
        check(&[variable(&[3, 4], 0.4)], |graph, a| cross_entropy(graph, &a[0], labels.clone(), smoothing).unwrap());
    }
}

#[test]
fn a_row_without_a_label_has_no_loss_and_no_gradient() {
    let labels: Arc<[u32]> = Arc::from([1, NO_LABEL, 3]);
    for smoothing in [0.0, 0.1] {
        let run = |graph: &Graph, a: &[Tensor]| cross_entropy(graph, &a[0], labels.clone(), smoothing).unwrap();
        check(&[variable(&[3, 4], 0.4)], run);
        let logits = [variable(&[3, 4], 0.4)];
        let graph = Graph::tracking(&logits);
        let losses = run(&graph, &logits);
        assert_eq!(flat(&losses)[1].to_bits(), 0.0_f32.to_bits());
        assert_eq!(graph.backward(&losses, vec![1.0; 3]).unwrap().take(&logits[0]).unwrap()[4..8], [0.0; 4]);
    }
}

#[test]
fn squared_error_has_the_right_gradient() {
    let targets: Arc<[f32]> = values(3 * 4, 0.9).into();
    check(&[variable(&[3, 4], 0.4)], |graph, a| squared_error(graph, &a[0], targets.clone()).unwrap());
}

#[test]
fn squared_error_is_the_mean_over_the_outputs_of_a_sample() {
    let outputs = Tensor::new(&[[1.0_f32, 2.0], [0.0, -3.0]], &Device::Cpu).unwrap();
    let losses = |targets: &[f32]| squared_error(&Graph::untracked(), &outputs, Arc::from(targets));
    assert_eq!(flat(&losses(&[0.0, 4.0, 0.0, 0.0]).unwrap()), [2.5, 4.5]);
    assert!(losses(&[0.0; 3]).is_err_and(|error| error.to_string().contains("3 targets")));
}

#[test]
fn a_label_beyond_the_classes_is_refused() {
    let logits = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(
        cross_entropy(&Graph::untracked(), &logits, Arc::from([4]), 0.0)
            .is_err_and(|e| e.to_string().contains("label 4"))
    );
}
