"""Uploads a checkpoint with tuspy, a tus client that is not ours, is cut off in the middle, and goes on where it stood.

    pip install tuspy
    barycenter dev &
    python scripts/check-tus.py http://127.0.0.1:8700

Not part of `make test`, which speaks the same protocol without tuspy. Prints one line a check and stops at the first that fails.
"""

import json
import struct
import sys
import tempfile
import urllib.request
import uuid
from pathlib import Path

from tusclient import client
from tusclient.exceptions import TusCommunicationError

SERVER = sys.argv[1].rstrip("/")
PART = 8 << 20


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def checkpoint(path, count):
    """Writes a safetensors file with one tensor of so many floats."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    data = struct.pack("<1024f", *(i / 1024 for i in range(1024))) * (count // 1024)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path.read_bytes()


def checkpoints(run):
    return json.loads(call("GET", f"/v1/runs/{run}/checkpoints"))["items"]


def check(what, holds):
    if not holds:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}")


run = f"tus-{uuid.uuid4().hex[:8]}"
call("POST", "/v1/runs", {"name": run})
tus = client.TusClient(f"{SERVER}/v1/tus")
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "model.safetensors"
    bytes_ = checkpoint(file, 7 << 20)
    metadata = {"run": run, "step": "10", "metrics": "val_loss:0.5", "filename": file.name}

    uploader = tus.uploader(str(file), metadata=metadata)
    uploader.upload()
    check("a file in one piece is stored", [c["step"] for c in checkpoints(run)] == [10])

    # In pieces that are no whole parts: the server says where to go on, and the client does.
    uploader = tus.uploader(str(file), metadata={**metadata, "step": "20"}, chunk_size=PART + 1_000_000)
    uploader.upload_chunk()
    check("the offset stands at the end of a part", uploader.offset == PART)
    check("what is not complete is not seen", len(checkpoints(run)) == 1)

    # Another process, that knows the URL alone.
    again = client.TusClient(f"{SERVER}/v1/tus").uploader(str(file), url=uploader.url)
    check("a new client is told where to go on", again.offset == PART)
    again.upload()
    stored = checkpoints(run)
    check("the rest makes the file", [c["step"] for c in stored] == [20, 10])
    check("metrics are kept", all(c["metrics"] == {"val_loss": 0.5} for c in stored))
    content = call("GET", f"/v1/checkpoints/{stored[0]['checkpoint_id']}/content")
    check("the bytes come back", content == bytes_)

    bad = Path(folder) / "bad.safetensors"
    bad.write_bytes(bytes_[: PART + 100])
    refused = tus.uploader(str(bad), metadata={**metadata, "step": "30"})
    try:
        refused.upload()
        check("a file that is cut off is refused", False)
    except TusCommunicationError as error:
        check("a file that is cut off is refused, and said to be", b"truncated" in error.response_content)
