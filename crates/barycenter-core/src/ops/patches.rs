//! An image cut into patches: a convolution whose stride is its kernel's size is a matrix product over them.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::storage::{read, tensor};

/// The patches of `images` [batch, height, width, channels], row by row, each as one row in the order of a kernel of
/// `PyTorch` (channels, then height, then width): [batch · patches, channels · size · size].
///
/// Errors where the size does not divide height and width.
pub fn patches(graph: &Graph, images: &Tensor, size: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    if size == 0 || !height.is_multiple_of(size) || !width.is_multiple_of(size) {
        bail!("patches of size {size} of an image {height}x{width}");
    }
    let grid = Grid { height: height / size, width: width / size, channels, size };
    let mut result = vec![0.0; images.elem_count()];
    read(images, |images| {
        let length = grid.image_length();
        result.par_chunks_mut(length).zip(images.par_chunks(length)).for_each(|(patches, image)| {
            grid.each(|of_image, of_patches| patches[of_patches] = image[of_image]);
        });
    })?;
    let output = tensor(result, &[batch * grid.height * grid.width, channels * size * size])?;
    graph.record(grid, &[images], &output);
    Ok(output)
}

/// Patches of an image: `height` rows of `width` of them.
#[derive(Clone, Copy)]
struct Grid {
    height: usize,
    width: usize,
    channels: usize,
    size: usize,
}

impl Grid {
    fn image_length(self) -> usize {
        self.height * self.width * self.channels * self.size * self.size
    }

    /// Calls `meet` with the position of each element in the image and among the patches.
    fn each(self, mut meet: impl FnMut(usize, usize)) {
        let Self { height, width, channels, size } = self;
        for patch in 0..height * width {
            let (top, left) = (patch / width * size, patch % width * size);
            for y in 0..size {
                for x in 0..size {
                    let of_image = ((top + y) * width * size + left + x) * channels;
                    for channel in 0..channels {
                        let of_patches = ((patch * channels + channel) * size + y) * size + x;
                        meet(of_image + channel, of_patches);
                    }
                }
            }
        }
    }
}

impl Operation for Grid {
    fn backward(&self, _node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let length = self.image_length();
        let mut of_images = vec![0.0; gradient.len()];
        of_images.par_chunks_mut(length).zip(gradient.par_chunks(length)).for_each(|(image, patches)| {
            self.each(|of_image, of_patches| image[of_image] = patches[of_patches]);
        });
        Ok(vec![Some(of_images)])
    }
}
