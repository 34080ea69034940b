"""How long the refreshes of a growing set take: a policy that extends its projection beside one that builds it.

    barycenter dev &
    python scripts/check-refresh.py http://127.0.0.1:8700

Needs nothing but Python. Pushes 40 generated checkpoints of two million weights, as a constant learning rate leaves them: around one place, each somewhere else.
The policy averages all there are after every 5. Prints what came of each projection and how long it took. A run before, of which nothing is printed, lets the worker get its
memory from the system, which takes longer than the work where memory is full of cached files. Not part of `make test`: what it shows are times.
"""

import array
import json
import random
import struct
import sys
import time
import urllib.request
import uuid

SERVER = sys.argv[1].rstrip("/")
SIZES = (400, 4900, 10)
CHECKPOINTS, EVERY, SAMPLES = 40, 5, 256
SPREAD = 0.01


def call(method, path, body=None):
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    request = urllib.request.Request(SERVER + path, data, {"content-type": kind}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


def safetensors(tensors):
    header, data = {}, []
    offset = 0
    for name, dtype, shape, values in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(values) * values.itemsize]}
        offset += len(values) * values.itemsize
        data.append(values.tobytes())
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def normal(rng, count, deviation):
    """Numbers that repeat after many: drawing each would take longer than all that is measured."""
    drawn = array.array("f", (rng.gauss(0.0, deviation) for _ in range(min(count, 65_521))))
    return (drawn * (count // len(drawn) + 1))[:count]


SHAPES = {
    "0.weight": [SIZES[1], SIZES[0]],
    "0.bias": [SIZES[1]],
    "2.weight": [SIZES[2], SIZES[1]],
    "2.bias": [SIZES[2]],
}


def checkpoint(rng, place):
    tensors = []
    for name, shape in SHAPES.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        away = normal(rng, count, SPREAD)
        tensors.append((name, "F32", shape, array.array("f", map(float.__add__, place[name], away))))
    return safetensors(tensors)


def replay(run, files):
    """Pushes the files and waits for the refresh after every fifth; returns the reports of the jobs."""
    refreshes = lambda: call("GET", f"/v1/runs/{run}/policy/refreshes")["items"][::-1]
    for step, file in enumerate(files, 1):
        call("PUT", f"/v1/runs/{run}/checkpoints/{step}", file)
        while step % EVERY == 0 and sum(refresh["finished_at"] is not None for refresh in refreshes()) < step // EVERY:
            time.sleep(0.05)
    return [call("GET", f"/v1/jobs/{refresh['job_id']}")["report"] for refresh in refreshes()]


rng, tag = random.Random(1), uuid.uuid4().hex[:8]
inputs = normal(rng, SAMPLES * SIZES[0], 1.0)
labels = array.array("q", (rng.randrange(SIZES[2]) for _ in range(SAMPLES)))
call("PUT", f"/v1/datasets/{tag}", safetensors([("inputs", "F32", [SAMPLES, SIZES[0]], inputs), ("labels", "I64", [SAMPLES], labels)]))
place = {name: normal(rng, shape[0] * (shape[1] if len(shape) > 1 else 1), 0.05) for name, shape in SHAPES.items()}
# Files of one run would be found again by their digests in the other, which is as it should be: both are given the same.
files = [checkpoint(rng, place) for _ in range(CHECKPOINTS)]
reports = {}
# The first one's projections have other keys, or they would be there already.
for name, of_method in (("warms", {"extends": "nothing", "granularity": "layer"}), ("extends", {}), ("builds", {"extends": "nothing"})):
    run = f"{name}-{tag}"
    call("POST", "/v1/runs", {"name": run})
    method = {"kind": "twa", "epochs": 1} | of_method
    spec = {"network": {"kind": "mlp", "features": list(SIZES)}, "method": method, "data": {"fit": tag}, "baselines": "uniform"}
    call("PUT", f"/v1/runs/{run}/policy", {"every": EVERY, "window": {"last": CHECKPOINTS}, "job": spec})
    reports[name] = replay(run, files)

print("                       a policy that extends               one that builds")
print("refresh  candidates  projection  revisions      ms  drift      ms")
for number, (one, other) in enumerate(zip(reports["extends"], reports["builds"]), 1):
    mine, theirs = one["projection"], other["projection"]
    print(
        f"{number:7}  {len(one['geometry']['gram']):10}  {mine['source']:10}  {mine['revisions']:9}  {1000 * mine['seconds']:6.1f}"
        f"  {'drifted' if mine.get('drifted') else 'near':5}  {1000 * theirs['seconds']:6.1f}"
    )
