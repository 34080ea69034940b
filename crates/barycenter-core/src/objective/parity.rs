//! Losses and gradients against `PyTorch` in float64 (`tests/fixtures/README.md` says how they were made).

use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;

use super::*;
use crate::data::{Augmentation, Dataset, Inputs, Normalisation, Part};
use crate::network::bigram::Bigram;
use crate::network::{Network, NetworkSpec, Statistics};

const VOCABULARY: usize = 11;

/// The tensors of one part of the fixture.
struct Fixture {
    file: Vec<u8>,
    part: &'static str,
}

impl Fixture {
    fn read(part: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objective.safetensors");
        Self { file: std::fs::read(path).unwrap(), part }
    }

    fn words<const N: usize, T>(&self, name: &str, word: impl Fn([u8; N]) -> T) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.file).unwrap();
        let tensor = file.tensor(&format!("{}.{name}", self.part)).unwrap();
        assert_eq!(tensor.dtype().bitsize(), 8 * N, "{name}");
        tensor.data().as_chunks().0.iter().map(|bytes| word(*bytes)).collect()
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        self.words(name, f32::from_le_bytes)
    }

    fn f64s(&self, name: &str) -> Vec<f64> {
        self.words(name, f64::from_le_bytes)
    }

    fn parameters(&self, network: &dyn Network) -> Vec<Vec<f32>> {
        network.parameters().iter().map(|spec| self.f32s(&format!("weight.{}", spec.name))).collect()
    }

    /// Loss and gradients of one batch with all samples.
    fn check_step(&self, network: Arc<dyn Network>, dataset: Arc<Dataset>, loss: Loss, expected: &str) {
        let (parameters, names) = (self.parameters(&*network), network.parameters().into_iter().cloned());
        let names: Vec<_> = names.collect();
        let (count, augmentation) = (dataset.len(), Augmentation::default());
        let options = DatasetLossOptions { batch_size: count, augmentation, loss, seed: 0 };
        let mut objective = DatasetLoss::new(network, vec![Part::all(dataset)], options).unwrap();
        let BatchLoss { loss, gradient: gradients, .. } = objective.loss_and_gradient(&parameters, 0).unwrap();
        assert_near(expected, &[loss], &self.f64s(expected));
        for (spec, gradient) in names.iter().zip(gradients) {
            let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
            assert_near(&spec.name, &gradient, &self.f64s(&format!("gradient.{}", spec.name)));
        }
    }

    /// Results in batches of 2, against figures over the whole set.
    fn check_results(&self, network: &dyn Network, dataset: &Dataset) -> SampleResults {
        let indices: Vec<usize> = (0..dataset.len()).collect();
        let (parameters, statistics) = (self.parameters(network), Statistics::default());
        let results = evaluate(network, &parameters, &statistics, dataset, &indices, 2, &|| false).unwrap();
        assert_near("loss", &[results.mean_loss()], &self.f64s("loss"));
        let losses: Vec<f64> = results.losses.iter().map(|loss| f64::from(*loss)).collect();
        assert_near("by_sample", &losses, &self.f64s("by_sample"));
        results
    }
}

fn assert_near(what: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let worst = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-6 * scale, "{what}: off by {worst:e}, values reach {scale:e}");
}

#[test]
fn squared_error_agrees_with_pytorch() {
    let fixture = Fixture::read("squared_error");
    let network: Arc<dyn Network> = Arc::from(NetworkSpec::Mlp { features: vec![6, 8, 3] }.build().unwrap());
    let (inputs, targets) = (Inputs::F32(fixture.f32s("inputs")), fixture.f32s("targets"));
    let dataset = Dataset::from_targets(inputs, &[7, 6], targets, 3, Normalisation::default());
    let dataset = Arc::new(dataset.unwrap());
    let results = fixture.check_results(&*network, &dataset);
    assert_eq!((results.accuracy(), results.weights), (None, vec![1; 7]));
    fixture.check_step(network, dataset, Loss::SquaredError, "loss");
}

#[test]
fn next_token_losses_agree_with_pytorch_with_padding_and_without() {
    for (part, padding, weights) in [("next_token", None, [5, 5, 5, 5, 5, 5]), ("padded", Some(0), [5, 1, 3, 5, 2, 4])]
    {
        let fixture = Fixture::read(part);
        let network: Arc<dyn Network> = Arc::new(Bigram::new(VOCABULARY));
        let tokens = fixture.words("tokens", |bytes| i64::from_le_bytes(bytes) as u32);
        let dataset = Arc::new(Dataset::from_tokens(tokens, 6, padding).unwrap());
        let results = fixture.check_results(&*network, &dataset);
        assert_eq!(results.weights, weights);
        assert_near("accuracy", &[results.accuracy().unwrap()], &fixture.f64s("accuracy"));
        fixture.check_step(network, dataset, Loss::NextToken { label_smoothing: 0.1 }, "smoothed");
    }
}
