//! What a job found, in the words of the API.

use barycenter_api::{Evaluated, Evaluation, Lease, PhaseTime, Report};
use barycenter_core::average::{MethodScores, Scores};
use uuid::Uuid;

use crate::compute::Product;

/// The report of a job.
pub(crate) fn report(lease: &Lease, product: &Product, phases: Vec<PhaseTime>) -> Report {
    let outcome = &product.outcome;
    Report {
        chosen: outcome.chosen.to_owned(),
        verdict: verdict(&outcome.methods, outcome.chosen),
        evaluations: outcome.methods.iter().map(|method| evaluation(lease, method)).collect(),
        best_step: outcome.best_step,
        steps: outcome.steps,
        as_fitted_select_loss: outcome.as_fitted_select_loss,
        fit_samples: product.fit_samples,
        select_samples: product.select_samples,
        select_overlaps_fit: product.select_overlaps_fit,
        not_averaged: product.not_averaged.clone(),
        phases,
        projection_bytes: product.projection_bytes,
        projection_cached: product.projection_cached,
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
    }
}

fn evaluated(scores: Scores) -> Evaluated {
    Evaluated { loss: scores.loss, accuracy: scores.accuracy }
}

/// One plain sentence: what was returned, and what it gained.
fn verdict(methods: &[MethodScores], chosen: &str) -> String {
    let loss = |name: &str| methods.iter().find(|m| m.method == name).map(|m| m.select.loss);
    let (Some(fit), Some(uniform)) = (loss("twa"), loss("uniform")) else { return String::new() };
    let rival = methods.iter().filter(|m| m.method != "twa").min_by(|a, b| a.select.loss.total_cmp(&b.select.loss));
    let Some(rival) = rival else { return String::new() };
    if chosen == "twa" && fit < rival.select.loss {
        let gain = rival.select.loss - fit;
        format!(
            "the learned average is best: select loss {fit:.4}, {:.4} below uniform and {gain:.4} below the best \
             baseline, {}",
            uniform - fit,
            rival.method
        )
    } else {
        format!(
            "the learned average gained nothing over the baseline {}: select loss {fit:.4} against {:.4}; returned: \
             {chosen}",
            rival.method, rival.select.loss
        )
    }
}
