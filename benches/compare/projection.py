"""The reference's side of `bench_projection`: both passes as one PyTorch expression over codes of one byte.

    python benches/compare/projection.py [threads] [candidates] [columns] [rounds]

Prints lines of JSON: {figure, seconds, peak_rss_bytes}. A tuned allocator is chosen from outside: run it once as it is
and once with LD_PRELOAD of jemalloc or tcmalloc, or with MALLOC_TOP_PAD_=8000000000 MALLOC_MMAP_THRESHOLD_=8000000000
MALLOC_TRIM_THRESHOLD_=8000000000, so that glibc keeps the temporaries' memory. Needs torch and, at the full size, 8 GB.
"""

import json
import resource
import sys
import time

import torch

threads, n, columns, rounds = [int(value) for value in sys.argv[1:]] + [2, 32, 25_000_000, 3][len(sys.argv) - 1 :]
torch.set_num_threads(threads)
codes = torch.empty(n, columns, dtype=torch.uint8)
for row in codes:
    row.random_(0, 16)
gradient, centre = torch.randn(columns), torch.randn(columns)
# One step and zero point for all, as the reference's quantiser has them.
scale, zero_point = 0.01, -0.075
x = torch.full((n, 1), 0.01)


def project():
    return (codes * (scale * gradient)).sum(1) + zero_point * gradient.sum()


def reconstruct():
    return centre + ((codes * scale + zero_point) * x).sum(0)


def best(work):
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


for work in (project, reconstruct):
    seconds = best(work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"figure": work.__name__, "seconds": seconds, "peak_rss_bytes": peak}), flush=True)
