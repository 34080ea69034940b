"""What the scripts share that check a running service against programs that are not ours."""

import json
import socket
import struct
import sys
import time
import urllib.error
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(method, url, body=None, content_type="application/json"):
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    request = urllib.request.Request(url, data, {"content-type": content_type}, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def until(what, ask):
    for _ in range(600):
        try:
            return ask()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    sys.exit(f"failed: waited in vain until {what}")


def checkpoint(seed, count):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    data = struct.pack("<1024f", *(seed + i / 1024 for i in range(1024))) * (count // 1024)
    return struct.pack("<Q", len(header)) + header + data


def check(what, holds):
    if not holds:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}")
