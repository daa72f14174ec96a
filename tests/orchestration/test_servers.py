"""`down` stops what `up` started, and nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psutil
import pytest

from orchestration import servers
from orchestration.resources.home import Home, Shop


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path, Shop("UTC", "EUR", date(2024, 1, 1)))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as started:
        yield started
        started.kill()


def test_down_stops_what_up_remembered(home: Home, process: subprocess.Popen[bytes]) -> None:
    servers._remember(home, [process.pid])
    servers.stop(home)
    assert not psutil.pid_exists(process.pid)
    assert not (home.root / "up.json").exists()


def test_down_never_stops_a_stranger(
    home: Home, process: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """After a crash the number of a server may belong to another process."""
    before = psutil.Process(process.pid).create_time() - 60
    (home.root / "up.json").write_text(json.dumps({str(process.pid): before}))
    servers.stop(home)
    assert "nothing is up" in capsys.readouterr().out
    assert process.poll() is None


def test_a_process_that_is_gone_is_not_up(home: Home, process: subprocess.Popen[bytes]) -> None:
    servers._remember(home, [process.pid])
    process.kill()
    process.wait(10)
    servers._remember(home, [process.pid])
    assert servers._running(home) == []
