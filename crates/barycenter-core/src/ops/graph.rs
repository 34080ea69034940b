//! The record of applied operations, walked backwards for gradients.
//!
//! candle has such a record of its own. Ours hands each gradient over by value, so that the next operation may work in
//! it, adds only where two gradients meet, and frees activations on the way; candle's makes an array of zeros and a sum
//! for every edge, in a pool of threads that spin, which took a third of a training step.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use candle_core::{Result, Tensor, TensorId, bail};
use rayon::prelude::*;

use super::plan::{Needs, Plan, shape_only};

/// Elements a task adds.
const PIECE: usize = 16 * 1024;

/// An applied operation's half of the chain rule.
pub(super) trait Operation {
    /// Gradients of the inputs of `node`, in order, from that of its output; `None` for those that are not wanted.
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>>;
}

/// One applied operation.
pub(super) struct Node {
    pub(super) inputs: Vec<Tensor>,
    /// Whether the gradient of each input is wanted.
    pub(super) wanted: Vec<bool>,
    pub(super) output: Tensor,
    operation: Box<dyn Operation>,
}

/// What was applied to the tensors whose gradients are wanted, in order.
#[derive(Default)]
pub struct Graph {
    record: RefCell<Record>,
}

#[derive(Default)]
struct Record {
    /// Tensors with a gradient: the ones asked for, and all that were made from them.
    tracked: HashSet<TensorId>,
    nodes: Vec<Node>,
    /// Where nothing is computed, the sizes of what would be.
    plan: Option<Plan>,
}

impl Graph {
    /// A graph that records nothing, for forward passes alone.
    pub fn untracked() -> Self {
        Self::default()
    }

    /// A graph that records what is made from these tensors.
    pub fn tracking<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let tracked = tensors.into_iter().map(Tensor::id).collect();
        Self { record: RefCell::new(Record { tracked, ..Record::default() }) }
    }

    /// A graph on which operations compute nothing: their results have shapes and no numbers, and [`planned_bytes`] then
    /// tells what the step would hold.
    ///
    /// [`planned_bytes`]: Self::planned_bytes
    pub fn planning<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let parameters: Vec<TensorId> = parameters.into_iter().map(Tensor::id).collect();
        let tracked = parameters.iter().copied().collect();
        Self { record: RefCell::new(Record { tracked, plan: Some(Plan::new(parameters)), ..Record::default() }) }
    }

    /// Whether this graph computes nothing.
    pub fn is_planning(&self) -> bool {
        self.record.borrow().plan.is_some()
    }

    /// Most bytes that forward and backward of what was planned hold at one time, without the parameters and their
    /// gradients.
    pub fn planned_bytes(&self) -> u64 {
        self.record.borrow().plan.as_ref().map_or(0, Plan::peak)
    }

    /// On a planning graph, the result of an operation: its shape, noted. An operation asks before it computes.
    pub(super) fn planned(&self, inputs: &[&Tensor], shape: &[usize], needs: Needs) -> Option<Result<Tensor>> {
        let mut record = self.record.borrow_mut();
        let Record { tracked, plan, .. } = &mut *record;
        let plan = plan.as_mut()?;
        let wanted: Vec<bool> = inputs.iter().map(|input| tracked.contains(&input.id())).collect();
        Some(shape_only(shape).inspect(|output| {
            if wanted.contains(&true) {
                tracked.insert(output.id());
                plan.note(inputs, &wanted, output, needs);
            }
        }))
    }

    /// Records that `operation` made `output` from `inputs`, where anybody wants the gradient of one of them.
    pub(super) fn record(&self, operation: impl Operation + 'static, inputs: &[&Tensor], output: &Tensor) {
        let mut record = self.record.borrow_mut();
        let wanted: Vec<bool> = inputs.iter().map(|input| record.tracked.contains(&input.id())).collect();
        if !wanted.contains(&true) {
            return;
        }
        record.tracked.insert(output.id());
        let inputs = inputs.iter().map(|input| (*input).clone()).collect();
        record.nodes.push(Node { inputs, wanted, output: output.clone(), operation: Box::new(operation) });
    }

    /// Gradients of the tracked tensors, given that of `output`. The record is used up.
    pub fn backward(&self, output: &Tensor, gradient: Vec<f32>) -> Result<Gradients> {
        if gradient.len() != output.elem_count() {
            bail!("a gradient of {} elements for an output of shape {:?}", gradient.len(), output.dims());
        }
        let nodes = std::mem::take(&mut self.record.borrow_mut().nodes);
        let mut gradients = Gradients(HashMap::from([(output.id(), gradient)]));
        for node in nodes.into_iter().rev() {
            let Some(gradient) = gradients.take(&node.output) else { continue };
            let found = node.operation.backward(&node, gradient)?;
            for (input, found) in node.inputs.iter().zip(found) {
                if let Some(found) = found {
                    gradients.add(input, found);
                }
            }
        }
        Ok(gradients)
    }
}

/// Gradients by tensor.
pub struct Gradients(HashMap<TensorId, Vec<f32>>);

impl Gradients {
    /// Hands out the gradient of a tensor, row-major; `None` where the output does not depend on it.
    pub fn take(&mut self, tensor: &Tensor) -> Option<Vec<f32>> {
        self.0.remove(&tensor.id())
    }

    fn add(&mut self, tensor: &Tensor, gradient: Vec<f32>) {
        let Some(sum) = self.0.get_mut(&tensor.id()) else {
            self.0.insert(tensor.id(), gradient);
            return;
        };
        sum.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).for_each(|(sum, gradient)| {
            for (sum, gradient) in sum.iter_mut().zip(gradient) {
                *sum += gradient;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::relu;

    fn numbers(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_that_meet_are_added() {
        let x = numbers(&[1.0, 2.0]);
        let graph = Graph::tracking([&x]);
        let first = relu(&graph, &x).unwrap();
        let second = relu(&graph, &first).unwrap();
        // `first` is used twice: by `second`, and as an output whose gradient arrives with it.
        let mut gradients = Gradients(HashMap::new());
        gradients.add(&first, vec![1.0, 2.0]);
        gradients.add(&first, vec![10.0, 20.0]);
        assert_eq!(gradients.take(&first).unwrap(), [11.0, 22.0]);
        assert_eq!(graph.backward(&second, vec![3.0, 4.0]).unwrap().take(&x).unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn nothing_is_recorded_for_tensors_without_a_gradient() {
        let x = numbers(&[1.0]);
        let graph = Graph::untracked();
        let y = relu(&graph, &x).unwrap();
        assert!(graph.backward(&y, vec![1.0]).unwrap().take(&x).is_none());
    }
}
