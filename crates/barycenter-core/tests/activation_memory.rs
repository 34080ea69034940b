//! What a training step really holds, counted by the allocator, against what the networks say.

#![expect(clippy::unwrap_used, reason = "a network that cannot be built fails the test")]
#![expect(unsafe_code, reason = "counting allocations takes an allocator of one's own")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use barycenter_core::network::{Mode, NetworkSpec, Weights};
use barycenter_core::ops;
use candle_core::{Device, Tensor};

/// The system's allocator, counting bytes that are held and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: passed on from the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on from the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes held by forward and backward, besides the parameters and their gradients.
fn measured(spec: &NetworkSpec, sample: [usize; 3], batch: usize) -> usize {
    let network = spec.build().unwrap();
    let parameters = network.initial_parameters(1);
    let parameter_bytes = parameters.iter().map(|values| 4 * values.len()).sum::<usize>();
    let weights = Weights::trained(&*network, &parameters).unwrap();
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let [channels, height, width] = sample;
    let inputs = Tensor::rand(-1.0_f32, 1.0, (batch, height, width, channels), &Device::Cpu).unwrap();
    let logits = network.forward(&weights, &inputs, &mut Mode::Train).unwrap();
    let labels = (0..batch as u32).map(|sample| sample % 10).collect();
    let losses = ops::cross_entropy(weights.graph(), &logits, labels, 0.0).unwrap();
    let gradients = weights.gradients(&losses, vec![1.0 / batch as f32; batch]).unwrap();
    assert_eq!(gradients.iter().map(|values| 4 * values.len()).sum::<usize>(), parameter_bytes);
    MOST.load(Ordering::Relaxed) - before - parameter_bytes
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
