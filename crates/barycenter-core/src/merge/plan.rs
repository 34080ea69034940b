//! What a merge did with every tensor, in few words: enough to do it again.

use std::collections::BTreeMap;

use super::Policy;
use crate::{Error, Result, checkpoint::CheckpointFile};

/// Which tensors were averaged, with which column of the coefficients, and which were neither averaged nor copied. All others
/// were copied from the reference candidate, the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergePlan {
    /// Averaged tensors with their blocks.
    pub averaged: Vec<(String, usize)>,
    /// Tensors that no merge of the candidates brings back, as recomputed running statistics.
    pub kept: Vec<String>,
}

impl MergePlan {
    /// The plan of a merge into a file that has the tensors of `reference`.
    pub fn of(reference: &CheckpointFile, policies: &BTreeMap<String, Policy>) -> Self {
        let mut plan = Self::default();
        for tensor in &reference.layout().tensors {
            match policies.get(&tensor.name) {
                Some(Policy::Average { block }) => plan.averaged.push((tensor.name.clone(), *block)),
                Some(Policy::Weighted(_) | Policy::Provided(_) | Policy::Kept(_)) => {
                    plan.kept.push(tensor.name.clone());
                }
                Some(Policy::Copy) | None => {}
            }
        }
        plan
    }

    /// Policies by which a merge makes the same file again; `kept` holds the tensors that were kept of it, or is the file itself.
    ///
    /// # Errors
    /// [`Error::Input`] naming a tensor that the reference or `kept` lacks.
    pub fn policies(
        &self,
        reference: &CheckpointFile,
        kept: Option<&CheckpointFile>,
    ) -> Result<BTreeMap<String, Policy>> {
        let tensors = &reference.layout().tensors;
        let mut policies: BTreeMap<String, Policy> =
            tensors.iter().map(|tensor| (tensor.name.clone(), Policy::Copy)).collect();
        for (name, block) in &self.averaged {
            reference.tensor(name)?;
            policies.insert(name.clone(), Policy::Average { block: *block });
        }
        for name in &self.kept {
            reference.tensor(name)?;
            let kept = kept.ok_or_else(|| Error::input(format!("tensor `{name}` is needed, and nothing was kept")))?;
            policies.insert(name.clone(), Policy::Kept(kept.bytes(name)?.to_vec()));
        }
        Ok(policies)
    }
}
