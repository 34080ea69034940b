//! One rank of a fit that several share (`docs/method.md`, "Ranks").

use super::{Point, Slope, collective::Collective};
use crate::{
    Result,
    objective::BatchLoss,
    projection::{Columns, Projection},
};

/// What each rank of a fit holds of the projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharding {
    /// All of it. Ranks exchange n · L numbers a step, and no vector of the model's size.
    #[default]
    Replicated,
    /// The same columns of all candidates. Ranks also scatter the sum of their gradients and gather the weights.
    Columns,
}

/// A rank's end of the fit.
#[derive(Debug)]
pub(super) struct Rank {
    collective: Box<dyn Collective>,
    /// Those of every rank; absent where each holds all.
    columns: Option<Vec<Columns>>,
}

impl Rank {
    pub fn new(collective: Box<dyn Collective>, sharding: Sharding, projection: &Projection) -> Self {
        let columns = (sharding == Sharding::Columns).then(|| projection.columns_by_rank(collective.ranks()));
        Self { collective, columns }
    }

    /// The weights of a point, all of them on every rank.
    pub fn weights(&mut self, projection: &Projection, point: &Point, into: &mut [Vec<f32>]) -> Result<()> {
        let Some(columns) = &self.columns else {
            projection.weights(point, into);
            return Ok(());
        };
        let own = &columns[self.collective.rank()];
        projection.reconstruct_columns(&point.x, own, into);
        if !point.gain.is_empty() {
            projection.add_centre_columns(&point.gain, own, into);
        }
        self.collective.gather_columns(into, columns)
    }

    /// Loss and slope of the whole batch, out of those of this rank's part of it. Parts weigh as many rows as they have.
    pub fn slope(&mut self, projection: &Projection, part: BatchLoss, has_gain: bool) -> Result<(f64, Slope)> {
        let BatchLoss { loss, rows, mut gradient } = part;
        let slope = match &self.columns {
            None => Slope::on(projection, &gradient, has_gain).scaled(rows),
            Some(columns) => {
                gradient.iter_mut().flatten().for_each(|g| *g *= rows as f32);
                self.collective.sum_columns(&mut gradient, columns)?;
                let own = &columns[self.collective.rank()];
                Slope::on_columns(projection, &gradient, own, has_gain)
            }
        };
        let mut numbers = [vec![rows, rows * loss], slope.of_x, slope.of_gain].concat();
        self.collective.sum(&mut numbers)?;
        let rows = numbers[0];
        for number in &mut numbers {
            *number /= rows;
        }
        let of_gain = numbers.split_off(2 + projection.n() * projection.block_count());
        Ok((numbers[1], Slope { of_x: numbers.split_off(2), of_gain }))
    }
}
