//! 2-d convolution of NHWC images. There are several ways to compute one; which is taken depends on the sizes and on
//! the processor, never on the number of threads.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::channels::{column_sums, piece_length};
use super::columns::Geometry;
use super::graph::{Graph, Node, Operation};
use super::groups::Group;
use super::plan::Needs;
use super::storage::{read, tensor};
use super::{by_columns, direct, indirect, winograd};

/// How a kernel moves over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionForm {
    /// Pixels from one place of the kernel to the next.
    pub stride: usize,
    /// Zeros added on each side of the image.
    pub padding: usize,
    /// Groups of channels that do not see one another.
    pub groups: usize,
}

impl ConvolutionForm {
    /// One group.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride, padding, groups: 1 }
    }
}

/// Convolution: `inputs` [batch, height, width, channels], `weight` [outputs, channels / groups, kernel, kernel] (as
/// `PyTorch` stores it) and perhaps `bias` `[outputs]` give [batch, out height, out width, outputs].
pub fn conv2d(
    graph: &Graph,
    inputs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    form: ConvolutionForm,
) -> Result<Tensor> {
    let geometry = Geometry::new(inputs.dims(), weight.dims(), form)?;
    let (batch, outputs) = (inputs.dim(0)?, geometry.outputs * form.groups);
    if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
        bail!("convolution: bias {:?} of {outputs} outputs", bias.dims());
    }
    let mut operands = vec![inputs, weight];
    operands.extend(bias);
    let shape = [batch, geometry.out_height, geometry.out_width, outputs];
    let operation = Conv2d { geometry, groups: form.groups };
    let packed = (weight.elem_count() * size_of::<f32>()) as u64 + input_gradient_bytes(&geometry);
    let needs = Needs { scratch: operation.scratch_bytes(batch), packed, ..Needs::default() };
    if let Some(planned) = graph.planned(&operands, &shape, needs) {
        return planned;
    }
    let bias = bias.map(|bias| read(bias, <[f32]>::to_vec)).transpose()?;
    let mut result = Vec::new();
    read(inputs, |inputs| read(weight, |weight| operation.forward(inputs, weight, bias.as_deref(), &mut result)))??;
    let output = tensor(result, &shape)?;
    graph.record(operation, &operands, &output);
    Ok(output)
}

struct Conv2d {
    /// Of one group.
    geometry: Geometry,
    groups: usize,
}

impl Conv2d {
    fn forward(&self, inputs: &[f32], weight: &[f32], bias: Option<&[f32]>, result: &mut Vec<f32>) {
        let geometry = &self.geometry;
        for group in Group::each(self.groups) {
            let inputs = group.take(inputs, geometry.channels);
            let bias = bias.map(|bias| group.part(bias));
            group.put(convolve(&inputs, group.part(weight), bias, geometry), geometry.outputs, result);
        }
    }

    /// Bytes of the working copies while the gradient of the weight is made.
    fn scratch_bytes(&self, batch: usize) -> u64 {
        let geometry = &self.geometry;
        let grouped =
            if self.groups == 1 { 0 } else { 2 * (geometry.input_length() + geometry.output_length()) * batch };
        (grouped * size_of::<f32>()) as u64 + kernel_gradient_bytes(geometry, batch)
    }
}

impl Operation for Conv2d {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let geometry = &self.geometry;
        let (inputs, weight) = (&node.inputs[0], &node.inputs[1]);
        let (mut of_inputs, mut of_weight) = (Vec::new(), Vec::new());
        for group in Group::each(self.groups) {
            let gradient = group.take(&gradient, geometry.outputs);
            if node.wanted[1] {
                let part = read(inputs, |inputs| {
                    kernel_gradient(&group.take(inputs, geometry.channels), &gradient, geometry)
                })?;
                of_weight.extend(part);
            }
            // Nobody wants the gradient of the images of a dataset.
            if node.wanted[0] {
                let part = read(weight, |weight| input_gradient(&gradient, group.part(weight), geometry))?;
                group.put(part, geometry.channels, &mut of_inputs);
            }
        }
        let mut gradients = vec![node.wanted[0].then_some(of_inputs), node.wanted[1].then_some(of_weight)];
        if let Some(wanted) = node.wanted.get(2) {
            gradients.push(wanted.then(|| column_sums(&gradient, geometry.outputs * self.groups)));
        }
        Ok(gradients)
    }
}

