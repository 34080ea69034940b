//! A whole job on tokens, and what does not belong together where targets and tokens are at play.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::average::{
    AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method, Outcome,
    Silent, TwaOptions,
};
use crate::blocks::Granularity;
use crate::checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer};
use crate::data::{Augmentation, Dataset, Draws, Inputs, Normalisation, Part, split};
use crate::network::bigram::Bigram;
use crate::network::{Network, NetworkSpec};

const VOCABULARY: usize = 8;
const PADDING: u32 = 0;

/// Logits that say: after token t comes t + 1, most of the time.
fn true_table() -> Vec<f32> {
    let next = |(to, from): (usize, usize)| if to == (from + 1) % VOCABULARY { 3.0 } else { 0.0 };
    (0..VOCABULARY * VOCABULARY).map(|i| next((i / VOCABULARY, i % VOCABULARY))).collect()
}

/// A checkpoint whose table lies `offset` times a noise, common to all, away from the true one.
fn candidate(offset: f32) -> CheckpointFile {
    let mut draws = Draws::keyed(&[3]);
    let mut value = |truth: f32| (truth + offset * draws.normal() as f32).to_le_bytes();
    let table: Vec<u8> = true_table().into_iter().flat_map(&mut value).collect();
    let bias: Vec<u8> = [0.0; VOCABULARY].into_iter().flat_map(&mut value).collect();
    let spec = |name: &str, shape: &[usize]| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.into() };
    let specs = vec![spec("table.weight", &[VOCABULARY, VOCABULARY]), spec("table.bias", &[VOCABULARY])];
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, specs, &BTreeMap::new()).unwrap();
    writer.write("table.weight", &table).unwrap();
    writer.write("table.bias", &bias).unwrap();
    writer.finish().unwrap();
    CheckpointFile::from_bytes(bytes).unwrap()
}

/// Rows of ten tokens drawn from the true table, a few of them filled up with padding.
fn rows(count: usize) -> Dataset {
    let mut draws = Draws::keyed(&[5]);
    let mut tokens = Vec::new();
    for row in 0..count {
        let mut token = draws.below(VOCABULARY);
        for position in 0..10 {
            let is_padding = row % 4 == 0 && position > 4;
            tokens.push(if is_padding { PADDING } else { token as u32 });
            let follows = draws.uniform() < 0.7;
            token = if follows { (token + 1) % VOCABULARY } else { draws.below(VOCABULARY) };
        }
    }
    Dataset::from_tokens(tokens, 10, Some(PADDING)).unwrap()
}

fn run(offsets: &[f32]) -> Outcome {
    let candidates: Vec<_> = offsets.iter().map(|offset| candidate(*offset)).collect();
    let names: Vec<_> = (0..candidates.len()).map(|i| format!("candidate {i}")).collect();
    let data = Arc::new(rows(400));
    let (fit, select) = split(data.len(), 0.25, 1).unwrap();
    let part = |indices| Part { dataset: Arc::clone(&data), indices };
    let data = AverageData { fit: vec![part(fit.clone())], select: part(select), test: None, batch_norm: part(fit) };
    let options = AverageOptions {
        method: Method::Twa(TwaOptions {
            learning_rate: Some(0.1),
            history_every: 10,
            ..TwaOptions::plain(Granularity::Model, 8, 10)
        }),
        batch_size: 32,
        augmentation: Augmentation::default(),
        loss: Loss::NextToken { label_smoothing: 0.0 },
        batch_norm: BatchNormOptions { policy: BatchNormPolicy::Recompute, augment: false, batches: None },
        baselines: Baselines::All,
        guard: true,
        materialise: Materialise::Exact,
        tensors: Vec::new(),
        dtype: None,
        seed: 5,
    };
    let averaging =
        Averaging::new(Arc::new(Bigram::new(VOCABULARY)), &candidates, &names, data, options, &mut Silent).unwrap();
    let projection = averaging.build_projection(&mut Silent).unwrap();
    averaging.run(projection.as_ref(), None, &mut Silent).unwrap()
}

#[test]
fn a_fit_on_tokens_finds_the_true_table_between_its_candidates() {
    let outcome = run(&[-1.0, 3.0, 2.0]);
    let loss = |method: &str| outcome.methods.iter().find(|m| m.method == method).unwrap().select.loss;
    assert_eq!(outcome.chosen, "twa");
    assert!(loss("twa") < loss("uniform") - 0.05 && loss("twa") < loss("best_single") - 0.05, "{:?}", outcome.methods);
    let twa = outcome.methods.last().unwrap();
    assert!(twa.select_difference_from_uniform[1] < 0.0 && twa.select.accuracy.unwrap() > 0.6, "{twa:?}");
    // On the line of the candidates the true table is at 0: the coefficients find it.
    let found: f64 = outcome.coefficients.iter().zip([-1.0, 3.0, 2.0]).map(|(a, offset)| a * offset).sum();
    assert!(found.abs() < 0.3, "{found}");
}

fn refusal(network: Arc<dyn Network>, dataset: Dataset, loss: Loss, augmentation: Augmentation) -> String {
    let options = DatasetLossOptions { batch_size: 2, augmentation, loss, seed: 0 };
    DatasetLoss::new(network, vec![Part::all(Arc::new(dataset))], options).err().expect("an error").to_string()
}

#[test]
fn data_of_another_kind_than_network_or_loss_is_refused() {
    let mlp =
        |outputs| -> Arc<dyn Network> { Arc::from(NetworkSpec::Mlp { features: vec![9, outputs] }.build().unwrap()) };
    let bigram = |size| -> Arc<dyn Network> { Arc::new(Bigram::new(size)) };
    let targets = |count| {
        let inputs = Inputs::F32(vec![0.0; 18]);
        Dataset::from_targets(inputs, &[2, 9], vec![0.0; 2 * count], count, Normalisation::default()).unwrap()
    };
    let (none, flip) = (Augmentation::default(), Augmentation { pad: 0, flip: true });
    let tokens = Loss::NextToken { label_smoothing: 0.0 };
    let is_refused = |message: String, told: &str| assert!(message.contains(told), "{message}");
    is_refused(refusal(mlp(3), rows(4), tokens, none), "the dataset has `tokens`, the network takes `inputs`");
    is_refused(
        refusal(bigram(9), targets(9), Loss::SquaredError, none),
        "the dataset has `inputs`, the network takes `tokens`",
    );
    is_refused(refusal(mlp(3), targets(2), Loss::SquaredError, none), "`targets` has 2 numbers a sample");
    is_refused(refusal(bigram(5), rows(4), tokens, none), "is none of a vocabulary of 5");
    is_refused(
        refusal(bigram(8), rows(4), Loss::SquaredError, none),
        "SquaredError is none of a dataset with `tokens`",
    );
    is_refused(refusal(mlp(2), targets(2), tokens, none), "is none of a dataset with `targets`, 2 a sample");
    is_refused(refusal(bigram(8), rows(4), Loss::NextToken { label_smoothing: 1.0 }, none), "label smoothing is 1");
    is_refused(refusal(mlp(2), targets(2), Loss::SquaredError, flip), "augmentation is for images");
}
