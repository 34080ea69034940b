//! Memory of a job, computed before it runs (`docs/method.md`, "Memory").

use crate::projection::Projection;

const BYTES_OF_F32: u64 = 4;

/// Vectors of all averaged elements that each rank holds in a step: the weights, their copy in the graph, the gradient. All ranks
/// share the centre.
const VECTORS_OF_RANK: u64 = 3;

/// What a process holds whatever the job: threads, tables, and pages of freed buffers that its allocator keeps. Measured on
/// five shapes of job (`make bench ONLY=memory`), where it lay between 95 and 167 MB.
const PROCESS_BYTES: u64 = 128 << 20;

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
    /// Whether the projection extends another: it holds its anchor too.
    pub extends: bool,
    /// Ranks that share the fit in one process.
    pub ranks: usize,
    /// Activations of one rank's part of a batch, as [`crate::network::Network::activation_bytes`] says.
    pub activation_bytes: u64,
    /// Bytes of all datasets: their files are mapped, not copied.
    pub dataset_bytes: u64,
}

/// Bytes by what holds them; candidates are mapped files, of which the system keeps what there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Codes, scales, norms and kept parts.
    pub projection_bytes: u64,
    /// Vectors of all averaged elements.
    pub vector_bytes: u64,
    /// Activations of one batch, over all ranks.
    pub activation_bytes: u64,
    /// The mapped datasets.
    pub dataset_bytes: u64,
    /// The process itself and its allocator.
    pub process_bytes: u64,
    /// The sum.
    pub total_bytes: u64,
}

impl MemoryEstimate {
    /// The estimate for these sizes. [`Projection::memory_bytes`] counts the centre; here it is one of the vectors.
    pub fn new(sizes: &Sizes<'_>) -> Self {
        let Sizes { candidates, tensors, blocks, bits, extends, ranks, activation_bytes, dataset_bytes } = *sizes;
        let vector = tensors.iter().map(|elements| *elements as u64).sum::<u64>() * BYTES_OF_F32;
        let norm_bytes = (candidates * blocks) as u64 * if extends { 24 } else { 16 };
        let projection_bytes = Projection::memory_bytes(candidates, tensors, bits) - vector + norm_bytes;
        let vector_bytes = (1 + u64::from(extends) + VECTORS_OF_RANK * ranks as u64) * vector;
        let activation_bytes = ranks as u64 * activation_bytes;
        let process_bytes = PROCESS_BYTES;
        let total_bytes = projection_bytes + vector_bytes + activation_bytes + dataset_bytes + process_bytes;
        Self { projection_bytes, vector_bytes, activation_bytes, dataset_bytes, process_bytes, total_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_sum_of_its_parts() {
        let sizes = Sizes {
            candidates: 10,
            tensors: &[5120, 100],
            blocks: 1,
            bits: 4,
            extends: false,
            ranks: 1,
            activation_bytes: 1000,
            dataset_bytes: 308_000,
        };
        let memory = MemoryEstimate::new(&sizes);
        // 20 tiles of 256 elements at 4 bits, one of a small tensor at 8, a scale for each; two f64 numbers a candidate.
        assert_eq!(memory.projection_bytes, 10 * (20 * (128 + 4) + (256 + 4)) + 10 * 16);
        assert_eq!(memory.vector_bytes, 4 * 4 * 5220);
        assert_eq!(memory.dataset_bytes, 308_000);
        let shared = MemoryEstimate::new(&Sizes { ranks: 3, activation_bytes: 400, ..sizes });
        assert_eq!(shared.vector_bytes, (1 + 3 * 3) * 4 * 5220);
        assert_eq!(shared.activation_bytes, 1200);
        let extended = MemoryEstimate::new(&Sizes { extends: true, ..sizes });
        assert_eq!(extended.vector_bytes, 5 * 4 * 5220);
        assert_eq!(extended.projection_bytes, memory.projection_bytes + 10 * 8);
        let parts = memory.projection_bytes + memory.vector_bytes + memory.activation_bytes + memory.dataset_bytes;
        assert_eq!(memory.total_bytes, parts + 128 * 1024 * 1024);
    }
}
