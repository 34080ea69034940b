//! Candidates that are adapters.

use barycenter_api::{Constraint, JobSpec, LoraResult, LoraSpec, Materialise, MethodSpec};
use barycenter_core::merge::lora::{AdaptedModule, check_adapter};
use sqlx::PgConnection;

use super::{Candidates, Faults};
use crate::{
    app::{AppError, AppResult},
    db,
    domain::layout::Tensor,
};

/// What the network is to have the tensors of.
pub(super) struct Models {
    /// The candidates' tensors, or those of their base model where they are adapters.
    pub(super) tensors: Vec<Tensor>,
    /// The weights that adapters adapt.
    adapted: Vec<String>,
}

/// The models of a spec; `None` where they are not known.
pub(super) async fn models(
    conn: &mut PgConnection,
    spec: &JobSpec,
    candidates: Option<&Candidates>,
    faults: &mut Faults,
) -> AppResult<Option<Models>> {
    let Some(lora) = &spec.lora else {
        let models = |candidates: &Candidates| Models { tensors: candidates.tensors.clone(), adapted: Vec::new() };
        return Ok(candidates.map(models));
    };
    check(spec, lora, faults);
    let id = lora.base_checkpoint_id;
    let Some(base) = db::checkpoints::find_checkpoint(conn, id.into()).await? else {
        faults.add("lora.base_checkpoint_id", format!("there is no checkpoint {id}"));
        return Ok(None);
    };
    let tensors = db::layouts::find_layout(conn, &base.layout_blake3).await?;
    let tensors = tensors.ok_or_else(|| AppError::internal(format!("checkpoint {id} has no layout")))?;
    let mut adapted = Vec::new();
    if let Some(candidates) = candidates {
        let (base, adapter) = (shapes(&tensors), shapes(&candidates.tensors));
        match check_adapter(borrowed(&base), borrowed(&adapter), lora.transposed) {
            Ok(modules) => adapted.extend(modules.iter().map(AdaptedModule::weight_name)),
            Err(error) => faults.add("lora", error.to_string()),
        }
    }
    Ok(Some(Models { tensors, adapted }))
}

/// Whether what is written is something else than a model.
fn is_of_products(lora: &LoraSpec) -> bool {
    lora.result != LoraResult::Model
}

fn check(spec: &JobSpec, lora: &LoraSpec, faults: &mut Faults) {
    let sound = lora.scale.is_finite() && lora.scale != 0.0;
    faults.check(sound, "lora.scale", || format!("must be a finite number other than 0, not {}", lora.scale));
    if let LoraResult::Adapter { rank } = lora.result {
        faults.check(rank > 0, "lora.result.rank", || "must be at least 1".into());
    }
    let sound = !matches!(&spec.method, MethodSpec::Twa(twa) if twa.constraint == Constraint::Linear);
    faults.check(sound, "method.constraint", || "`linear` scales the base model with its adapters".into());
    let sound = !(is_of_products(lora) && spec.materialise == Materialise::AsFitted);
    faults.check(sound, "materialise", || "`as_fitted` writes a model, not adapters".into());
}

/// Adds a fault where products are written of a weight that is not averaged.
pub(super) fn check_averaged(spec: &JobSpec, models: &Models, averaged: &[(String, usize)], faults: &mut Faults) {
    if !spec.lora.as_ref().is_some_and(is_of_products) {
        return;
    }
    let is_averaged = |weight: &&String| averaged.iter().any(|(name, _)| name == *weight);
    if let Some(weight) = models.adapted.iter().find(|weight| !is_averaged(weight)) {
        faults.add("tensors", format!("`{weight}` is adapted and has to be averaged"));
    }
}

fn shapes(tensors: &[Tensor]) -> Vec<(String, Vec<usize>)> {
    let extents = |tensor: &Tensor| tensor.shape.iter().map(|extent| *extent as usize).collect();
    tensors.iter().map(|tensor| (tensor.name.clone(), extents(tensor))).collect()
}

fn borrowed(shapes: &[(String, Vec<usize>)]) -> impl Iterator<Item = (&str, &[usize])> {
    shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
}
