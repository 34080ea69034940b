//! The fit beside a float64 reference program (`tests/fixtures/make_fit_fixture.py`).

use barycenter_core::{
    Result,
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype},
    fit::{Fit, FitOptions, Optimiser},
    objective::{BatchLoss, Objective},
    projection::Projection,
};

use crate::sample::file;

const FEATURES: usize = 12;
const HIDDEN: usize = 16;
const CLASSES: usize = 5;
const CANDIDATES: usize = 6;
const BATCHES: usize = 4;
const BATCH: usize = 16;
const STEPS: usize = 50;
const TENSORS: [(&str, usize, &[usize]); 4] = [
    ("0.weight", HIDDEN * FEATURES, &[HIDDEN, FEATURES]),
    ("0.bias", HIDDEN, &[HIDDEN]),
    ("2.weight", CLASSES * HIDDEN, &[CLASSES, HIDDEN]),
    ("2.bias", CLASSES, &[CLASSES]),
];

fn fixture(name: &str) -> CheckpointFile {
    CheckpointFile::open(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn read_f64(file: &CheckpointFile, name: &str) -> Vec<f64> {
    let mut values = vec![0.0; file.tensor(name).unwrap().elements()];
    file.fill_f64(name, 0, &mut values).unwrap();
    values
}

/// Cross-entropy of Linear, ReLU, Linear on fixed batches, written out in f64.
struct Mlp {
    inputs: Vec<f64>,
    labels: Vec<usize>,
}

impl Objective for Mlp {
    fn steps_per_epoch(&self) -> u64 {
        BATCHES as u64
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<BatchLoss> {
        let w: Vec<Vec<f64>> = weights.iter().map(|w| w.iter().map(|v| f64::from(*v)).collect()).collect();
        let mut gradient: Vec<Vec<f64>> = w.iter().map(|w| vec![0.0; w.len()]).collect();
        let batch = step as usize % BATCHES;
        let loss: f64 = (batch * BATCH..(batch + 1) * BATCH)
            .map(|sample| {
                let input = &self.inputs[sample * FEATURES..(sample + 1) * FEATURES];
                add_sample(&w, input, self.labels[sample], &mut gradient)
            })
            .sum();
        let gradient = gradient.iter().map(|g| g.iter().map(|v| (v / BATCH as f64) as f32).collect()).collect();
        Ok(BatchLoss { loss: loss / BATCH as f64, rows: BATCH as f64, gradient })
    }
}

fn add_sample(w: &[Vec<f64>], input: &[f64], label: usize, gradient: &mut [Vec<f64>]) -> f64 {
    let linear = |weight: &[f64], bias: &[f64], x: &[f64]| -> Vec<f64> {
        let rows = weight.chunks_exact(x.len()).zip(bias);
        rows.map(|(row, b)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b).collect()
    };
    let before = linear(&w[0], &w[1], input);
    let hidden: Vec<f64> = before.iter().map(|v| v.max(0.0)).collect();
    let logits = linear(&w[2], &w[3], &hidden);
    let log_sum = logits.iter().map(|v| v.exp()).sum::<f64>().ln();
    let mut d_hidden = [0.0; HIDDEN];
    for (class, logit) in logits.iter().enumerate() {
        let d = (logit - log_sum).exp() - f64::from(u8::from(class == label));
        gradient[3][class] += d;
        for h in 0..HIDDEN {
            gradient[2][class * HIDDEN + h] += d * hidden[h];
            d_hidden[h] += d * w[2][class * HIDDEN + h];
        }
    }
    for h in (0..HIDDEN).filter(|h| before[*h] > 0.0) {
        gradient[1][h] += d_hidden[h];
        for (f, x) in input.iter().enumerate() {
            gradient[0][h * FEATURES + f] += d_hidden[h] * x;
        }
    }
    log_sum - logits[label]
}

fn candidates(reference: &CheckpointFile) -> Vec<CheckpointFile> {
    let tensor = |i: usize, (name, _, shape): (&'static str, usize, &[usize])| {
        (name, Dtype::F32, shape.to_vec(), read_f64(reference, &format!("candidate.{i}.{name}")))
    };
    (0..CANDIDATES).map(|i| file(&TENSORS.map(|spec| tensor(i, spec)))).collect()
}

#[test]
fn an_unquantised_fit_follows_the_float64_reference_step_by_step() {
    let reference = fixture("fit.safetensors");
    let sizes = TENSORS.map(|(name, size, _)| (name.to_owned(), size));
    let averaged: Vec<String> = sizes.iter().map(|(name, _)| name.clone()).collect();
    let blocks = Blocks::new(&sizes, Granularity::Layer);
    let projection = Projection::build(&candidates(&reference), &averaged, &blocks, 32, &mut |_, _| Ok(())).unwrap();
    let labels = reference.bytes("labels").unwrap().as_chunks::<8>().0;
    let mut objective = Mlp {
        inputs: read_f64(&reference, "inputs"),
        labels: labels.iter().map(|label| i64::from_le_bytes(*label) as usize).collect(),
    };
    let options = FitOptions {
        optimiser: Optimiser::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.01 },
        learning_rate: Some(0.05),
        ..FitOptions::plain(STEPS as u64, 0)
    };
    let (losses, xs) = (read_f64(&reference, "loss"), read_f64(&reference, "x"));
    let mut fit = Fit::new(&projection, options, None).unwrap();
    for (step, (loss, x)) in losses.iter().zip(xs.chunks_exact(CANDIDATES * 2)).enumerate() {
        let report = fit.step(&mut objective).unwrap();
        let (found, length) = (&fit.state().theta, x.iter().map(|v| v * v).sum::<f64>().sqrt());
        let distance = found.iter().zip(x).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!((report.loss - loss).abs() < 1e-6 * loss, "step {step}: loss {} {loss}", report.loss);
        assert!(distance < 1e-4 * length, "step {step}: X is off by {:e}", distance / length);
        for (a, b) in found.iter().zip(x) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1e-2 * length), "step {step}: {a} {b}");
        }
    }
    let pass = |losses: &[f64]| losses.iter().sum::<f64>();
    assert!(pass(&losses[STEPS - BATCHES..]) < 0.9 * pass(&losses[..BATCHES]), "the reference learns something");
}
