//! What a job found, in the words of the API.

use barycenter_api::{
    BatchNormStatistics, Evaluated, Evaluation, FitReport, Floats, Geometry, Lease, MAX_SELECT_LOSSES, NearDuplicate,
    PhaseTime, Report, SelectLosses,
};
use barycenter_core::{
    average::{MethodScores, Scores},
    objective::SampleResults,
    projection,
};
use uuid::Uuid;

use crate::compute::Product;

/// The report of a job.
pub(crate) fn report(lease: &Lease, product: &Product, phases: Vec<PhaseTime>) -> Report {
    let outcome = &product.outcome;
    Report {
        chosen: outcome.chosen.to_owned(),
        verdict: verdict(&outcome.methods, product.method, outcome.chosen),
        evaluations: outcome.methods.iter().map(|method| evaluation(lease, method)).collect(),
        fit: outcome.fit.as_ref().map(|fit| FitReport {
            best_step: fit.best_step,
            steps: fit.steps,
            as_fitted_select_loss: fit.as_fitted_select_loss,
            ranks: fit.ranks as u32,
            batch_norm_statistics: product.has_batch_norm.then_some(if fit.ranks == 1 {
                BatchNormStatistics::Batch
            } else {
                BatchNormStatistics::PartOfRank
            }),
        }),
        geometry: outcome.geometry.as_ref().map(|found| geometry(lease, found)),
        lora: product.lora.clone(),
        fit_samples: product.fit_samples,
        select_samples: product.select_samples,
        select_overlaps_fit: product.select_overlaps_fit,
        not_averaged: product.not_averaged.clone(),
        phases,
        projection_bytes: product.projection_bytes,
        projection: product.projection.clone(),
    }
}

/// The losses of the samples; none where they are too many to be sent.
pub(crate) fn select_losses(results: &SampleResults) -> Option<SelectLosses> {
    if results.losses.is_empty() || results.losses.len() > MAX_SELECT_LOSSES {
        return None;
    }
    let losses = Floats(results.losses.iter().copied().map(f64::from).collect());
    let alike = results.weights.iter().all(|weight| *weight == results.weights[0]);
    Some(SelectLosses { losses, weights: (!alike).then(|| results.weights.clone()) })
}

fn geometry(lease: &Lease, found: &projection::Geometry) -> Geometry {
    let id = |candidate: usize| lease.candidates[candidate].checkpoint_id;
    let pairs = found.near_duplicates.iter();
    Geometry {
        gram: found.gram.clone(),
        effective_rank: found.effective_rank,
        near_duplicates: pairs
            .map(|pair| NearDuplicate { first: id(pair.first), second: id(pair.second), distance: pair.distance })
            .collect(),
    }
}

fn evaluation(lease: &Lease, scores: &MethodScores) -> Evaluation {
    let id = |candidate: &usize| -> Uuid { lease.candidates[*candidate].checkpoint_id };
    Evaluation {
        method: scores.method.to_owned(),
        members: scores.members.as_ref().map(|members| members.iter().map(id).collect()),
        select: evaluated(scores.select),
        test: scores.test.map(evaluated),
        select_difference_from_uniform: scores.select_difference_from_uniform,
        test_difference_from_uniform: scores.test_difference_from_uniform,
    }
}

fn evaluated(scores: Scores) -> Evaluated {
    Evaluated { loss: scores.loss, accuracy: scores.accuracy }
}

/// One plain sentence: what was returned, and what the job's own method gained.
fn verdict(methods: &[MethodScores], own: &str, chosen: &str) -> String {
    let loss = |name: &str| methods.iter().find(|m| m.method == name).map(|m| m.select.loss);
    let (Some(of_own), Some(uniform)) = (loss(own), loss("uniform")) else { return String::new() };
    let rival = methods.iter().filter(|m| m.method != own).min_by(|a, b| a.select.loss.total_cmp(&b.select.loss));
    let Some(rival) = rival else { return String::new() };
    let called = if own == "twa" { "the learned average" } else { own };
    if chosen == own && of_own < rival.select.loss {
        let gain = rival.select.loss - of_own;
        format!(
            "{called} is best: select loss {of_own:.4}, {:.4} below uniform and {gain:.4} below the best baseline, {}",
            uniform - of_own,
            rival.method
        )
    } else {
        format!(
            "{called} gained nothing over the baseline {}: select loss {of_own:.4} against {:.4}; returned: {chosen}",
            rival.method, rival.select.loss
        )
    }
}
