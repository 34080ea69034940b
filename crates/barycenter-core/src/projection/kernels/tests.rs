//! Every path against plain arithmetic on decoded levels, in f64.

use super::*;
use crate::projection::{quantise, unpack};

/// Numbers that look random and are the same on every machine.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    /// Roughly Gaussian: a sum of uniform numbers.
    fn number(&mut self) -> f32 {
        (0..6).map(|_| (self.bits() & 0xffff) as f32 / 65536.0 - 0.5).sum()
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// A projection of two tensors, one longer than a chunk, both with a short last tile.
fn projection(n: usize, bits: u8, random: &mut Random) -> Projection {
    projection_of([CHUNK + 300, 700], n, bits, random)
}

fn projection_of(sizes: [usize; 2], n: usize, bits: u8, random: &mut Random) -> Projection {
    let mut tensors = Vec::new();
    for (block, elements) in sizes.into_iter().enumerate() {
        let tiles = elements.div_ceil(GROUP);
        let mut tensor = Tensor {
            name: block.to_string(),
            block,
            bits,
            centre: random.numbers(elements),
            anchor: Vec::new(),
            scales: vec![0.0; if bits == 32 { 0 } else { tiles * n }],
            codes: vec![0; tiles * n * code_bytes(bits)],
        };
        for (group, codes) in tensor.codes.chunks_exact_mut(code_bytes(bits)).enumerate() {
            let left = elements - group / n * GROUP;
            let values = random.numbers(left.min(GROUP));
            if bits == 32 {
                for (code, value) in codes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *code = value.to_le_bytes();
                }
            } else {
                tensor.scales[group] = quantise(&values, bits, codes);
            }
        }
        tensors.push(tensor);
    }
    let norms = (1..=2 * n).map(|r| r as f64).collect();
    let kept = (1..=2 * n).map(|r| 1.0 / r as f64).collect();
    Projection { n, bits, block_count: 2, norms, kept, lengths: None, revisions: 0, tensors }
}

/// The stored deviation of a candidate in one tile, without its columns that are not there.
fn levels(projection: &Projection, tensor: &Tensor, tile: usize, i: usize) -> Vec<f64> {
    let (group, bytes) = (tile * projection.n + i, code_bytes(tensor.bits));
    let codes = &tensor.codes[group * bytes..(group + 1) * bytes];
    let values = if tensor.bits == 32 {
        codes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    } else {
        unpack(codes, tensor.bits, 1.0).to_vec()
    };
    let scale = tensor.scales.get(group).copied().unwrap_or(1.0);
    values.iter().map(|level| f64::from(*level) * f64::from(scale)).collect()
}

fn plain_project(projection: &Projection, gradient: &[Vec<f32>]) -> Vec<f64> {
    let mut sums = vec![0.0; projection.n * 2];
    for (tensor, gradient) in projection.tensors.iter().zip(gradient) {
        for (tile, columns) in gradient.chunks(GROUP).enumerate() {
            for i in 0..projection.n {
                let pairs = levels(projection, tensor, tile, i).into_iter().zip(columns);
                let product: f64 = pairs.map(|(level, g)| level * f64::from(*g)).sum();
                sums[i * 2 + tensor.block] += product * projection.direction_factor(i, tensor.block);
            }
        }
    }
    sums
}

