//! Where the loss goes down.

use super::Point;
use crate::projection::{Columns, Projection};

/// Gradient of the loss on the arguments of the weights.
pub(super) struct Slope {
    pub of_x: Vec<f64>,
    pub of_gain: Vec<f64>,
}

impl Slope {
    /// The slope that a gradient on the weights makes.
    pub fn on(projection: &Projection, gradient: &[Vec<f32>], has_gain: bool) -> Self {
        let of_gain = if has_gain { projection.project_on_centre(gradient) } else { Vec::new() };
        Self { of_x: projection.project(gradient), of_gain }
    }

    /// The part of it that these columns of the gradient make; the parts of all columns sum to the whole.
    pub fn on_columns(projection: &Projection, gradient: &[Vec<f32>], columns: &Columns, has_gain: bool) -> Self {
        let of_gain = if has_gain { projection.project_columns_on_centre(gradient, columns) } else { Vec::new() };
        Self { of_x: projection.project_columns(gradient, columns), of_gain }
    }

    pub fn scaled(mut self, factor: f64) -> Self {
        self.of_x.iter_mut().chain(&mut self.of_gain).for_each(|g| *g *= factor);
        self
    }

    pub fn is_finite(&self) -> bool {
        self.of_x.iter().chain(&self.of_gain).all(|g| g.is_finite())
    }

    /// The point `rho` uphill of another, in `X`; none where there is no way up or nowhere to go.
    pub fn uphill(&self, point: &Point, rho: f64) -> Option<Point> {
        let length = self.of_x.iter().map(|g| g * g).sum::<f64>().sqrt();
        (rho > 0.0 && length > 0.0).then(|| Point {
            x: point.x.iter().zip(&self.of_x).map(|(x, g)| x + rho / length * g).collect(),
            gain: point.gain.clone(),
        })
    }
}
