//! Candidate sets that tests make themselves.

use std::collections::BTreeMap;

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    projection::Projection,
};

/// Numbers that look random and are the same on every machine (`SplitMix64`).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn gaussian(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn gaussians(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.gaussian() as f32).collect()
    }
}

/// A tensor of a test: name, type, shape, values.
pub type Sample<'a> = (&'a str, Dtype, Vec<usize>, Vec<f64>);

/// The bytes of a file with these tensors.
pub fn file_bytes(tensors: &[Sample<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
    let specs = tensors.iter().map(|(name, dtype, shape, _)| TensorSpec {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: shape.clone(),
    });
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, specs.collect(), &metadata).unwrap();
    for (name, dtype, _, values) in tensors {
        writer.write(name, &encode(*dtype, values)).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

pub fn file(tensors: &[Sample<'_>]) -> CheckpointFile {
    CheckpointFile::from_bytes(file_bytes(tensors, &[])).unwrap()
}

fn encode(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    let bytes = |v: &f64| match dtype {
        Dtype::F64 => v.to_le_bytes().to_vec(),
        Dtype::F32 => (*v as f32).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f32(*v as f32).to_le_bytes().to_vec(),
        Dtype::Bf16 => half::bf16::from_f32(*v as f32).to_le_bytes().to_vec(),
        // 1 for every number: tests only ask whether 8-bit floats are finite here.
        Dtype::F8E4M3 => vec![if v.is_finite() { 0x38 } else { 0xff }],
        Dtype::F8E5M2 => vec![if v.is_finite() { 0x3c } else { 0xfc }],
        Dtype::I64 => (*v as i64).to_le_bytes().to_vec(),
        Dtype::U8 | Dtype::Bool => vec![*v as u8],
        other => panic!("{other} is not written by tests"),
    };
    values.iter().flat_map(bytes).collect()
}

/// Names and sizes of the tensors of [`candidates`]; one is shorter than a group, one longer than a chunk.
pub const TENSORS: [(&str, usize); 4] =
    [("conv.weight", 20_000), ("conv.bias", 7), ("head.weight", 1_000), ("head.bias", 256)];

pub fn averaged() -> Vec<String> {
    TENSORS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

pub fn blocks(granularity: Granularity) -> Blocks {
    Blocks::new(&TENSORS.map(|(name, size)| (name.to_owned(), size)), granularity)
}

/// Values of `n` candidates: a common part and an own one.
pub fn values(n: usize, seed: u64) -> Vec<Vec<Vec<f64>>> {
    let mut random = Random(seed);
    let common: Vec<Vec<f64>> = TENSORS.map(|(_, size)| (0..size).map(|_| random.gaussian()).collect()).to_vec();
    let own = |random: &mut Random, base: &f64| f64::from((base + 0.1 * random.gaussian()) as f32);
    (0..n).map(|_| common.iter().map(|c| c.iter().map(|base| own(&mut random, base)).collect()).collect()).collect()
}

pub fn candidates_of(values: &[Vec<Vec<f64>>], dtype: Dtype) -> Vec<CheckpointFile> {
    let tensors = |candidate: &Vec<Vec<f64>>| {
        let parts = TENSORS.iter().zip(candidate);
        file(&parts.map(|((name, size), v)| (*name, dtype, vec![*size], v.clone())).collect::<Vec<_>>())
    };
    values.iter().map(tensors).collect()
}

pub fn candidates(n: usize, seed: u64) -> Vec<CheckpointFile> {
    candidates_of(&values(n, seed), Dtype::F32)
}

pub fn build(candidates: &[CheckpointFile], granularity: Granularity, bits: u8) -> Projection {
    Projection::build(candidates, &averaged(), &blocks(granularity), bits, &mut |_, _| Ok(())).unwrap()
}

/// A vector with the shape of the averaged tensors.
pub fn gradient(random: &mut Random) -> Vec<Vec<f32>> {
    TENSORS.iter().map(|(_, size)| random.gaussians(*size)).collect()
}

/// Zeros with the shape of the averaged tensors.
pub fn zeros() -> Vec<Vec<f32>> {
    TENSORS.iter().map(|(_, size)| vec![0.0; *size]).collect()
}

/// Weights of `x`.
pub fn reconstruct(projection: &Projection, x: &[f64]) -> Vec<Vec<f32>> {
    let mut weights = zeros();
    projection.reconstruct(x, &mut weights);
    weights
}

/// Some `X` of the projection's shape.
pub fn some_x(projection: &Projection, seed: u64) -> Vec<f64> {
    let mut random = Random(seed);
    (0..projection.n() * projection.block_count()).map(|_| random.gaussian()).collect()
}

pub fn dot(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
