"""The peers' side of `bench_merge`: the uniform average of the files that it made, by a plain PyTorch loop and by mergekit.

    python benches/compare/merge.py FOLDER [threads] [rounds] [mergekit-pytorch]

Prints lines of JSON: {figure, seconds, peak_rss_bytes}. Needs torch and safetensors; mergekit has an environment of its
own, whose `mergekit-pytorch` is the last argument; without it only the loop is measured.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])
threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
files = sorted(folder.glob("candidate_*.safetensors"))


def loop():
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.set_num_threads(threads)
    opened = [safe_open(file, "pt") for file in files]
    averaged = {}
    for name in opened[0].keys():
        total = opened[0].get_tensor(name).clone()
        for other in opened[1:]:
            total += other.get_tensor(name)
        averaged[name] = total / len(files)
    save_file(averaged, folder / "loop.safetensors")


def mergekit(program):
    models = [{"model": str(file), "parameters": {"weight": 1.0}} for file in files]
    config = {"merge_method": "linear", "dtype": "float32", "models": models}
    # JSON is YAML.
    (folder / "mergekit.yml").write_text(json.dumps(config))
    subprocess.run([program, folder / "mergekit.yml", folder / "mergekit"], check=True, capture_output=True)


def measure(figure, work, who):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(who).ru_maxrss * 1024
    print(json.dumps({"figure": figure, "seconds": min(times), "peak_rss_bytes": peak}), flush=True)


if len(sys.argv) > 4:
    measure("mergekit linear", lambda: mergekit(sys.argv[4]), resource.RUSAGE_CHILDREN)
measure("torch loop", loop, resource.RUSAGE_SELF)
