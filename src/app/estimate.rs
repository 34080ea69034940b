//! Memory of a job on a worker, computed before it is queued.

use barycenter_api::MemoryEstimate;
use barycenter_core::average::{self, Sizes};

/// The core's estimate as the API shows it.
pub fn estimate(sizes: &Sizes<'_>) -> MemoryEstimate {
    let memory = average::MemoryEstimate::new(sizes);
    MemoryEstimate {
        projection_bytes: memory.projection_bytes,
        vector_bytes: memory.vector_bytes,
        activation_bytes: memory.activation_bytes,
        dataset_bytes: memory.dataset_bytes,
        process_bytes: memory.process_bytes,
        total_bytes: memory.total_bytes,
    }
}
