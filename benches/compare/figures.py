"""What is measured, against what, and which ratio is asked for. Every function gives rows of the table."""

import os

# glibc keeps what a program frees instead of giving gigabytes back and asking for them again.
TUNED_ALLOCATOR = {
    "MALLOC_TOP_PAD_": "8000000000",
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}


def row(figure, ours, against, ratio, target, holds):
    return {"figure": figure, "ours": ours, "against": against, "ratio": ratio, "target": target, "holds": holds}


def failed(group, why):
    return row(f"{group}: {why}", None, None, None, None, False)


def at_most(figure, ours, against, limit):
    """Ours over the peer's: time or memory, where less is better."""
    ratio = ours / against
    return row(figure, ours, against, ratio, f"<= {limit}", ratio <= limit)


def at_least(figure, ours, against, limit):
    """Ours over what the machine can do: speed, where more is better."""
    ratio = ours / against
    return row(figure, ours, against, ratio, f">= {limit}", ratio >= limit)


def times_faster(figure, ours, against, limit):
    """The peer's time over ours, both in seconds."""
    ratio = against / ours
    return row(figure, ours, against, ratio, f">= {limit} x", ratio >= limit)


BANDWIDTH = {
    "project, 4 bits": 0.75,
    "reconstruct, 4 bits": 0.85,
    "project, 8 bits": 0.6,
    "reconstruct, 8 bits": 0.6,
    "project, 2 bits": 0.6,
    "reconstruct, 2 bits": 0.6,
    "project, 1 bits": 0.6,
    "reconstruct, 1 bits": 0.6,
}


def projection(machine, _data):
    """Both passes at n = 32, D = 25M against the read bandwidth of the same moment, and against the reference's expression."""
    lines = {line["figure"]: line for line in machine.lines(machine.ours("bench_projection", 2, 32, 25_000_000, 15, machine.folder))}
    rows = [
        at_least(
            f"{figure}, n=32, D=25M, bytes/s of read bandwidth",
            lines[figure]["bytes"] / lines[figure]["seconds"],
            lines[figure]["bandwidth"],
            limit,
        )
        for figure, limit in BANDWIDTH.items()
    ]
    for tuning, environment, limit in (("", None, 100), (", tuned allocator", TUNED_ALLOCATOR, 20)):
        peers = machine.lines(machine.peer("projection.py", 2), environment)
        for peer in peers:
            ours = lines[f"{peer['figure']}, 4 bits"]
            figure = f"{peer['figure']}, 4 bits, against PyTorch{tuning}"
            rows.append(times_faster(f"{figure}, s", ours["seconds"], peer["seconds"], limit))
        peak = peers[-1]["peak_rss_bytes"]
        figure = f"both passes, 4 bits, against PyTorch{tuning}, peak bytes"
        rows.append(at_most(figure, lines["reconstruct, 4 bits"]["peak_rss_bytes"], peak, 0.15))
    return rows


# Network, batch, steps a round, most time over PyTorch's.
STEPS = [
    ("mlp", 128, 200, 0.7),
    ("vit_tiny", 64, 6, 0.7),
    ("resnet20", 128, 6, 1.0),
    ("resnet18", 64, 4, 1.1),
    ("gpt2_tiny", 8, 6, 0.8),
]


def steps(machine, _data):
    """Forward and backward pass of a batch; images of both sides lie in channels-last order."""
    for network, batch, count, limit in STEPS:
        for threads in (1, 2):
            ours, peer = machine.side_by_side(
                machine.ours("bench_step", network, batch, threads, count),
                machine.peer("networks.py", network, batch, threads, count),
                key="best_ms",
            )
            figure = f"{network}, batch {batch}, forward + backward, {threads} threads"
            yield at_most(f"{figure}, ms", ours["best_ms"], peer["best_ms"], limit)
            yield at_most(f"{figure}, peak bytes", ours["peak_rss_bytes"], peer["peak_rss_bytes"], 0.8)


