//! The convolution by fewer products on processors that have no kernels for it: never usable.

use super::columns::Geometry;

pub(super) fn usable(_: &Geometry) -> bool {
    false
}

pub(super) fn convolve_images(_: &[f32], _: &[f32], _: &Geometry) -> Vec<f32> {
    unreachable!("asked only after `usable`");
}

pub(super) fn part_of_gradient(_: &[f32], _: &[f32], _: &Geometry) -> Vec<f32> {
    unreachable!("asked only after `usable`");
}

pub(super) fn bytes(_: &Geometry) -> u64 {
    unreachable!("asked only after `usable`");
}
