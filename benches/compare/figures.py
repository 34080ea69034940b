"""What is measured, against what, and which ratio is asked for. Every function returns rows of the table."""


def row(figure, ours, against, ratio, target, holds):
    return {"figure": figure, "ours": ours, "against": against, "ratio": ratio, "target": target, "holds": holds}


def failed(group, why):
    return row(f"{group}: {why}", None, None, None, None, False)


def at_most(figure, ours, against, limit):
    """Ours over the peer's: time or memory, where less is better."""
    ratio = ours / against
    return row(figure, ours, against, ratio, f"<= {limit}", ratio <= limit)


def at_least(figure, ours, against, limit):
    """Ours over the peer's or over what the machine can do: speed, where more is better."""
    ratio = ours / against
    return row(figure, ours, against, ratio, f">= {limit}", ratio >= limit)


def fit(machine, data):
    """A whole TWA-v fit on the real checkpoints; without them there is nothing to measure."""
    if not data.is_dir():
        return [failed("fit", "the real checkpoints are not there")]
    rows = []
    for bits in (4, 32):
        ours, peer = machine.side_by_side(
            machine.ours("fit", data, bits, 5, 1),
            machine.peer("fit.py", data, "--bits", bits),
            key="cpu_seconds",
        )
        figure = f"TWA-v fit, 16 candidates, 200 steps, {bits} bits, CPU s at 1 thread"
        rows.append(at_most(figure, ours["cpu_seconds"], peer["cpu_seconds"], 0.8))
    rows.append(at_most("TWA-v fit, peak memory in bytes", ours["peak_rss_bytes"], peer["peak_rss_bytes"], 0.8))
    return rows


GROUPS = {"fit": fit}
