"""Uploads in parts to an S3 server that is not ours: through the server, directly by signed URLs, across a killed server.

    go install github.com/versity/versitygw/cmd/versitygw@latest
    pip install blake3
    target/debug/with-postgres python scripts/check-s3.py target/release/barycenter versitygw

Not part of `make test`, which does the same with an S3 server in process. Prints one line a check and stops at the first that fails.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
from pathlib import Path

import blake3

from live import call, check, checkpoint, free_port, until

BARYCENTER, GATEWAY = sys.argv[1:3]
PART = 8 << 20


def files_below(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size > 0]


with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "bucket").mkdir()
    keys = {"ROOT_ACCESS_KEY": "key", "ROOT_SECRET_KEY": "secret-secret"}
    s3 = f"127.0.0.1:{free_port()}"
    gateway = subprocess.Popen(
        [GATEWAY, "--port", s3, "--region", "us-east-1", "posix", folder],
        env={**os.environ, **keys}, stdout=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ, "BARYCENTER_BIND": address, "BARYCENTER_STORAGE_URL": "s3://bucket/store", "RUST_LOG": "warn",
        "AWS_ENDPOINT": f"http://{s3}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-secret",
    }
    api = f"http://{address}/v1"
    subprocess.run([BARYCENTER, "migrate"], env=environment, check=True)

    def serve():
        server = subprocess.Popen([BARYCENTER, "serve"], env=environment)
        until("the server is ready", lambda: call("GET", f"http://{address}/readyz"))
        return server

    def begin(step, data):
        target = {"kind": "checkpoint", "run": "s3", "step": step}
        digest = blake3.blake3(data).hexdigest()
        body = {"target": target, "size_bytes": len(data), "digest_blake3": digest, "part_size_bytes": PART}
        return json.loads(call("POST", f"{api}/uploads", body))

    def piece(data, number):
        return data[(number - 1) * PART : number * PART]

    def parts(upload):
        return json.loads(call("GET", f"{api}/uploads/{upload['upload_id']}/parts"))["items"]

    def send(upload, data, number):
        call("PUT", f"{api}/uploads/{upload['upload_id']}/parts/{number}", piece(data, number), "application/octet-stream")

    def send_directly(upload, data, numbers):
        signed = json.loads(call("POST", f"{api}/uploads/{upload['upload_id']}/part_urls", {"numbers": numbers}))
        for part in signed["urls"]:
            call("PUT", part["url"], piece(data, part["number"]), "application/octet-stream")

    server = serve()
    try:
        call("POST", f"{api}/runs", {"name": "s3"})
        data = checkpoint(1, 9 << 20)
        upload = begin(1, data)
        send(upload, data, 2)
        send_directly(upload, data, [5, 1])
        check("parts of both ways are listed", [part["number"] for part in parts(upload)] == [1, 2, 5])
        server.kill()
        server.wait()
        server = serve()
        again = begin(1, data)
        check("a new server finds the upload", again["upload_id"] == upload["upload_id"])
        check("and what it has", [part["number"] for part in parts(upload)] == [1, 2, 5])
        send(upload, data, 3)
        send_directly(upload, data, [4])
        # A part that went through the server is sent again, directly, and the other way round.
        send_directly(upload, data, [3])
        send(upload, data, 1)
        done = json.loads(call("POST", f"{api}/uploads/{upload['upload_id']}/complete"))
        content = call("GET", f"{api}/checkpoints/{done['checkpoint_id']}/content")
        check("the bytes come back", content == data)

        other = checkpoint(2, 9 << 20)
        upload = begin(2, other)
        send_directly(upload, data, [1, 2, 3, 4, 5])
        try:
            call("POST", f"{api}/uploads/{upload['upload_id']}/complete")
            check("other bytes are refused", False)
        except urllib.error.HTTPError as error:
            check("other bytes are refused", json.load(error)["code"] == "digest_differs")
        upload = begin(3, other)
        send(upload, other, 1)
        send_directly(upload, other, [2])
        call("DELETE", f"{api}/uploads/{upload['upload_id']}")
        left = files_below(folder)
        check("the bucket holds the one object and nothing else", sum(path.stat().st_size for path in left) == len(data))
    finally:
        server.kill()
        gateway.kill()
