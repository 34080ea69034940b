"""A training run that a policy ends: trains a small network on generated data, pushes a checkpoint an epoch, and stops at the event.

    barycenter dev &
    python scripts/check-policy.py http://127.0.0.1:8700 [EPOCHS]

Needs nothing but Python. Trains twice from one seed at a constant learning rate, ten epochs before the first checkpoint: without a policy for all
epochs (40 unless told), then with one that averages the last 24 checkpoints after every 5 and whose event stops the training. Then pushes the checkpoints of
the first training twice more, to a policy that extends its projection and to one that builds it at every refresh, and waits for each refresh. Prints test
losses against wall time, beside the last checkpoint and the uniform average of the same windows, and the times of the refreshes. Not part of `make
test`: what it shows are times.
"""

import json
import math
import random
import struct
import sys
import threading
import time
import urllib.request
import uuid

SERVER = sys.argv[1].rstrip("/")
EPOCHS = int(sys.argv[2]) if len(sys.argv) > 2 else 40
SIZES = (8, 24, 4)
RATE, DECAY, BATCH = 0.15, 0.003, 4
WARM_UP, EVERY, WINDOW = 10, 5, 24
STOPS = ("policy.target_reached", "policy.stalled")


def call(method, path, body=None):
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    request = urllib.request.Request(SERVER + path, data, {"content-type": kind}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


def safetensors(tensors, run=None):
    """With the run's name in its metadata, so that no file of one run is one of another."""
    header, data = {} if run is None else {"__metadata__": {"run": run}}, b""
    for name, dtype, shape, values in tensors:
        packed = struct.pack(f"<{len(values)}{'f' if dtype == 'F32' else 'q'}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def generate(rng, centres, count):
    """Classes as overlapping clouds, and one label in eight wrong: what a constant rate cannot settle on."""
    samples = []
    for _ in range(count):
        label = rng.randrange(SIZES[2])
        inputs = [centre + rng.gauss(0.0, 1.0) for centre in centres[label]]
        samples.append((inputs, rng.randrange(SIZES[2]) if rng.random() < 0.125 else label))
    return samples


def dataset(samples):
    inputs = [value for sample, _ in samples for value in sample]
    shape = [len(samples), SIZES[0]]
    labels = [label for _, label in samples]
    return safetensors([("inputs", "F32", shape, inputs), ("labels", "I64", [len(samples)], labels)])


class Network:
    """Two linear layers with a ReLU between."""

    def __init__(self, rng):
        draw = lambda rows, columns: [[rng.gauss(0.0, columns**-0.5) for _ in range(columns)] for _ in range(rows)]
        self.first, self.second = draw(SIZES[1], SIZES[0]), draw(SIZES[2], SIZES[1])
        self.first_bias, self.second_bias = [0.0] * SIZES[1], [0.0] * SIZES[2]

    def forward(self, inputs):
        hidden = [max(0.0, sum(map(float.__mul__, row, inputs)) + b) for row, b in zip(self.first, self.first_bias)]
        outputs = [sum(map(float.__mul__, row, hidden)) + b for row, b in zip(self.second, self.second_bias)]
        top = max(outputs)
        shares = [math.exp(output - top) for output in outputs]
        total = sum(shares)
        return hidden, [share / total for share in shares]

    def epoch(self, samples, rng):
        order = list(range(len(samples)))
        rng.shuffle(order)
        for start in range(0, len(order), BATCH):
            steps = [self.gradients(*samples[index]) for index in order[start : start + BATCH]]
            for step in steps:
                self.descend(*step, RATE / len(steps))
            keep = 1.0 - RATE * DECAY
            for layer in (self.first, self.second):
                layer[:] = [[weight * keep for weight in row] for row in layer]

    def gradients(self, inputs, label):
        hidden, shares = self.forward(inputs)
        errors = [share - (place == label) for place, share in enumerate(shares)]
        back = [
            sum(error * self.second[place][unit] for place, error in enumerate(errors)) if value > 0.0 else 0.0
            for unit, value in enumerate(hidden)
        ]
        return inputs, hidden, errors, back

    def descend(self, inputs, hidden, errors, back, rate):
        for layer, bias, gradients, seen in (
            (self.second, self.second_bias, errors, hidden),
            (self.first, self.first_bias, back, inputs),
        ):
            for place, gradient in enumerate(gradients):
                if gradient != 0.0:
                    step = rate * gradient
                    bias[place] -= step
                    layer[place] = [weight - step * value for weight, value in zip(layer[place], seen)]

    def loss(self, samples):
        return sum(-math.log(max(self.forward(inputs)[1][label], 1e-30)) for inputs, label in samples) / len(samples)

    def tensors(self):
        flat = lambda rows: [value for row in rows for value in row]
        features, hidden, classes = SIZES
        return [
            ("0.weight", "F32", [hidden, features], flat(self.first)),
            ("0.bias", "F32", [hidden], list(self.first_bias)),
            ("2.weight", "F32", [classes, hidden], flat(self.second)),
            ("2.bias", "F32", [classes], list(self.second_bias)),
        ]


def follow(run, heard, stop):
    """Notes the policy's events of a run with the time at which each was heard."""
    with urllib.request.urlopen(f"{SERVER}/v1/runs/{run}/events") as stream:
        heard.append((time.monotonic(), {"kind": "connected"}))
        for line in stream:
            if line.startswith(b"data:") and b'"policy.' in line:
                event = json.loads(line[5:])
                heard.append((time.monotonic(), event))
                if event["kind"] in STOPS:
                    stop.set()


def train(run, train_data, test_data, stop):
    """Pushes a checkpoint an epoch; returns when it began, and (seconds, epoch, test loss, tensors) of each."""
    rng, rows = random.Random(2), []
    network = Network(rng)
    for _ in range(WARM_UP):
        network.epoch(train_data, rng)
    started = time.monotonic()
    for epoch in range(1, EPOCHS + 1):
        network.epoch(train_data, rng)
        tensors = network.tensors()
        call("PUT", f"/v1/runs/{run}/checkpoints/{epoch}", safetensors(tensors, run))
        rows.append((time.monotonic() - started, epoch, network.loss(test_data), tensors))
        if stop.is_set():
            break
    return started, rows


def refreshes_of(run):
    return list(reversed(call("GET", f"/v1/runs/{run}/policy/refreshes")["items"]))


def replay(run, checkpoints):
    """Pushes checkpoints to a run with a policy and waits for each refresh; returns the reports of their jobs."""
    for epoch, tensors in enumerate(checkpoints, 1):
        call("PUT", f"/v1/runs/{run}/checkpoints/{epoch}", safetensors(tensors, run))
        while epoch % EVERY == 0:
            ended = [refresh for refresh in refreshes_of(run) if refresh["finished_at"]]
            if len(ended) == epoch // EVERY:
                break
            time.sleep(0.05)
    return [call("GET", f"/v1/jobs/{refresh['job_id']}")["report"] for refresh in refreshes_of(run)]


def policy(tag, extends=None):
    method = {"kind": "twa"} if extends is None else {"kind": "twa", "extends": extends}
    return {
        "every": EVERY,
        "window": {"last": WINDOW},
        "job": {
            "network": {"kind": "mlp", "features": list(SIZES)},
            "method": method,
            "data": {"fit": f"select-{tag}", "test": f"test-{tag}"},
            "baselines": "uniform",
        },
        "improvement": 0.001,
        "patience": 2,
    }


def seconds(report):
    return sum(phase["seconds"] for phase in report["phases"])


rng = random.Random(1)
centres = [[rng.gauss(0.0, 0.9) for _ in range(SIZES[0])] for _ in range(SIZES[2])]
train_data, select_data, test_data = (generate(rng, centres, count) for count in (1500, 1000, 1000))
tag = uuid.uuid4().hex[:8]
for name, data in (("select", select_data), ("test", test_data)):
    call("PUT", f"/v1/datasets/{name}-{tag}", dataset(data))
plain, averaged, extending, building = (f"{name}-{tag}" for name in ("plain", "averaged", "extending", "building"))
for run in (plain, averaged, extending, building):
    call("POST", "/v1/runs", {"name": run})

_, without = train(plain, train_data, test_data, threading.Event())
call("PUT", f"/v1/runs/{averaged}/policy", policy(tag))
heard, stop = [], threading.Event()
threading.Thread(target=follow, args=(averaged, heard, stop), daemon=True).start()
while not heard:
    time.sleep(0.01)
started, with_policy = train(averaged, train_data, test_data, stop)
told = lambda: sum(event["kind"] in ("policy.refreshed", "policy.refresh_failed") for _, event in heard)
while True:
    refreshes = refreshes_of(averaged)
    if all(refresh["finished_at"] for refresh in refreshes) and told() == len(refreshes):
        break
    time.sleep(0.2)

print("without a policy\n  seconds  epoch  test loss of the checkpoint")
for at, epoch, loss, _ in without[EVERY - 1 :: EVERY]:
    print(f"  {at:7.1f}  {epoch:5}  {loss:.4f}")
print("with a policy: test losses at each refresh of the last checkpoint, the uniform average of the window and what the policy returned")
print("  seconds  refresh  epoch  checkpoint  uniform  returned  state         difference of select loss [interval]")
of_checkpoint = {epoch: loss for _, epoch, loss, _ in with_policy}
for at, event in heard:
    if event["kind"] != "policy.refreshed":
        continue
    detail, refresh = event["detail"], refreshes[event["detail"]["refresh"] - 1]
    report = call("GET", f"/v1/jobs/{refresh['job_id']}")["report"]
    last = call("GET", f"/v1/candidate_sets/{refresh['candidate_set_id']}")["members"][-1]["step"]
    uniform = next(row["test"]["loss"] for row in report["evaluations"] if row["method"] == "uniform")
    interval = "[{:.4f}, {:.4f}]".format(*detail["interval"]) if "interval" in detail else ""
    difference = f"{detail['difference']:+.4f} {interval}" if "difference" in detail else "-"
    print(
        f"  {at - started:7.1f}  {detail['refresh']:7}  {last:5}  {of_checkpoint[last]:10.4f}  {uniform:7.4f}"
        f"  {detail['test_loss']:8.4f}  {refresh['state']:12}  {difference}"
    )
stopped = [event["kind"] for _, event in heard if event["kind"] in STOPS]
last = with_policy[-1]
print(f"training stopped after epoch {last[1]} of {EPOCHS}, {last[0]:.1f} s, by {stopped[0] if stopped else 'nothing: all epochs were made'}")
best = [r["test_loss"] for r in refreshes if r["state"] == "improved"][-1]
print(f"test loss of the alias's model {best:.4f}; of the last checkpoint without a policy {without[-1][2]:.4f}, of its best {min(row[2] for row in without):.4f}")

print(f"time of each refresh over all {EPOCHS} checkpoints, with a policy that extends and one that builds")
call("PUT", f"/v1/runs/{extending}/policy", policy(tag))
call("PUT", f"/v1/runs/{building}/policy", policy(tag, "nothing"))
checkpoints = [tensors for *_, tensors in without]
print("  refresh  candidates  projection  revisions  projection ms  whole s  built: projection ms  whole s")
for number, (one, other) in enumerate(zip(replay(extending, checkpoints), replay(building, checkpoints)), 1):
    projection = one["projection"]
    print(
        f"  {number:7}  {len(one['geometry']['gram']):10}  {projection['source']:10}  {projection['revisions']:9}"
        f"  {1000 * projection['seconds']:13.2f}  {seconds(one):7.2f}  {1000 * other['projection']['seconds']:20.2f}  {seconds(other):7.2f}"
    )
