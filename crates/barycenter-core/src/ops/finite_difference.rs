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
        [(3, 1, 1, 6), (3, 2, 1, 6), (3, 2, 1, 7), (1, 2, 0, 6), (1, 1, 0, 5), (3, 1, 0, 5)]
    {
        check(&[variable(&[3, size, size, 4], 0.1), variable(&[5, 4, kernel, kernel], 0.2)], |graph, a| {
            conv2d(graph, &a[0], &a[1], stride, padding).unwrap()
        });
    }
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
fn a_label_beyond_the_classes_is_refused() {
    let logits = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(
        cross_entropy(&Graph::untracked(), &logits, Arc::from([4]), 0.0)
            .is_err_and(|e| e.to_string().contains("label 4"))
    );
}
