//! The codec of directions: symmetric mid-rise levels at 1, 2, 4 or 8 bits, one scale per 256 elements.
//!
//! A level is `(k + ½) · Δ` with `k = −2^(b−1) … 2^(b−1) − 1`, stored as the unsigned code `k + 2^(b−1)`.
//! A group takes 32·b bytes: bits `s·b …` of byte `j` are the code of element `s · 32·b + j`, so that one shift and one mask
//! decode a run of neighbouring elements.

/// Version of the codec and of the order of bytes; part of every cache key.
pub const CODEC_VERSION: u32 = 1;

/// Elements that share one scale; also the columns of a tile.
pub const GROUP: usize = 256;

/// What a group decodes to.
pub type Reconstruction = [f32; GROUP];

/// Groups whose step is below this are stored as zeros: near the end of the range of f32 its reciprocal overflows.
const SMALLEST_STEP: f64 = 1e-36;

/// Step of the best uniform quantiser of a Gaussian, in standard deviations.
fn gaussian_step(bits: u8) -> f64 {
    match bits {
        1 => 1.596,
        2 => 0.996,
        4 => 0.335,
        8 => 0.031,
        other => unreachable!("{other} bits are refused before anything is coded"),
    }
}

/// Quantises up to 256 deviations into `codes` (32 · `bits` bytes) and returns the scale Δ.
///
/// Δ starts at the Gaussian optimum for the group's root mean square and is refitted once by least squares. Where the
/// group's largest value lies outside that range, the range that just covers it is tried as well and the smaller
/// squared error wins: a heavy tail then costs resolution, not the tail itself.
/// A group of zeros (or of numbers below 1e-36) has Δ = 0. Elements that are not there (a short group) get the code 0 and count for nothing.
///
/// # Panics
/// Where `bits` is not 1, 2, 4 or 8, or the lengths do not fit.
pub fn quantise(deviations: &[f32], bits: u8, codes: &mut [u8]) -> f32 {
    assert!(deviations.len() <= GROUP && codes.len() == 32 * usize::from(bits), "a group is 256 elements");
    let mut padded = [0.0; GROUP];
    padded[..deviations.len()].copy_from_slice(deviations);
    codes.fill(0);
    let gaussian = gaussian_step(bits) * (dot(&padded, &padded) / deviations.len().max(1) as f64).sqrt();
    if gaussian < SMALLEST_STEP {
        return 0.0;
    }
    let half_levels = f64::from(1_u32 << (bits - 1));
    let largest = deviations.iter().fold(0f32, |m, d| m.max(d.abs()));
    let covering = f64::from(largest) / half_levels;
    let mut best = Attempt::new(&padded, deviations.len(), bits, gaussian);
    if bits > 1 && covering > gaussian {
        let other = Attempt::new(&padded, deviations.len(), bits, covering);
        if other.explained > best.explained {
            best = other;
        }
    }
    pack(&best.codes, bits, codes);
    best.scale as f32
}

/// Inner product of two groups, summed in f64 in an order that vectorises and never changes.
pub(super) fn dot(a: &Reconstruction, b: &Reconstruction) -> f64 {
    let mut lanes = [0f64; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for lane in 0..8 {
            lanes[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    lanes.iter().sum()
}

/// A group coded with one starting step.
struct Attempt {
    codes: [u8; GROUP],
    scale: f64,
    /// Squared length that the codes explain; the squared error is the group's squared length less this.
    explained: f64,
}

impl Attempt {
    /// Codes the first `len` deviations.
    fn new(deviations: &Reconstruction, len: usize, bits: u8, step: f64) -> Self {
        let half_levels = (1_u32 << (bits - 1)) as f32;
        let inverse = (1.0 / step) as f32;
        let (mut codes, mut levels) = ([0; GROUP], [0.0; GROUP]);
        for ((code, level), d) in codes.iter_mut().zip(&mut levels).zip(deviations) {
            // Truncation of a number that is not negative is its floor, and needs no call where `floor` would.
            *code = (d * inverse + half_levels).clamp(0.0, 2.0 * half_levels - 1.0) as u8;
            *level = f32::from(*code) + 0.5 - half_levels;
        }
        codes[len..].fill(0);
        levels[len..].fill(0.0);
        let (product, length) = (dot(&levels, deviations), dot(&levels, &levels));
        // Least squares: the Δ that minimises Σ (d − Δ·level)² for these codes.
        Self { codes, scale: product / length, explained: product * product / length }
    }
}

fn pack(codes: &[u8; GROUP], bits: u8, into: &mut [u8]) {
    let bytes = into.len();
    for (slot, run) in codes.chunks_exact(bytes).enumerate() {
        for (byte, code) in into.iter_mut().zip(run) {
            *byte |= code << (slot * usize::from(bits));
        }
    }
}

/// Decodes a group that [`quantise`] made.
///
/// # Panics
/// Where `bits` is not 1, 2, 4 or 8, or `codes` is not 32 · `bits` bytes long.
pub fn unpack(codes: &[u8], bits: u8, scale: f32) -> Reconstruction {
    let mut values = [0.0; GROUP];
    match bits {
        1 => super::kernels::decode::<1, 32>(codes, &mut values),
        2 => super::kernels::decode::<2, 64>(codes, &mut values),
        4 => super::kernels::decode::<4, 128>(codes, &mut values),
        8 => super::kernels::decode::<8, 256>(codes, &mut values),
        other => unreachable!("{other} bits are refused before anything is coded"),
    }
    values.map(|level| level * scale)
}