/// The ways there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// 3x3 of stride 1 with AVX-512, sizes and channels even enough: `winograd`.
    Winograd,
    /// 3x3 of stride 1 with AVX-512: `direct`.
    Direct,
    /// Any form with AVX2: `indirect`.
    Indirect,
    /// Any form on any processor: `by_columns`.
    Columns,
}

impl Way {
    /// For outputs and the gradient of the kernel.
    fn of_outputs(geometry: &Geometry) -> Self {
        if winograd::usable(geometry) {
            Self::Winograd
        } else if direct::usable(geometry) {
            Self::Direct
        } else if indirect::usable(geometry) {
            Self::Indirect
        } else {
            Self::Columns
        }
    }

    /// For the gradient of the inputs.
    fn of_inputs(geometry: &Geometry) -> Self {
        let reversed = geometry.reversed();
        if reversed.is_some_and(|reversed| winograd::usable(&reversed)) {
            Self::Winograd
        } else if reversed.is_some_and(|reversed| direct::usable(&reversed)) {
            Self::Direct
        } else if indirect::input_gradient_usable(geometry) {
            Self::Indirect
        } else {
            Self::Columns
        }
    }
}

/// The outputs of all images; `weight` is [outputs, channels, kernel, kernel].
fn convolve(inputs: &[f32], weight: &[f32], bias: Option<&[f32]>, geometry: &Geometry) -> Vec<f32> {
    let mut result = match Way::of_outputs(geometry) {
        Way::Winograd => winograd::convolve_images(inputs, &geometry.by_patch(weight), geometry),
        Way::Direct => direct::convolve_images(inputs, &geometry.by_patch(weight), geometry),
        Way::Indirect => return indirect::convolve(inputs, weight, bias, geometry),
        Way::Columns => by_columns::convolve(inputs, &geometry.by_patch(weight), geometry),
    };
    if let Some(bias) = bias {
        add_bias(&mut result, bias);
    }
    result
}

/// Gradient of the inputs of all images.
fn input_gradient(gradient: &[f32], weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    match (Way::of_inputs(geometry), geometry.reversed()) {
        (Way::Winograd, Some(reversed)) => winograd::convolve_images(gradient, &geometry.turned(weight), &reversed),
        (Way::Direct, Some(reversed)) => direct::convolve_images(gradient, &geometry.turned(weight), &reversed),
        (Way::Indirect, _) => indirect::input_gradient(gradient, weight, geometry),
        _ => by_columns::input_gradient(gradient, &geometry.by_patch(weight), geometry),
    }
}

/// Gradient of the weight, [outputs, channels, kernel, kernel].
fn kernel_gradient(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let part = match Way::of_outputs(geometry) {
        Way::Winograd => winograd::part_of_gradient,
        Way::Direct => direct::part_of_gradient,
        Way::Indirect => return indirect::kernel_gradient(inputs, gradient, geometry),
        Way::Columns => by_columns::part_of_gradient,
    };
    geometry.by_output(&by_columns::kernel_gradient(inputs, gradient, geometry, part))
}

/// Bytes of the working copies of [`input_gradient`] with one thread, besides the kernel in another order.
fn input_gradient_bytes(geometry: &Geometry) -> u64 {
    match (Way::of_inputs(geometry), geometry.reversed()) {
        (Way::Winograd, Some(reversed)) => winograd::bytes(&reversed),
        _ => 0,
    }
}

/// Bytes of the working copies of [`kernel_gradient`] with one thread.
fn kernel_gradient_bytes(geometry: &Geometry, batch: usize) -> u64 {
    match Way::of_outputs(geometry) {
        Way::Indirect => indirect::kernel_gradient_bytes(geometry, batch),
        Way::Winograd => by_columns::kernel_gradient_bytes(geometry, batch, winograd::bytes(geometry)),
        Way::Direct | Way::Columns => by_columns::kernel_gradient_bytes(geometry, batch, 0),
    }
}

