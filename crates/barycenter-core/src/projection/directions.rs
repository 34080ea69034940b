//! From what is stored to directions: the factors that both passes of a step apply.

use super::Projection;

impl Projection {
    /// `1 / r`, 0 where the deviation is null.
    pub(crate) fn inverse_norm(&self, i: usize, l: usize) -> f64 {
        let r = self.norms[i * self.block_count + l];
        if r > 0.0 { 1.0 / r } else { 0.0 }
    }

    /// `1 / (κ r)`, which makes a direction of stored codes; 0 where they are null.
    pub(crate) fn direction_factor(&self, i: usize, l: usize) -> f64 {
        let kept = self.kept[i * self.block_count + l];
        if kept > 0.0 { self.inverse_norm(i, l) / kept } else { 0.0 }
    }

    /// `⟨û, g⟩` of all candidates and blocks, of `⟨Q(d), g⟩`; both (n, L).
    pub(super) fn along_directions(&self, products: &mut [f64]) {
        if self.lengths.is_none() {
            self.for_each_entry(products, |product, i, l| *product *= self.direction_factor(i, l));
            return;
        }
        self.for_each_entry(products, |product, i, l| *product *= self.inverse_kept(i, l));
        self.less_the_mean(products);
        self.for_each_entry(products, |product, i, l| *product *= self.inverse_norm(i, l));
    }

    /// What `X`, (n, L), multiplies the stored codes by: the transpose of [`Self::along_directions`].
    pub(super) fn code_factors(&self, x: &[f64]) -> Vec<f64> {
        let mut factors = x.to_vec();
        if self.lengths.is_none() {
            self.for_each_entry(&mut factors, |factor, i, l| *factor *= self.direction_factor(i, l));
            return factors;
        }
        self.for_each_entry(&mut factors, |factor, i, l| *factor *= self.inverse_norm(i, l));
        self.less_the_mean(&mut factors);
        self.for_each_entry(&mut factors, |factor, i, l| *factor *= self.inverse_kept(i, l));
        factors
    }

    /// `1 / κ`, 0 where the codes are null.
    pub(super) fn inverse_kept(&self, i: usize, l: usize) -> f64 {
        let kept = self.kept[i * self.block_count + l];
        if kept > 0.0 { 1.0 / kept } else { 0.0 }
    }

    fn for_each_entry(&self, entries: &mut [f64], change: impl Fn(&mut f64, usize, usize)) {
        for (place, entry) in entries.iter_mut().enumerate() {
            change(entry, place / self.block_count, place % self.block_count);
        }
    }

    /// Takes the mean over the candidates from every block.
    fn less_the_mean(&self, entries: &mut [f64]) {
        for l in 0..self.block_count {
            let mean = entries.iter().skip(l).step_by(self.block_count).sum::<f64>() / self.n as f64;
            entries.iter_mut().skip(l).step_by(self.block_count).for_each(|entry| *entry -= mean);
        }
    }
}
