//! Single operations and their gradients against `PyTorch` in float64 (`fixtures/README.md` says how the expected values
//! were made).

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be read fails the test")]

use std::path::Path;

use barycenter_core::data::Draws;
use barycenter_core::ops::{
    BatchNormForm, ConvolutionForm, Graph, Moments, PoolForm, adaptive_average_pool2d, average_pool2d, batch_norm,
    conv2d, max_pool2d, read,
};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

/// Allowed distance from `PyTorch`, relative to the length of the expected vector.
const TOLERANCE: f64 = 1e-5;

/// Second words of the keys that `make_op_fixtures.py` draws from.
const OPERAND: u64 = 3;
const GRADIENT: u64 = 4;

enum Operation {
    /// Kernel; outputs; form; whether there is a bias.
    Convolution(usize, usize, ConvolutionForm, bool),
    Max(PoolForm),
    Average(PoolForm),
    Adaptive(usize, usize),
    /// With a residual or without.
    Norm(BatchNormForm, bool),
}

struct Case {
    name: &'static str,
    /// Images, NHWC.
    inputs: [usize; 4],
    operation: Operation,
}

fn convolution(name: &'static str, inputs: [usize; 4], sizes: [usize; 5], bias: bool) -> Case {
    let [outputs, kernel, stride, padding, groups] = sizes;
    let form = ConvolutionForm { stride, padding, groups };
    Case { name, inputs, operation: Operation::Convolution(kernel, outputs, form, bias) }
}

fn norm(name: &'static str, from_batch: bool, relu: bool, residual: bool) -> Case {
    Case { name, inputs: [4, 5, 3, 18], operation: Operation::Norm(BatchNormForm { from_batch, relu }, residual) }
}

/// The cases in the order of the fixtures' program, which is part of their keys.
fn cases() -> Vec<Case> {
    let mut cases = vec![
        convolution("conv1x1", [2, 5, 7, 16], [24, 1, 1, 0, 1], false),
        convolution("conv1x1_stride2", [2, 6, 7, 16], [32, 1, 2, 0, 1], true),
        convolution("conv3x3", [2, 5, 11, 16], [16, 3, 1, 1, 1], true),
        convolution("conv3x3_stride2", [2, 7, 8, 16], [32, 3, 2, 1, 1], false),
        convolution("conv3x3_unpadded", [2, 7, 6, 8], [8, 3, 1, 0, 1], true),
        convolution("conv3x3_thin", [2, 6, 6, 5], [7, 3, 1, 1, 1], true),
        convolution("conv7x7_stem", [2, 12, 13, 3], [16, 7, 2, 3, 1], false),
        convolution("conv4x4_patches", [2, 12, 16, 3], [16, 4, 4, 0, 1], true),
        convolution("conv2x2_wide_padding", [2, 5, 5, 8], [8, 2, 1, 2, 1], false),
        convolution("conv2x2_gaps", [2, 8, 8, 8], [8, 2, 3, 1, 1], false),
        convolution("conv3x3_groups", [2, 5, 8, 16], [32, 3, 1, 1, 2], true),
        convolution("conv3x3_groups_stride2", [2, 7, 8, 12], [6, 3, 2, 1, 3], true),
    ];
    for (names, inputs, [kernel, stride, padding]) in [
        (["max_pool2x2", "average_pool2x2"], [2, 8, 6, 5], [2, 2, 0]),
        (["max_pool3x3_stride2", "average_pool3x3_stride2"], [2, 9, 8, 5], [3, 2, 1]),
        (["max_pool3x3_stride1", "average_pool3x3_stride1"], [2, 6, 7, 5], [3, 1, 1]),
        (["max_pool2x2_stride3", "average_pool2x2_stride3"], [2, 8, 8, 5], [2, 3, 1]),
    ] {
        let form = PoolForm { kernel, stride, padding };
        cases.push(Case { name: names[0], inputs, operation: Operation::Max(form) });
        cases.push(Case { name: names[1], inputs, operation: Operation::Average(form) });
    }
    cases.push(Case { name: "adaptive_even", inputs: [2, 8, 6, 5], operation: Operation::Adaptive(4, 2) });
    cases.push(Case { name: "adaptive_uneven", inputs: [2, 7, 5, 5], operation: Operation::Adaptive(3, 4) });
    cases.push(norm("norm_train", true, false, false));
    cases.push(norm("norm_train_relu", true, true, false));
    cases.push(norm("norm_train_add_relu", true, true, true));
    cases.push(norm("norm_evaluate", false, false, false));
    cases.push(norm("norm_evaluate_add_relu", false, true, true));
    cases
}

