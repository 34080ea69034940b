//! The memory of a training step, found without computing anything.
//!
//! A network runs forward on a planning [`Graph`](super::Graph): each operation notes its sizes in place of its work and
//! hands on a tensor that has a shape and no numbers. The walk backwards is then replayed on the notes, with each
//! array freed where `Graph::backward` frees it.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, TensorId};

/// What an operation takes besides its operands and its result, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    /// Kept from the forward pass for the backward one, besides operands and result.
    pub(super) kept: u64,
    /// Held while the gradients of parameters are made, before that of the first operand.
    pub(super) scratch: u64,
    /// Held while the gradient of the first operand is made.
    pub(super) packed: u64,
    /// The gradient of the first operand takes the place of that of the result.
    pub(super) in_place: bool,
}

/// One noted operation.
#[derive(Debug)]
struct Step {
    /// Operands whose gradient is wanted.
    wanted: Vec<TensorId>,
    output: TensorId,
    needs: Needs,
    /// Bytes of the arrays that no earlier operation refers to: freed with this step.
    frees: u64,
}

/// The operations of a forward pass, in order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Bytes of every array seen.
    sizes: HashMap<TensorId, u64>,
    /// Parameters, whose arrays and gradients are counted elsewhere.
    parameters: Vec<TensorId>,
    steps: Vec<Step>,
}

impl Plan {
    pub(super) fn new(parameters: Vec<TensorId>) -> Self {
        Self { parameters, ..Self::default() }
    }

    /// Notes one operation.
    pub(super) fn note(&mut self, inputs: &[&Tensor], wanted: &[bool], output: &Tensor, needs: Needs) {
        let frees = inputs.iter().map(|input| self.first_seen(input)).sum::<u64>() + self.first_seen(output);
        let wanted = inputs.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(input, _)| input.id()).collect();
        self.steps.push(Step { wanted, output: output.id(), needs, frees });
    }

    /// Bytes of an array that was not seen before, else none; none for a parameter.
    fn first_seen(&mut self, tensor: &Tensor) -> u64 {
        let bytes = bytes_of(tensor);
        let known = self.sizes.insert(tensor.id(), bytes).is_some();
        if known || self.parameters.contains(&tensor.id()) { 0 } else { bytes }
    }

    /// Most bytes held at one time, going backward from the last output: all that was kept, the gradients in flight, and
    /// those of the parameters. All of the last are taken off at the end: they are counted elsewhere, and whole.
    pub(super) fn peak(&self) -> u64 {
        let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0, u64::saturating_add);
        let mut kept = sum(&mut self.steps.iter().map(|step| step.frees.saturating_add(step.needs.kept)));
        let Some(last) = self.steps.last() else { return kept };
        let mut gradients = HashMap::from([(last.output, self.sizes[&last.output])]);
        let (mut peak, mut of_parameters) = (kept, 0);
        for step in self.steps.iter().rev() {
            let before = sum(&mut gradients.values().copied());
            if gradients.remove(&step.output).is_none() {
                continue;
            }
            let (parameters, inputs): (Vec<TensorId>, Vec<TensorId>) =
                step.wanted.iter().partition(|id| self.parameters.contains(id));
            let bytes = |ids: &[TensorId]| sum(&mut ids.iter().map(|id| self.sizes[id]));
            of_parameters += bytes(&parameters);
            // In place, the first gradient is the incoming one.
            let made = bytes(inputs.get(usize::from(step.needs.in_place)..).unwrap_or_default());
            let working = step.needs.scratch.max(made.saturating_add(step.needs.packed));
            peak = peak.max(sum(&mut [kept, before, of_parameters, working].into_iter()));
            // Where two gradients meet, one array is left.
            gradients.extend(inputs.into_iter().map(|input| (input, self.sizes[&input])));
            kept = kept.saturating_sub(step.frees.saturating_add(step.needs.kept));
        }
        peak.saturating_sub(of_parameters)
    }
}

fn bytes_of(tensor: &Tensor) -> u64 {
    tensor.elem_count() as u64 * tensor.dtype().size_in_bytes() as u64
}

/// A tensor with a shape and no memory of its own.
pub(super) fn shape_only(shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)
}
