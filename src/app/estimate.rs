//! Memory of a job on a worker, computed before it is queued.

use barycenter_api::MemoryEstimate;
use barycenter_core::projection::Projection;

const BYTES_OF_F32: u64 = 4;

/// What a job's memory depends on.
#[derive(Clone, Copy, Debug)]
pub struct Sizes<'a> {
    /// n.
    pub candidates: usize,
    /// Elements of each averaged tensor.
    pub tensors: &'a [usize],
    /// L.
    pub blocks: usize,
    /// Bits of a stored direction.
    pub bits: u8,
    /// Activations of one batch, as the network says.
    pub activation_bytes: u64,
    /// Bytes of all datasets: their files are mapped, not copied.
    pub dataset_bytes: u64,
}

/// The estimate. The core counts the centre with the projection; here it is one of the three vectors.
pub fn estimate(sizes: Sizes<'_>) -> MemoryEstimate {
    let elements: u64 = sizes.tensors.iter().map(|elements| *elements as u64).sum();
    let centre_bytes = elements * BYTES_OF_F32;
    let norm_bytes = (sizes.candidates * sizes.blocks) as u64 * 8;
    let projection_bytes =
        Projection::memory_bytes(sizes.candidates, sizes.tensors, sizes.bits) - centre_bytes + norm_bytes;
    let vector_bytes = 3 * centre_bytes;
    MemoryEstimate {
        projection_bytes,
        vector_bytes,
        activation_bytes: sizes.activation_bytes,
        dataset_bytes: sizes.dataset_bytes,
        total_bytes: projection_bytes + vector_bytes + sizes.activation_bytes + sizes.dataset_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_sum_of_its_parts() {
        let sizes = Sizes {
            candidates: 10,
            tensors: &[2560, 100],
            blocks: 1,
            bits: 4,
            activation_bytes: 1000,
            dataset_bytes: 308_000,
        };
        let memory = estimate(sizes);
        // 11 tiles of 256 elements: 128 bytes of codes and one f32 scale a candidate; one f64 norm a candidate.
        assert_eq!(memory.projection_bytes, 11 * 10 * (128 + 4) + 10 * 8);
        assert_eq!(memory.vector_bytes, 3 * 4 * 2660);
        assert_eq!(memory.dataset_bytes, 308_000);
        let parts = memory.projection_bytes + memory.vector_bytes + memory.activation_bytes + memory.dataset_bytes;
        assert_eq!(memory.total_bytes, parts);
    }
}
