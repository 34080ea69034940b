//! What a training step of a convolutional network really holds, counted by the allocator, against what the network says.

#![expect(clippy::unwrap_used, reason = "a network that cannot be built fails the test")]

use barycenter_core::network::{Mode, NetworkSpec, Weights};
use barycenter_core::ops;
use candle_core::{Device, Tensor};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Most bytes held by forward and backward, besides the parameters and their gradients.
fn measured(spec: &NetworkSpec, sample: [usize; 3], batch: usize) -> usize {
    let network = spec.build().unwrap();
    let parameters = network.initial_parameters(1);
    let parameter_bytes = parameters.iter().map(|values| 4 * values.len()).sum::<usize>();
    let weights = Weights::trained(&*network, &parameters).unwrap();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let [channels, height, width] = sample;
    let inputs = Tensor::rand(-1.0_f32, 1.0, (batch, height, width, channels), &Device::Cpu).unwrap();
    let logits = network.forward(&weights, &inputs, &mut Mode::Train).unwrap();
    let labels = (0..batch as u32).map(|sample| sample % 10).collect();
    let losses = ops::cross_entropy(weights.graph(), &logits, labels, 0.0).unwrap();
    let gradients = weights.gradients(&losses, vec![1.0 / batch as f32; batch]).unwrap();
    assert_eq!(gradients.iter().map(|values| 4 * values.len()).sum::<usize>(), parameter_bytes);
    ALLOCATOR.peak_usage() - before - parameter_bytes
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn activations_take_what_the_networks_say() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let classes = 10;
    for (spec, size) in [
        (NetworkSpec::ResnetCifar { depth: 20, classes }, 32),
        (NetworkSpec::Resnet { depth: 18, classes }, 96),
        (NetworkSpec::Resnet { depth: 50, classes }, 64),
        (NetworkSpec::VggBn { depth: 11, classes }, 32),
        (NetworkSpec::PreresnetCifar { depth: 20, classes }, 32),
        (NetworkSpec::PreresnetCifar { depth: 56, classes }, 32),
        (NetworkSpec::WideResnet { depth: 10, width: 2, classes }, 32),
    ] {
        let (sample, batch) = ([3, size, size], 24);
        let said = spec.build().unwrap().activation_bytes(&sample, batch);
        let took = pool.install(|| measured(&spec, sample, batch));
        // With a small batch the gradients alone may be most of it: the whole is what a worker must have.
        let parameter_bytes: usize = spec.build().unwrap().parameters().iter().map(|spec| 4 * spec.len()).sum();
        let ratio = (said + parameter_bytes) as f64 / (took + parameter_bytes) as f64;
        println!("{spec:?}: said {said}, took {took}, ratio {ratio:.3}");
        assert!((0.9..1.1).contains(&ratio), "{spec:?}: said {said}, took {took}, and {parameter_bytes} of gradients");
    }
}
