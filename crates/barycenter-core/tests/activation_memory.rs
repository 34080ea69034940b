//! The networks' estimates of a step's memory against what a step holds at most.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use barycenter_core::network::{ClipImageSizes, Gpt2Sizes, Mode, NetworkSpec, VitSizes, Weights};
use barycenter_core::ops;
use candle_core::{Device, Tensor};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

struct Case {
    name: &'static str,
    spec: NetworkSpec,
    sample: &'static [usize],
    batch: usize,
}

fn cases() -> [Case; 5] {
    let vit = VitSizes { image_size: 32, patch_size: 4, width: 64, depth: 4, heads: 4, mlp_width: 256, classes: 10 };
    let clip =
        ClipImageSizes { image_size: 64, patch_size: 8, width: 64, depth: 3, heads: 2, embedding: 32, classes: 10 };
    let long = Gpt2Sizes { vocabulary: 500, positions: 128, width: 64, depth: 4, heads: 4 };
    let wide = Gpt2Sizes { vocabulary: 6000, positions: 64, width: 32, depth: 2, heads: 4 };
    [
        Case { name: "mlp", spec: NetworkSpec::Mlp { features: vec![64, 128, 128, 10] }, sample: &[64], batch: 20_000 },
        Case { name: "vit", spec: NetworkSpec::Vit(vit), sample: &[3, 32, 32], batch: 64 },
        Case { name: "clip_image", spec: NetworkSpec::ClipImage(clip), sample: &[3, 64, 64], batch: 64 },
        Case { name: "gpt2", spec: NetworkSpec::Gpt2(long), sample: &[100], batch: 40 },
        Case { name: "gpt2 with many tokens", spec: NetworkSpec::Gpt2(wide), sample: &[64], batch: 64 },
    ]
}

/// Inputs as the network takes them.
fn inputs(sample: &[usize], batch: usize, spec: &NetworkSpec) -> Tensor {
    let count = batch * sample.iter().product::<usize>();
    let shape = match sample {
        [channels, height, width] => vec![batch, *height, *width, *channels],
        _ => vec![batch, sample[0]],
    };
    if matches!(spec, NetworkSpec::Gpt2(_)) {
        return Tensor::from_vec((0..count as u32).map(|i| i % 500).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap();
    }
    Tensor::from_vec((0..count).map(|i| (i as f32 * 0.618).fract()).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// Most bytes that a step held besides weights and their gradients, as far as the gradients were there at that time.
fn held_at_most(case: &Case) -> usize {
    let network = case.spec.build().unwrap();
    let weights = Weights::trained(&*network, &network.initial_parameters(0)).unwrap();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let inputs = inputs(case.sample, case.batch, &case.spec);
    let logits = network.forward(&weights, &inputs, &mut Mode::Train).unwrap();
    let labels = vec![0; logits.dim(0).unwrap()];
    let losses = ops::cross_entropy(weights.graph(), &logits, labels.into(), 0.0).unwrap();
    drop(logits);
    weights.gradients(&losses, vec![1.0; losses.elem_count()]).unwrap();
    ALLOCATOR.peak_usage() - before
}

/// One test, since the allocator counts for the whole process.
#[test]
fn estimates_of_memory_are_within_a_tenth_of_what_a_step_holds() {
    for case in cases() {
        let estimate = case.spec.build().unwrap().activation_bytes(case.sample, case.batch);
        let held = held_at_most(&case);
        let ratio = estimate as f64 / held as f64;
        println!("{}: estimated {estimate}, held {held}, ratio {ratio:.3}", case.name);
        assert!((0.9..1.1).contains(&ratio), "{}: estimated {estimate}, held {held}", case.name);
    }
}
