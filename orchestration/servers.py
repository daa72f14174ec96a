"""`up` and `down`: the Dagster UI, its daemon and the MLflow UI of one home, on loopback.

What belongs here: starting the three, saying where they are, stopping all of them together. Nothing
here listens on another address than 127.0.0.1: neither UI asks who is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from orchestration.resources.home import Home, HomeError, write_atomically
from orchestration.resources.instance import (
    is_process,
    open_instance,
    prepare_instance,
    reconcile,
)
from orchestration.settings import silence_libraries

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"
READY_SECONDS = 90


def serve(home: Home, dagster_port: int, mlflow_port: int) -> int:
    """Start the servers, print their addresses and wait; stop all when one ends or on Ctrl-C.

    Raises:
        HomeError: they run already, or a port is taken.
    """
    from orchestration.resources.dbt import prepare_manifest
    from orchestration.resources.models import Models

    silence_libraries()
    if _running(home):
        raise HomeError(f"already up for {home.root}; `make down` stops it")
    for port in (dagster_port, mlflow_port):
        _require_free(port)
    prepare_manifest()
    Models(home)  # first start under a lock, before any server
    os.environ["HOLDFAST_HOME"] = str(home.root)
    os.environ["HOLDFAST_SCHEDULES"] = "true"
    prepare_instance(home)
    with open_instance(home) as instance:
        for run_id in reconcile(instance, servers_are_down=True):
            print(f"cleared run {run_id[:8]}, whose process is gone")

    logs = home.root / "logs"
    logs.mkdir(exist_ok=True)
    python = sys.executable
    scripts = os.path.dirname(python)  # noqa: PTH120
    commands = {
        "dagster": [
            f"{scripts}/dagster-webserver",
            "-w",
            "workspace.yaml",
            "-h",
            LOOPBACK,
            "-p",
            str(dagster_port),
        ],
        "daemon": [f"{scripts}/dagster-daemon", "run", "-w", "workspace.yaml"],
        "mlflow": [
            f"{scripts}/mlflow",
            "server",
            "--backend-store-uri",
            home.mlflow_uri,
            "--default-artifact-root",
            home.mlflow_artifacts.as_uri(),
            "--host",
            LOOPBACK,
            "--port",
            str(mlflow_port),
            "--workers",
            "1",
        ],
    }
    processes = {}
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("ab") as log:
                processes[name] = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        _remember(home, [process.pid for process in processes.values()])
        _wait_until_ready(processes, {"dagster": dagster_port, "mlflow": mlflow_port}, logs)
        print(f"Dagster  http://{LOOPBACK}:{dagster_port}")
        print(f"MLflow   http://{LOOPBACK}:{mlflow_port}")
        print(f"Logs     {logs}")
        print("Ctrl-C, or `make down` elsewhere, stops all three.", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    if not _pid_file(home).is_file():
                        return 0  # `down` was here
                    print(f"{name} ended with code {process.returncode}; see {logs}/{name}.log")
                    return 1
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    finally:
        _stop([process.pid for process in processes.values()])
        _pid_file(home).unlink(missing_ok=True)
        print("stopped", flush=True)


def stop(home: Home) -> None:
    """Stop what `serve` started on this home."""
    pids = _running(home)
    if not pids:
        print("nothing is up")
        return
    _pid_file(home).unlink(missing_ok=True)
    _stop(pids)
    print("stopped")


def _pid_file(home: Home) -> Path:
    return home.root / "up.json"


def _remember(home: Home, pids: list[int]) -> None:
    """Write down the processes with the time each was created: numbers are given out again."""
    import psutil

    created = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended at once; `serve` will notice
            created[str(pid)] = psutil.Process(pid).create_time()
    write_atomically(_pid_file(home), json.dumps(created).encode())


def _running(home: Home) -> list[int]:
    """Return the processes of `up.json` that are still the ones that were started."""
    if not _pid_file(home).is_file():
        return []
    created = json.loads(_pid_file(home).read_text())
    return [int(pid) for pid, at in created.items() if is_process(int(pid), float(at))]


def _stop(pids: list[int]) -> None:
    """Ask each and its children to end, then insist."""
    import psutil

    family = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    for process in family:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=15)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise HomeError(
                f"port {port} is taken; choose others with `python -m orchestration up "
                "--dagster-port ... --mlflow-port ...`"
            ) from error


def _wait_until_ready(
    processes: dict[str, subprocess.Popen[bytes]], ports: dict[str, int], logs: Path
) -> None:
    deadline = time.monotonic() + READY_SECONDS
    waiting = dict(ports)
    while waiting:
        for name, process in processes.items():
            if process.poll() is not None:
                raise HomeError(f"{name} did not start; see {logs / f'{name}.log'}")
        for name, port in list(waiting.items()):
            with socket.socket() as probe:
                if probe.connect_ex((LOOPBACK, port)) == 0:
                    del waiting[name]
        if time.monotonic() > deadline:
            raise HomeError(f"{', '.join(waiting)} did not answer in {READY_SECONDS} s; see {logs}")
        time.sleep(0.3)
