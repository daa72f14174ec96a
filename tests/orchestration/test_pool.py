"""One process at a time in the warehouse, and none for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml

from orchestration.resources.home import Home
from orchestration.resources.instance import (
    TEMPLATE,
    open_instance,
    prepare_instance,
    process_tags,
    reconcile,
)
from orchestration.resources.warehouse import POOL

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def start(home: Home, log: Path) -> Iterator[Start]:
    """Start workers; whatever happens none of them outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        name: str, seconds: float, wait_for: int = 0, instance: str = ""
    ) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [
                    *(sys.executable, str(HERE / "pool_worker.py"), str(home.root), str(log)),
                    *(name, str(seconds), str(wait_for), instance),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def stays(log: Path) -> list[tuple[str, float, float]]:
    """Return who was inside from when to when, in order of coming in."""
    found: dict[str, list[float]] = {}
    for line in log.read_text().splitlines():
        at, name, what = line.split()
        if what != "ready":
            found.setdefault(name, []).append(float(at))
    return sorted(((n, *times) for n, times in found.items()), key=lambda s: s[1])  # type: ignore[misc]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def slots(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info(POOL).active_slot_count


def test_three_processes_on_a_new_home_are_never_inside_at_once(
    home: Home, log: Path, start: Start
) -> None:
    """The first start is at once as well: unlocked, 3 of 6 failed to make one SQLite store."""
    processes = [start(name, 0.3, wait_for=3) for name in ("a", "b", "c")]
    assert [process.wait(90) for process in processes] == [0, 0, 0]
    found = stays(log)
    assert len(found) == 3
    for (_, _, left), (_, came, _) in pairwise(found):
        assert left <= came
    with open_instance(home) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 3


def test_without_our_dagster_yaml_they_are(
    home: Home, log: Path, start: Start, tmp_path: Path
) -> None:
    """The control: a pool without a limit does nothing, and the test above would see it."""
    other = tmp_path / "other"
    other.mkdir()
    settings = yaml.safe_load(TEMPLATE.read_text())
    del settings["concurrency"]
    (other / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(other)) as instance:
        instance.event_log_storage.get_maximum_record_id()
    processes = [start(name, 20, wait_for=2, instance=str(other)) for name in ("a", "b")]
    assert [process.wait(60) for process in processes] == [0, 0]
    (_, _, left), (_, came, _) = stays(log)
    assert came < left


def test_the_slot_of_a_killed_run_is_given_back(home: Home, log: Path, start: Start) -> None:
    prepare_instance(home)
    killed = start("killed", 600)
    wait_until(lambda: "killed in" in log.read_text())
    with open_instance(home) as instance:
        assert reconcile(instance) == []  # it lives
        assert slots(instance) == 1
        killed.kill()
        killed.wait()
        [run] = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.STARTED  # nobody told Dagster
        assert slots(instance) == 1
        assert reconcile(instance) == [run.run_id]
        assert slots(instance) == 0
        [run] = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE
        [event] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        assert f"the process {killed.pid} that ran this is gone" in event.message
        assert reconcile(instance) == []
    log.write_text("")
    assert start("next", 0.1).wait(30) == 0
    assert [name for name, *_ in stays(log)] == ["next"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def add(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tags: dict[str, str]
) -> dg.DagsterRun:
    from dagster._core.utils import make_new_run_id

    return instance.add_run(dg.DagsterRun("job", make_new_run_id(), status=status, tags=tags))


STARTED = dg.DagsterRunStatus.STARTED


def test_a_living_process_keeps_its_run(instance: dg.DagsterInstance) -> None:
    add(instance, STARTED, process_tags())
    assert reconcile(instance) == []


def test_a_number_given_to_another_process_is_not_that_process(
    instance: dg.DagsterInstance,
) -> None:
    earlier = psutil.Process().create_time() - 3600
    run = add(instance, STARTED, {**process_tags(), "holdfast/pid_started": str(earlier)})
    assert reconcile(instance) == [run.run_id]


def test_what_is_over_or_of_another_launcher_is_left_alone(instance: dg.DagsterInstance) -> None:
    dead = {"holdfast/pid": "999999999", "holdfast/pid_started": "1.0"}
    add(instance, dg.DagsterRunStatus.SUCCESS, dead)
    add(instance, dg.DagsterRunStatus.CANCELED, dead)
    add(instance, STARTED, {})
    assert reconcile(instance) == []


def test_a_run_that_died_while_it_started_is_cleared(instance: dg.DagsterInstance) -> None:
    dead = {"holdfast/pid": "999999999", "holdfast/pid_started": "1.0"}
    run = add(instance, dg.DagsterRunStatus.STARTING, dead)
    assert reconcile(instance) == [run.run_id]


def test_the_instance_is_the_one_that_is_shipped(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")
    folder = prepare_instance(home)
    assert (folder / "dagster.yaml").read_bytes() == TEMPLATE.read_bytes()
    assert os.environ["DAGSTER_HOME"] == str(folder)
    with open_instance(home) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        pools = instance.get_concurrency_config().pool_config
        assert pools.default_pool_limit == 1
        assert pools.pool_granularity is not None
        assert pools.pool_granularity.value == "op"


def test_an_edited_dagster_yaml_does_not_stay(home: Home) -> None:
    """The pool is what keeps the warehouse whole; a home cannot opt out of it by accident."""
    prepare_instance(home)
    (home.dagster / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    prepare_instance(home)
    assert (home.dagster / "dagster.yaml").read_bytes() == TEMPLATE.read_bytes()
