"""What the service stored in S3, read by programs that are not ours: boto3 and rclone, on an S3 server that is not ours.

    go install github.com/versity/versitygw/cmd/versitygw@latest
    apt-get install rclone           # or: go install github.com/rclone/rclone@latest
    pip install blake3 boto3
    target/debug/with-postgres python scripts/check-readers.py target/release/barycenter versitygw rclone

A checkpoint is pushed by one PUT, a small one and one that S3 gets in parts, and one above 64 MiB by the command line, which sends it in
parts. Every object of the bucket is then read by both programs. Prints one line a check and stops at the first that fails.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import blake3
import boto3
from botocore.config import Config

from live import call, check, checkpoint, free_port, until

BARYCENTER, GATEWAY, RCLONE = sys.argv[1:4]
KEY, SECRET, REGION = "key", "secret-secret", "us-east-1"


def digest(data):
    return blake3.blake3(data).hexdigest()


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    (folder / "gateway" / "bucket").mkdir(parents=True)
    s3 = f"127.0.0.1:{free_port()}"
    gateway = subprocess.Popen(
        [GATEWAY, "--port", s3, "--region", REGION, "posix", folder / "gateway"],
        env={**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}, stdout=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ, "BARYCENTER_BIND": address, "BARYCENTER_STORAGE_URL": "s3://bucket/store", "RUST_LOG": "warn",
        "BARYCENTER_SERVER": f"http://{address}", "AWS_ENDPOINT": f"http://{s3}", "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    api = f"http://{address}/v1"
    subprocess.run([BARYCENTER, "migrate"], env=environment, check=True)
    server = subprocess.Popen([BARYCENTER, "serve"], env=environment)
    try:
        until("the server is ready", lambda: call("GET", f"http://{address}/readyz"))
        # A run each: the checkpoints of one run share their shapes.
        for step in [1, 2, 3]:
            call("POST", f"{api}/runs", {"name": f"read-{step}"})
        pushed = {}
        for step, count in [(1, 1 << 10), (2, 8 << 20)]:
            data = checkpoint(step, count)
            call("PUT", f"{api}/runs/read-{step}/checkpoints/1", data, "application/octet-stream")
            pushed[digest(data)] = len(data)
        large = folder / "large.safetensors"
        large.write_bytes(checkpoint(3, 20 << 20))
        pushed[digest(large.read_bytes())] = large.stat().st_size
        command = [BARYCENTER, "checkpoint", "push", "--quiet", large, "--run", "read-3", "--step", "1"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        told = [json.loads(call("GET", f"{api}/runs/read-{step}/checkpoints/1")) for step in [1, 2, 3]]
        check("the server has all three", {c["digest_blake3"]: c["size_bytes"] for c in told} == pushed)

        client = boto3.client(
            "s3", endpoint_url=f"http://{s3}", region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}),
        )
        listed = client.list_objects_v2(Bucket="bucket", Prefix="store/")["Contents"]
        check("boto3 lists three objects of these sizes", sorted(o["Size"] for o in listed) == sorted(pushed.values()))
        read = [client.get_object(Bucket="bucket", Key=o["Key"])["Body"].read() for o in listed]
        check("boto3 reads the bytes that were pushed", {digest(data): len(data) for data in read} == pushed)
        first = client.get_object(Bucket="bucket", Key=listed[0]["Key"], Range="bytes=8-1000")["Body"].read()
        check("boto3 reads a range", first == read[0][8:1001])
        # The transfer manager: ranges in parallel.
        for number, found in enumerate(listed):
            client.download_file("bucket", found["Key"], str(folder / f"boto-{number}"))
        transferred = [(folder / f"boto-{number}").read_bytes() for number in range(len(listed))]
        check("boto3 downloads them in parallel parts", transferred == read)

        # Settings of this machine for another S3 are not for this one.
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        remote = {
            **own, "RCLONE_CONFIG_STORE_TYPE": "s3", "RCLONE_CONFIG_STORE_PROVIDER": "Other",
            "RCLONE_CONFIG_STORE_ENDPOINT": f"http://{s3}", "RCLONE_CONFIG_STORE_REGION": REGION,
            "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": KEY, "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": SECRET,
            "RCLONE_CONFIG": str(folder / "rclone.conf"),
        }
        (folder / "rclone.conf").touch()
        subprocess.run([RCLONE, "copy", "store:bucket/store", folder / "copied"], env=remote, check=True)
        copied = [path.read_bytes() for path in (folder / "copied").rglob("*") if path.is_file()]
        check("rclone copies the bytes that were pushed", {digest(data): len(data) for data in copied} == pushed)
        same = subprocess.run([RCLONE, "check", "--download", "store:bucket/store", folder / "copied"], env=remote)
        check("rclone finds the copy equal", same.returncode == 0)
    finally:
        server.kill()
        gateway.kill()
