//! The indirect convolution on processors that have no kernels for it: never usable.

use super::columns::Geometry;

pub(super) fn usable(_: &Geometry) -> bool {
    false
}

pub(super) fn input_gradient_usable(_: &Geometry) -> bool {
    false
}

pub(super) fn convolve(_: &[f32], _: &[f32], _: Option<&[f32]>, _: &Geometry) -> Vec<f32> {
    unreachable!("asked only after `usable`");
}

pub(super) fn input_gradient(_: &[f32], _: &[f32], _: &Geometry) -> Vec<f32> {
    unreachable!("asked only after `input_gradient_usable`");
}

pub(super) fn kernel_gradient(_: &[f32], _: &[f32], _: &Geometry) -> Vec<f32> {
    unreachable!("asked only after `usable`");
}

pub(super) fn kernel_gradient_bytes(_: &Geometry, _: usize) -> u64 {
    unreachable!("asked only after `usable`");
}