fn plain_reconstruct(projection: &Projection, x: &[f64]) -> Vec<Vec<f64>> {
    let weights = |tensor: &Tensor| {
        let mut weights: Vec<f64> = tensor.centre.iter().map(|c| f64::from(*c)).collect();
        for (tile, weights) in weights.chunks_mut(GROUP).enumerate() {
            for i in 0..projection.n {
                let factor = x[i * 2 + tensor.block] * projection.direction_factor(i, tensor.block);
                for (w, level) in weights.iter_mut().zip(levels(projection, tensor, tile, i)) {
                    *w += factor * level;
                }
            }
        }
        weights
    };
    projection.tensors.iter().map(weights).collect()
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// The largest factor of a candidate times the largest stored deviation.
fn largest_part(projection: &Projection, x: &[f64]) -> f64 {
    let n = projection.n;
    let factor = |i: usize, l: usize| x[i * 2 + l] * projection.direction_factor(i, l);
    let factors = largest((0..n).flat_map(|i| (0..2).map(move |l| factor(i, l))));
    let tiles = |tensor: &Tensor| 0..tensor.centre.len().div_ceil(GROUP);
    let stored = projection.tensors.iter().flat_map(|tensor| {
        tiles(tensor).flat_map(move |tile| (0..n).flat_map(move |i| levels(projection, tensor, tile, i)))
    });
    factors * largest(stored)
}

/// The largest product of the lengths of a candidate's part and the gradient's: what an entry is at most.
fn longest(projection: &Projection, gradient: &[Vec<f32>]) -> f64 {
    let mut longest = 0f64;
    for (tensor, gradient) in projection.tensors.iter().zip(gradient) {
        let length: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
        for i in 0..projection.n {
            let tiles = 0..gradient.len().div_ceil(GROUP);
            let square: f64 =
                tiles.flat_map(|tile| levels(projection, tensor, tile, i)).map(|level| level * level).sum();
            longest = longest.max((square * length).sqrt() * projection.direction_factor(i, tensor.block));
        }
    }
    longest
}

/// Calls back for every number of bits and several numbers of candidates.
fn for_every_projection(check: impl Fn(&Projection, &mut Random)) {
    let mut random = Random(1);
    for bits in [1, 2, 4, 8, 32] {
        for n in [1, 2, 5, 16, 37] {
            check(&projection(n, bits, &mut random), &mut random);
        }
    }
}

fn gradient(projection: &Projection, random: &mut Random) -> Vec<Vec<f32>> {
    projection.tensors.iter().map(|tensor| random.numbers(tensor.centre.len())).collect()
}

#[test]
fn projecting_agrees_with_plain_arithmetic_and_is_the_same_on_every_processor() {
    for_every_projection(|projection, random| {
        let gradient = gradient(projection, random);
        let plain = plain_project(projection, &gradient);
        let portable = projection.project_on(Processor::Portable, &gradient, &projection.all_columns());
        let error = largest(portable.iter().zip(&plain).map(|(a, b)| a - b));
        let bits = projection.bits;
        // Below 32 bits the gradient is rounded to 16: by at most 2⁻¹⁶ of the largest of a tile, which is a few times the others.
        let bound = if bits == 32 { 1e-7 } else { 2e-5 };
        assert!(error <= bound * longest(projection, &gradient), "{bits} bits: {error}");
        for processor in Processor::available() {
            assert_eq!(
                projection.project_on(processor, &gradient, &projection.all_columns()),
                portable,
                "{processor:?}, {bits} bits"
            );
        }
    });
}

#[test]
fn reconstructing_agrees_with_plain_arithmetic_on_every_processor() {
    for_every_projection(|projection, random| {
        let x: Vec<f64> = (0..2 * projection.n).map(|_| f64::from(random.number())).collect();
        let plain = plain_reconstruct(projection, &x);
        let of = |processor| {
            let mut weights: Vec<Vec<f32>> = plain.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
            projection.reconstruct_on(processor, &x, &projection.all_columns(), &mut weights);
            weights
        };
        for processor in Processor::available() {
            let weights = of(processor);
            let pairs = weights.iter().flatten().zip(plain.iter().flatten());
            let error = largest(pairs.map(|(a, b)| f64::from(*a) - b));
            let (bits, n) = (projection.bits, projection.n);
            let scale = largest(plain.iter().flatten().copied());
            // Below 32 bits the factors are rounded to 16: by at most 2⁻¹⁶ of the largest of a block.
            let rounded = if bits == 32 { 0.0 } else { n as f64 * 2f64.powi(-16) * largest_part(projection, &x) };
            let bound = 2.5e-7 * scale + rounded;
            assert!(error <= bound, "{processor:?}, {bits} bits, {n}: {error} of {scale}, at most {bound}");
            assert_eq!(weights, of(Processor::Portable), "{processor:?}, {bits} bits");
        }
    });
}

#[test]
fn a_few_tiles_are_the_same_on_every_processor() {
    let mut random = Random(4);
    for bits in [1, 2, 4, 8] {
        let projection = projection_of([300, 256], 5, bits, &mut random);
        let gradient = gradient(&projection, &mut random);
        let x: Vec<f64> = (0..10).map(|_| f64::from(random.number())).collect();
        let both = |processor| {
            let mut weights: Vec<Vec<f32>> = gradient.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
            projection.reconstruct_on(processor, &x, &projection.all_columns(), &mut weights);
            (projection.project_on(processor, &gradient, &projection.all_columns()), weights)
        };
        let portable = both(Processor::Portable);
        for processor in Processor::available() {
            assert_eq!(both(processor), portable, "{processor:?}, {bits} bits");
        }
    }
}

#[test]
fn weights_written_past_the_caches_are_the_same() {
    let mut random = Random(2);
    for bits in [1, 2, 4, 8] {
        let projection = projection(3, bits, &mut random);
        let tensor = &projection.tensors[0];
        let (factors, packed) = ([0.5, -1.0, 0.25], projection.packed(tensor, 0, CHUNK));
        for start in 0..9 {
            let written = |stream| {
                let mut room = vec![0.0; CHUNK + 9];
                let (centre, weights) = (&tensor.centre[..CHUNK], &mut room[start..start + CHUNK]);
                let mut target = Target { factors: &factors, centre, weights, stream };
                reconstruct_chunk(Processor::detected(), &packed, &mut target);
                room
            };
            assert!(written(true) == written(false), "{bits} bits from {start}");
        }
    }
}

#[test]
fn a_gradient_of_the_smallest_and_largest_numbers_is_projected() {
    let projection = projection(2, 4, &mut Random(3));
    let of = |scale: f32| {
        let gradient: Vec<Vec<f32>> =
            projection.tensors.iter().map(|t| (0..t.centre.len()).map(|e| scale * (e % 7) as f32).collect()).collect();
        (projection.project(&gradient), plain_project(&projection, &gradient), longest(&projection, &gradient))
    };
    for scale in [1e-30, 1e-20, 1e20, 5e37] {
        let (found, plain, longest) = of(scale);
        assert!(largest(found.iter().zip(&plain).map(|(a, b)| a - b)) <= 2e-5 * longest, "{scale}");
    }
}
