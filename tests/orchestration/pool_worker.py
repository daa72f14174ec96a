"""A process that runs one step under the pool, and writes down when it was inside.

    pool_worker.py HOME LOG NAME SECONDS WAIT_FOR [INSTANCE]

It starts when WAIT_FOR workers have written "ready", and stays inside for SECONDS, or until another
is inside as well. INSTANCE is another DAGSTER_HOME than that of the home.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.resources.home import Home
from orchestration.resources.instance import open_instance, process_tags
from orchestration.resources.warehouse import POOL

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def main(root: str, log: str, name: str, seconds: str, wait_for: str, instance: str = "") -> int:
    def note(what: str) -> None:
        with Path(log).open("a") as handle:
            handle.write(f"{time.monotonic()} {name} {what}\n")

    def count(what: str) -> int:
        return Path(log).read_text().count(f" {what}\n")

    @dg.op(pool=POOL)
    def hold() -> None:
        note("in")
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until and count("in") < 2:
            time.sleep(0.02)
        note("out")

    @dg.job(executor_def=dg.in_process_executor)
    def holding() -> None:
        hold()

    note("ready")
    while count("ready") < int(wait_for):
        time.sleep(0.02)
    opened: AbstractContextManager[dg.DagsterInstance] = (
        contextlib.nullcontext(dg.DagsterInstance.from_config(instance))
        if instance
        else open_instance(Home.open(Path(root)))
    )
    with opened as found:
        done = holding.execute_in_process(instance=found, tags=process_tags(), raise_on_error=False)
    return 0 if done.success else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
