//! Language models whose files hold a parameter twice, and masks that nothing is computed with.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use barycenter_core::{
    Result,
    average::{
        AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method,
        Outcome, Part, Silent, TwaOptions,
    },
    blocks::Granularity,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::{Augmentation, Dataset},
    network::{Gpt2Sizes, Network, NetworkSpec, Role, Statistics},
    objective::{Loss, SampleResults},
};

const MASK: &str = "transformer.h.0.attn.bias";

fn network() -> Arc<dyn Network> {
    let sizes = Gpt2Sizes { vocabulary: 9, positions: 4, width: 6, depth: 1, heads: 2 };
    Arc::from(NetworkSpec::Gpt2(sizes).build().unwrap())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A checkpoint with a mask, and with the output layer's weight where one is given.
fn checkpoint(seed: u64, output_layer: Option<&[f32]>) -> CheckpointFile {
    let network = network();
    let spec = |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() };
    let parameters = network.parameters().into_iter().zip(network.initial_parameters(seed));
    let mut tensors: Vec<_> =
        parameters.map(|(tensor, values)| (spec(&tensor.name, Dtype::F32, &tensor.shape), bytes(&values))).collect();
    tensors.push((spec(MASK, Dtype::U8, &[1, 1, 4, 4]), vec![seed as u8; 16]));
    tensors.extend(output_layer.map(|values| (spec("lm_head.weight", Dtype::F32, &[9, 6]), bytes(values))));
    let mut written = Vec::new();
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = Writer::new(&mut written, specs, &BTreeMap::new()).unwrap();
    for (spec, data) in &tensors {
        writer.write(&spec.name, data).unwrap();
    }
    writer.finish().unwrap();
    CheckpointFile::from_bytes(written).unwrap()
}

fn averaging(candidates: &[CheckpointFile]) -> Result<Averaging<'_>> {
    let data = Arc::new(Dataset::from_tokens(vec![0; 10], 5, None).unwrap());
    let part = || Part::all(Arc::clone(&data));
    let data = AverageData { fit: vec![part()], select: part(), test: None, batch_norm: part() };
    let options = AverageOptions {
        method: Method::Twa(TwaOptions::plain(Granularity::Tensor, 4, 1)),
        batch_size: 2,
        augmentation: Augmentation::default(),
        loss: Loss::NextToken { label_smoothing: 0.0 },
        batch_norm: BatchNormOptions { policy: BatchNormPolicy::Copy, augment: false, batches: None },
        baselines: Baselines::All,
        guard: false,
        materialise: Materialise::Exact,
        tensors: Vec::new(),
        dtype: None,
        seed: 0,
    };
    let names: Vec<_> = (0..candidates.len()).map(|i| format!("candidate {i}")).collect();
    Averaging::new(network(), candidates, &names, data, options, &mut Silent)
}

/// Merges with coefficients that differ from block to block.
fn merged(candidates: &[CheckpointFile]) -> CheckpointFile {
    let averaging = averaging(candidates).unwrap();
    let blocks = averaging.blocks().len();
    let first: Vec<f64> = (0..blocks).map(|block| 0.1 + 0.05 * block as f64).collect();
    let outcome = Outcome {
        chosen: "twa",
        coefficients: first.iter().copied().chain(first.iter().map(|a| 1.0 - a)).collect(),
        statistics: Statistics::default(),
        select: SampleResults { losses: Vec::new(), weights: Vec::new(), correct: None },
        methods: Vec::new(),
        fit: None,
        geometry: None,
    };
    let mut written = Vec::new();
    averaging.materialise(&outcome, &mut written, &mut Silent).unwrap();
    CheckpointFile::from_bytes(written).unwrap()
}

#[test]
fn a_tied_tensor_is_averaged_with_its_twin_and_stays_equal() {
    let table = |seed| network().initial_parameters(seed).swap_remove(0);
    let candidates = [checkpoint(1, Some(&table(1))), checkpoint(2, Some(&table(2)))];
    let merged = merged(&candidates);
    assert_eq!(merged.bytes("lm_head.weight").unwrap(), merged.bytes("transformer.wte.weight").unwrap());
    assert_ne!(merged.bytes("lm_head.weight").unwrap(), candidates[1].bytes("lm_head.weight").unwrap());
}

#[test]
fn files_without_the_tied_tensor_stay_without_it() {
    let merged = merged(&[checkpoint(1, None), checkpoint(2, None)]);
    assert!(merged.tensor("lm_head.weight").is_err());
}

#[test]
fn masks_are_copied_from_the_reference_candidate() {
    let candidates = [checkpoint(1, None), checkpoint(2, None)];
    assert_eq!(merged(&candidates).bytes(MASK).unwrap(), [2; 16]);
    let averaging = averaging(&candidates).unwrap();
    let not_averaged: Vec<_> = averaging.not_averaged().into_iter().map(|t| (t.tensor, t.policy)).collect();
    assert_eq!(not_averaged, [(MASK.to_owned(), "copy")]);
    assert!(network().tensors().iter().any(|tensor| tensor.role == Role::Carried && tensor.name == MASK));
}

#[test]
fn an_output_layer_of_its_own_is_refused_by_name() {
    let table = network().initial_parameters(1).swap_remove(0);
    let mut other = table.clone();
    other[7] += 1.0;
    let candidates = [checkpoint(1, Some(&table)), checkpoint(1, Some(&other))];
    let message = averaging(&candidates).err().unwrap().to_string();
    assert!(message.contains("candidate 1: `lm_head.weight` is not equal to `transformer.wte.weight`"), "{message}");
}
