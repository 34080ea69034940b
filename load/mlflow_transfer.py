"""A file to an MLflow server and back by MLflow's own client; prints {"up": s, "down": s}.

    python load/mlflow_transfer.py FILE FOLDER OUT

The server keeps artifacts in FOLDER and passes all bytes through itself, as ours does; what is downloaded goes into OUT.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"


def until_ready(url, server):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"mlflow server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/health")
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("mlflow server does not answer")


def measure(url, file, out):
    import mlflow

    mlflow.set_tracking_uri(url)
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment(f"transfer-{time.time()}"))
    began = time.perf_counter()
    client.log_artifact(run.info.run_id, str(file))
    up = time.perf_counter() - began
    began = time.perf_counter()
    client.download_artifacts(run.info.run_id, file.name, str(out))
    down = time.perf_counter() - began
    if (out / file.name).stat().st_size != file.stat().st_size:
        sys.exit("mlflow gave back another size")
    (out / file.name).unlink()
    return {"up": up, "down": down}


def main():
    file, folder, out = map(pathlib.Path, sys.argv[1:4])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [pathlib.Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            until_ready(f"http://127.0.0.1:{port}", server)
            print(json.dumps(measure(f"http://127.0.0.1:{port}", file, out)))
        finally:
            os.killpg(server.pid, 15)
            server.wait()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
