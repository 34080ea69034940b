"""An MLflow server with one run; prints "HOST:PORT PATH" of the run's status and serves until its standard input ends.

    python load/mlflow_run.py FOLDER
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

from mlflow_transfer import until_ready


def main():
    folder = pathlib.Path(sys.argv[1])
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
            import mlflow

            mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
            client = mlflow.MlflowClient()
            run = client.create_run(client.create_experiment("polled"))
            client.log_metric(run.info.run_id, "loss", 0.5)
            print(f"127.0.0.1:{port} /api/2.0/mlflow/runs/get?run_id={run.info.run_id}", flush=True)
            sys.stdin.read()
        finally:
            os.killpg(server.pid, 15)
            server.wait()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
