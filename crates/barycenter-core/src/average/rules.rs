//! Methods that need no gradient (`docs/method.md`, "Methods besides TWA").

use super::{Averaging, Progress, Rule, choice::Contender};
use crate::{Result, merge::weights};

/// How far a line search goes: 0 is the uniform average, 1 that of the later half.
const FARTHEST: f64 = 3.0;
/// Points of the line that are tried first.
const POINTS: usize = 7;
/// Points that close in on the best of them.
const REFINEMENTS: usize = 6;

impl Averaging<'_> {
    /// Adds the rule's contender where it is none of the baselines; returns all and the position of the rule's.
    pub(super) fn with_rule(
        &self,
        rule: &Rule,
        mut contenders: Vec<Contender>,
        progress: &mut dyn Progress,
    ) -> Result<(Vec<Contender>, usize)> {
        let method = self.options.method.name();
        if let Some(own) = contenders.iter().position(|contender| contender.method == method) {
            return Ok((contenders, own));
        }
        let n = self.candidates.len();
        let own = match rule {
            Rule::Fixed(given) => self.rule_contender(&weights::normalised(given, n)?, progress)?,
            Rule::Ema { decay } => self.rule_contender(&weights::ema(n, *decay)?, progress)?,
            Rule::Schedule(curve) => self.rule_contender(&weights::schedule(n, *curve), progress)?,
            Rule::LineSearch => self.line_search(progress)?,
            Rule::Uniform | Rule::BestSuffix | Rule::Greedy => unreachable!("these are baselines"),
        };
        contenders.push(own);
        let own = contenders.len() - 1;
        Ok((contenders, own))
    }

    fn rule_contender(&self, weights: &[f64], progress: &dyn Progress) -> Result<Contender> {
        let coefficients = weights::in_every_block(weights, self.blocks.len());
        self.contender(self.options.method.name(), coefficients, progress)
    }

    /// The point with the least select loss among some of the line through the uniform average and that of the later half,
    /// then by golden sections beside it (Kiefer 1953).
    fn line_search(&self, progress: &dyn Progress) -> Result<Contender> {
        let n = self.candidates.len();
        let (start, end) = (weights::uniform(n), weights::over(n, &(n / 2..n).collect::<Vec<_>>()));
        let at = |place: f64| -> Vec<f64> { start.iter().zip(&end).map(|(a, b)| a + place * (b - a)).collect() };
        let gap = FARTHEST / (POINTS - 1) as f64;
        let mut best: Option<(f64, Contender)> = None;
        let mut loss_at = |place: f64| -> Result<f64> {
            let contender = self.rule_contender(&at(place), progress)?;
            let loss = contender.select.mean_loss();
            if best.as_ref().is_none_or(|(_, best)| loss < best.select.mean_loss()) {
                best = Some((place, contender));
            }
            Ok(loss)
        };
        let mut losses = Vec::with_capacity(POINTS);
        for point in 0..POINTS {
            losses.push(loss_at(gap * point as f64)?);
        }
        let middle = (0..POINTS).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap_or(0);
        let (mut low, mut high) = (gap * middle.saturating_sub(1) as f64, (gap * (middle + 1) as f64).min(FARTHEST));
        let golden = 0.5 * (5.0_f64.sqrt() - 1.0);
        let (mut inner, mut outer) = (high - golden * (high - low), low + golden * (high - low));
        let (mut at_inner, mut at_outer) = (loss_at(inner)?, loss_at(outer)?);
        for _ in 2..REFINEMENTS {
            if at_inner < at_outer {
                (high, outer, at_outer) = (outer, inner, at_inner);
                inner = high - golden * (high - low);
                at_inner = loss_at(inner)?;
            } else {
                (low, inner, at_inner) = (inner, outer, at_outer);
                outer = low + golden * (high - low);
                at_outer = loss_at(outer)?;
            }
        }
        let (_, contender) = best.expect("points were tried");
        Ok(contender)
    }
}
