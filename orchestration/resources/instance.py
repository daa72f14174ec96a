"""The Dagster instance of a home.

What belongs here: writing `dagster.yaml`, first start under a lock (two processes that initialise
one SQLite store at once fail), and clearing what a killed process left behind.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.resources.home import file_lock, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance, DagsterRun

    from orchestration.resources.home import Home

TEMPLATE = Path(__file__).with_name("dagster.yaml")

# Events that Dagster hands over at once (`event_log.py`); a 30-day range plans 900.
EVENT_BATCH = 1000


@cache
def relax_sqlite() -> None:
    """Spare the SQLite stores of Dagster and MLflow in this process what they need not do.

    Both use write-ahead logs, in which `synchronous = NORMAL` survives the death of any process and
    never corrupts; a power cut may cost the last events. With FULL, an event of Dagster costs four
    disk syncs: 43 ms on a busy disk, and a day has 60 events.

    Dagster opens and closes a connection for each event, and whoever closes the last one of a file
    empties and deletes its log: 3.3 ms an event, 4 s of a run of 12 days. So one idle connection
    per file stays open as long as the process lives; it holds no lock.
    """
    import sqlite3

    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    kept: dict[tuple[str, int], sqlite3.Connection] = {}

    def relax(connection: object, _: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        connection.execute("pragma synchronous = normal")
        for _, _, path in connection.execute("pragma database_list").fetchall():
            if not path:  # in memory
                continue
            file = path, Path(path).stat().st_ino  # a home that was put back has other files
            if file not in kept:
                kept[file] = sqlite3.connect(path, check_same_thread=False)
                kept[file].execute("select 1 from sqlite_master").fetchone()  # opens the log

    event.listen(Engine, "connect", relax)


def prepare_instance(home: Home) -> Path:
    """Make DAGSTER_HOME of `home` ready for any number of processes; return it."""
    home.dagster.mkdir(parents=True, exist_ok=True)
    write_atomically(home.dagster / "dagster.yaml", TEMPLATE.read_bytes())
    os.environ["DAGSTER_HOME"] = str(home.dagster.resolve())
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(EVENT_BATCH))
    marker = home.dagster / ".initialised"
    if not marker.is_file():
        from dagster import DagsterInstance

        with file_lock(home.dagster / ".init.lock"):
            if not marker.is_file():
                with DagsterInstance.from_config(str(home.dagster)) as instance:
                    instance.get_runs(limit=1)
                    instance.event_log_storage.get_maximum_record_id()
                    instance.event_log_storage.get_pool_limits()
                    instance.schedule_storage  # noqa: B018  touching it creates its tables
                marker.touch()
    return home.dagster


@contextmanager
def open_instance(home: Home) -> Iterator[DagsterInstance]:
    """Open the instance of `home`, with an event log that stores batches as such."""
    from dagster import DagsterInstance
    from dagster._core.instance.ref import InstanceRef

    folder = prepare_instance(home).resolve()
    relax_sqlite()
    event_log = {
        "module": "orchestration.resources.event_log",
        "class": "BatchingSqliteEventLogStorage",
        "config": {"base_dir": str(folder / "history" / "runs")},  # where Dagster's default is
    }
    ref = InstanceRef.from_dir(str(folder), overrides={"event_log_storage": event_log})
    with DagsterInstance.from_ref(ref) as instance:
        yield instance


def reconcile(instance: DagsterInstance, *, servers_are_down: bool = False) -> list[str]:
    """Fail runs whose process is gone and give back their slots; return their ids.

    A run from the command line carries its process; one from the UI is a child of the servers, so
    it is gone where the caller knows that `servers_are_down`.

    Under the default launcher nothing does this after a power cut: with run monitoring on, the run
    stayed STARTED and its slot taken for 75 s and more.
    """
    from dagster import DagsterRunStatus, RunsFilter

    def is_alive(run: DagsterRun) -> bool:
        pid, started = run.tags.get("holdfast/pid"), run.tags.get("holdfast/pid_started")
        if not pid or not started:
            return not servers_are_down
        return is_process(int(pid), float(started))

    cleared = []
    running = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(RunsFilter(statuses=running)):
        if not is_alive(run):
            pid = run.tags.get("holdfast/pid", "of the servers")
            instance.report_run_failed(
                run, f"the process {pid} that ran this is gone; start the run again"
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            cleared.append(run.run_id)
    return cleared


def is_process(pid: int, created: float) -> bool:
    """Whether the process `pid` is the one that was created at `created`, in epoch seconds."""
    import psutil

    try:
        return abs(psutil.Process(pid).create_time() - created) < 1
    except psutil.NoSuchProcess:
        return False


def process_tags() -> dict[str, str]:
    """Return the tags by which `reconcile` knows a run's process again."""
    import psutil

    return {
        "holdfast/pid": str(os.getpid()),
        "holdfast/pid_started": str(psutil.Process().create_time()),
    }
