//! Memory of a job on a worker, computed before it is queued.

use barycenter_api::MemoryEstimate;
use barycenter_core::average::{self, Sizes};

/// The core's estimate as the API shows it.
pub fn estimate(sizes: &Sizes<'_>) -> MemoryEstimate {
    let average::MemoryEstimate { projection_bytes, vector_bytes, activation_bytes, dataset_bytes, total_bytes } =
        average::MemoryEstimate::new(sizes);
    MemoryEstimate { projection_bytes, vector_bytes, activation_bytes, dataset_bytes, total_bytes }
}
