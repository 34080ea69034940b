//! Orders in which the elements of a convolution's weight lie.

use super::columns::Geometry;

/// Neighbours in the written or read matrix that are visited one after the other, whatever lies between them in the weight: a
/// line of the cache is then touched once.
const BLOCK: usize = 16;

impl Geometry {
    /// Taps of the kernel.
    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// `weight` [outputs, channels, kernel, kernel] as a matrix [kernel · kernel · channels, outputs].
    pub(super) fn by_patch(&self, weight: &[f32]) -> Vec<f32> {
        let mut matrix = vec![0.0; weight.len()];
        self.each_output(|position, patch| matrix[patch] = weight[position]);
        matrix
    }

    /// The inverse of [`by_patch`](Self::by_patch).
    pub(super) fn by_output(&self, matrix: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; matrix.len()];
        self.each_output(|position, patch| weight[position] = matrix[patch]);
        weight
    }

    /// The kernel turned by half a turn with inputs and outputs exchanged: [kernel · kernel · outputs, channels].
    pub(super) fn turned(&self, weight: &[f32]) -> Vec<f32> {
        let mut matrix = vec![0.0; weight.len()];
        let taps = self.taps();
        for output in 0..self.outputs {
            for first in (0..self.channels).step_by(BLOCK) {
                let channels = first..(first + BLOCK).min(self.channels);
                let weight = &weight[(output * self.channels + first) * taps..];
                for tap in 0..taps {
                    let row = ((taps - 1 - tap) * self.outputs + output) * self.channels;
                    let values = weight[tap..].iter().step_by(taps);
                    for (target, value) in matrix[row..][channels.clone()].iter_mut().zip(values) {
                        *target = *value;
                    }
                }
            }
        }
        matrix
    }

    /// Visits the positions of every element in a weight [outputs, channels, kernel, kernel] and in its matrix
    /// [kernel · kernel · channels, outputs].
    fn each_output(&self, mut visit: impl FnMut(usize, usize)) {
        let taps = self.taps();
        for first in (0..self.outputs).step_by(BLOCK) {
            for channel in 0..self.channels {
                for tap in 0..taps {
                    for output in first..(first + BLOCK).min(self.outputs) {
                        let patch = (tap * self.channels + channel) * self.outputs + output;
                        visit((output * self.channels + channel) * taps + tap, patch);
                    }
                }
            }
        }
    }
}
