//! Orders in which the elements of a convolution's weight lie.

use super::columns::Geometry;

impl Geometry {
    /// Taps of the kernel.
    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// `weight` [outputs, channels, kernel, kernel] as a matrix [kernel · kernel · channels, outputs].
    pub(super) fn by_patch(&self, weight: &[f32]) -> Vec<f32> {
        let mut matrix = vec![0.0; weight.len()];
        self.each(|output, channel, tap, position| {
            matrix[(tap * self.channels + channel) * self.outputs + output] = weight[position];
        });
        matrix
    }

    /// The inverse of [`by_patch`](Self::by_patch).
    pub(super) fn by_output(&self, matrix: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; matrix.len()];
        self.each(|output, channel, tap, position| {
            weight[position] = matrix[(tap * self.channels + channel) * self.outputs + output];
        });
        weight
    }

    /// The kernel turned by half a turn with inputs and outputs exchanged: [kernel · kernel · outputs, channels].
    pub(super) fn turned(&self, weight: &[f32]) -> Vec<f32> {
        let mut matrix = vec![0.0; weight.len()];
        self.each(|output, channel, tap, position| {
            let turned = self.taps() - 1 - tap;
            matrix[(turned * self.outputs + output) * self.channels + channel] = weight[position];
        });
        matrix
    }

    /// Visits output, channel and tap of every element of a weight [outputs, channels, kernel, kernel], and its position.
    fn each(&self, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let mut position = 0;
        for output in 0..self.outputs {
            for channel in 0..self.channels {
                for tap in 0..self.taps() {
                    visit(output, channel, tap, position);
                    position += 1;
                }
            }
        }
    }
}