fn uniform(key: &[u64], count: usize, low: f64, high: f64) -> Vec<f32> {
    let mut draws = Draws::keyed(key);
    (0..count).map(|_| (low + (high - low) * draws.uniform()) as f32).collect()
}

/// `count` values spread evenly from `first` to `last`.
fn spread(first: f64, last: f64, count: usize) -> Vec<f64> {
    (0..count).map(|i| first + (last - first) * i as f64 / (count - 1) as f64).collect()
}

impl Case {
    fn operand(&self, case: u64, position: u64, shape: &[usize], low: f64, high: f64) -> Tensor {
        let mut values = uniform(&[case, OPERAND, position], shape.iter().product(), low, high);
        if matches!(self.operation, Operation::Max(_)) {
            values = values.iter().map(|value| (4.0 * value).round()).collect();
        }
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn operands(&self, case: u64) -> Vec<Tensor> {
        let channels = self.inputs[3];
        let mut operands = vec![self.operand(case, 0, &self.inputs, -1.0, 1.0)];
        match self.operation {
            Operation::Convolution(kernel, outputs, form, bias) => {
                let weight = [outputs, channels / form.groups, kernel, kernel];
                operands.push(self.operand(case, 1, &weight, -1.0, 1.0));
                operands.extend(bias.then(|| self.operand(case, 2, &[outputs], -1.0, 1.0)));
            }
            Operation::Norm(_, residual) => {
                operands.push(self.operand(case, 1, &[channels], 0.5, 1.5));
                operands.push(self.operand(case, 2, &[channels], -0.3, 0.3));
                operands.extend(residual.then(|| self.operand(case, 3, &self.inputs, -1.0, 1.0)));
            }
            _ => {}
        }
        operands
    }

    fn run(&self, graph: &Graph, operands: &[Tensor]) -> Tensor {
        let inputs = &operands[0];
        let output = match self.operation {
            Operation::Convolution(_, _, form, _) => conv2d(graph, inputs, &operands[1], operands.get(2), form),
            Operation::Max(form) => max_pool2d(graph, inputs, form),
            Operation::Average(form) => average_pool2d(graph, inputs, form),
            Operation::Adaptive(rows, columns) => adaptive_average_pool2d(graph, inputs, (rows, columns)),
            Operation::Norm(form, _) => {
                let channels = self.inputs[3];
                let moments = if form.from_batch {
                    Moments::of(inputs).unwrap()
                } else {
                    Moments { mean: spread(-0.5, 0.5, channels), variance: spread(0.5, 1.5, channels), count: 0 }
                };
                let affine = (&operands[1], &operands[2]);
                batch_norm(graph, inputs, affine, operands.get(3), (&moments, 1e-5), form)
            }
        };
        output.unwrap()
    }
}

fn assert_near(what: &str, got: &[f32], file: &SafeTensors<'_>) {
    let data = file.tensor(what).unwrap().data();
    let expected: Vec<f32> = data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(got.len(), expected.len(), "{what}");
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = square(&mut got.iter().zip(&expected).map(|(g, e)| f64::from(*g) - f64::from(*e)));
    let distance = difference / square(&mut expected.iter().map(|e| f64::from(*e)));
    println!("{what}: {distance:.1e}");
    assert!(distance < TOLERANCE, "{what} differs by {distance:e}");
}

#[test]
fn outputs_and_gradients_agree_with_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let bytes = std::fs::read(folder.join("ops.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (number, case) in (0..).zip(cases()) {
        let operands = case.operands(number);
        let graph = Graph::tracking(&operands);
        let output = case.run(&graph, &operands);
        assert_near(&format!("{}.output", case.name), &read(&output, <[f32]>::to_vec).unwrap(), &file);
        let gradient = uniform(&[number, GRADIENT], output.elem_count(), -1.0, 1.0);
        let mut gradients = graph.backward(&output, gradient).unwrap();
        for (position, operand) in operands.iter().enumerate() {
            let gradient = gradients.take(operand).unwrap();
            assert_near(&format!("{}.gradient.{position}", case.name), &gradient, &file);
        }
    }
}