fn add_bias(result: &mut [f32], bias: &[f32]) {
    result.par_chunks_mut(piece_length(bias.len())).for_each(|piece| {
        for pixel in piece.chunks_exact_mut(bias.len()) {
            for (value, bias) in pixel.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + 0.5) * step).fract() * 2.0 - 1.0).collect()
    }

    fn assert_near(got: &[f32], expected: &[f32], depth: usize) {
        let bound = 1e-6 * depth as f32;
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < bound, "{got} {expected}");
        }
    }

    /// On a processor without AVX-512 there is no direct way, and nothing to compare.
    #[test]
    fn the_direct_way_agrees_with_columns() {
        for (channels, outputs, width) in
            [(3, 16, 8), (16, 16, 16), (16, 32, 8), (32, 16, 8), (32, 32, 16), (32, 64, 8), (64, 48, 8), (64, 64, 8)]
        {
            let form = ConvolutionForm::new(1, 1);
            let geometry = Geometry::new(&[3, 5, width, channels], &[outputs, channels, 3, 3], form).unwrap();
            if !direct::usable(&geometry) {
                continue;
            }
            let inputs = values(3 * geometry.input_length(), 0.618_034);
            let kernel = values(geometry.patch_length() * outputs, 0.381_966);
            let directly = direct::convolve_images(&inputs, &kernel, &geometry);
            assert_near(&directly, &by_columns::convolve(&inputs, &kernel, &geometry), geometry.patch_length());
            let gradient = values(3 * geometry.output_length(), 0.732_051);
            let directly = direct::part_of_gradient(&inputs, &gradient, &geometry);
            assert_near(&directly, &by_columns::part_of_gradient(&inputs, &gradient, &geometry), 3 * 5 * width);
        }
    }

    /// On a processor without AVX2 there is no indirect way, and nothing to compare.
    #[test]
    fn the_indirect_way_agrees_with_columns() {
        // Batch, height, width, channels, outputs, kernel, stride, padding.
        for [batch, height, width, channels, outputs, kernel, stride, padding] in [
            [3, 5, 7, 8, 16, 3, 1, 1],
            [2, 7, 8, 16, 8, 3, 2, 1],
            [2, 7, 6, 16, 24, 1, 2, 0],
            [2, 9, 9, 8, 16, 7, 2, 3],
            [2, 5, 5, 8, 8, 2, 1, 2],
            [2, 8, 8, 8, 8, 2, 3, 1],
            [3, 6, 6, 16, 16, 3, 1, 0],
            [2, 12, 12, 8, 16, 4, 4, 0],
            [40, 2, 2, 16, 80, 3, 1, 1],
            [1, 1, 1, 8, 8, 3, 1, 1],
        ] {
            let form = ConvolutionForm::new(stride, padding);
            let sizes = ([batch, height, width, channels], [outputs, channels, kernel, kernel]);
            let geometry = Geometry::new(&sizes.0, &sizes.1, form).unwrap();
            if !indirect::usable(&geometry) {
                continue;
            }
            let inputs = values(batch * geometry.input_length(), 0.618_034);
            let weight = values(geometry.patch_length() * outputs, 0.381_966);
            let kernel = geometry.by_patch(&weight);
            let got = indirect::convolve(&inputs, &weight, None, &geometry);
            assert_near(&got, &by_columns::convolve(&inputs, &kernel, &geometry), geometry.patch_length());
            let gradient = values(batch * geometry.output_length(), 0.732_051);
            let got = indirect::input_gradient(&gradient, &weight, &geometry);
            assert_near(&got, &by_columns::input_gradient(&gradient, &kernel, &geometry), 49 * outputs);
            let got = indirect::kernel_gradient(&inputs, &gradient, &geometry);
            let plain = by_columns::part_of_gradient(&inputs, &gradient, &geometry);
            assert_near(&got, &geometry.by_output(&plain), batch * geometry.out_height * geometry.out_width);
        }
    }
}