def fit(machine, data):
    """A whole TWA-v fit on the real checkpoints; without them there is nothing to measure."""
    if not data.is_dir():
        return [failed("fit", "the real checkpoints are not there")]
    rows = []
    for bits in (4, 32):
        ours, peer = machine.side_by_side(
            machine.ours("bench_fit", data, bits, 5, 1),
            machine.peer("fit.py", data, "--bits", bits),
            key="cpu_seconds",
            rounds=1,
        )
        figure = f"TWA-v fit, 16 candidates, 200 steps, {bits} bits, CPU s at 1 thread"
        rows.append(at_most(figure, ours["cpu_seconds"], peer["cpu_seconds"], 0.8))
    rows.append(at_most("TWA-v fit, peak bytes", ours["peak_rss_bytes"], peer["peak_rss_bytes"], 0.8))
    return rows


def by_figure(lines):
    return {line["figure"]: line for line in lines}


def merge(machine, _data):
    """Six files of a gigabyte, warm and cold, against reading and writing, a plain torch loop and mergekit."""
    ours = by_figure(machine.lines(machine.ours("bench_merge", machine.folder, 2, 6, 1000, 5)))
    floor = ours["read files once"]["seconds"] + ours["write one file"]["seconds"]
    seconds = ours["merge"]["seconds"]
    rows = [
        at_least("merge of 6 x 1 GB, warm, 2 threads, bytes/s of read once + write", 1 / seconds, 1 / floor, 0.7),
        at_most("merge, peak bytes without mapped pages, of 200 MB", ours["merge"]["held_bytes"], 200e6, 1.0),
    ]
    mergekit = os.environ.get("MERGEKIT")
    peers = by_figure(machine.lines(machine.peer("merge.py", machine.folder, 2, 3, *([mergekit] if mergekit else []))))
    if mergekit:
        rows.append(times_faster("merge, against mergekit linear, s", seconds, peers["mergekit linear"]["seconds"], 6))
    else:
        rows.append(failed("merge, against mergekit linear", "MERGEKIT does not name its program"))
    rows.append(times_faster("merge, against a torch loop, s", seconds, peers["torch loop"]["seconds"], 1.8))
    cold = by_figure(machine.lines(machine.ours("bench_merge", machine.folder, 2, 6, 1000, 2, "cold")))
    seconds, read = cold["merge"]["seconds"], cold["read files once"]["seconds"]
    rows.append(at_least("merge of 6 x 1 GB, cold, bytes/s of reading the files cold", 1 / seconds, 1 / read, 0.9))
    floor = read + cold["write one file"]["seconds"]
    rows.append(at_least("merge of 6 x 1 GB, cold, bytes/s of read cold + write", 1 / seconds, 1 / floor, 0.9))
    return rows


def build(machine, _data):
    """The 4-bit projection of the same files against reading them once."""
    ours = by_figure(machine.lines(machine.ours("bench_build", machine.folder, 2, 6, 1000, 3)))
    speed = 1 / ours["build, 4 bits"]["seconds"]
    files, maps = (1 / ours[f"read {way} once"]["seconds"] for way in ("files", "maps"))
    # Mapped files are read faster still, by up to a half where the system holds them in large pages: our own, harder row.
    return [
        at_least("4-bit projection of 6 x 1 GB, warm, bytes/s of reading the files once", speed, files, 0.5),
        at_least("4-bit projection of 6 x 1 GB, warm, bytes/s of reading them mapped", speed, maps, 0.5),
    ]


def memory(machine, _data):
    """The estimate that a queued job carries against what whole jobs held at most."""
    rows = []
    for line in machine.lines(machine.ours("bench_memory", machine.folder)):
        ratio = line["estimated_bytes"] / line["held_bytes"]
        figure = f"memory estimate of a job, {line['figure']}, bytes"
        holds = 0.9 <= ratio <= 1.1
        rows.append(row(figure, line["estimated_bytes"], line["held_bytes"], ratio, "0.9 to 1.1", holds))
    return rows


GROUPS = {
    "projection": projection,
    "steps": steps,
    "fit": fit,
    "merge": merge,
    "build": build,
    "memory": memory,
}
