"""Settings, and that no library tells anybody that it is running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from orchestration.cli import main
from orchestration.resources.instance import TEMPLATE
from orchestration.settings import QUIET, Protected, Settings, silence_libraries

ROOT = Path(__file__).resolve().parents[2]

# Everything that leads a library to believe that nobody is looking, and every switch of ours.
TELLTALES = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "PYTEST_VERSION", *QUIET)

# Nothing leaves the machine, not even where the switches are left out: the hook refuses.
LISTEN = """
import json, socket, sys
met = []
def hook(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
    elif event == "socket.getaddrinfo":
        host = str(arguments[0])
    else:
        return
    if host not in {"127.0.0.1", "::1", "localhost", "None", ""}:
        met.append(host)
        raise OSError(f"no way to {host}")
sys.addaudithook(hook)
"""

# Threads report; the wait is for them.
TELL = """
import time
time.sleep(1)
print(json.dumps(sorted(set(met))))
"""

# What MLflow does when the first experiment or run is recorded, without the 5 s of a new store.
USE_MLFLOW = """
import mlflow
from mlflow.telemetry.client import get_telemetry_client
client = get_telemetry_client()
if client is not None:
    client.activate()
"""

USE_EVERY_LIBRARY = """
import contextlib, io, os, pathlib
from orchestration.settings import silence_libraries
silence_libraries()
import dagster as dg
import dagster_dbt
from orchestration.cli import main
from orchestration.resources.instance import TEMPLATE
folder = pathlib.Path(os.environ["TMPDIR"])
(folder / "dagster.yaml").write_bytes(TEMPLATE.read_bytes())
with dg.DagsterInstance.from_config(str(folder)) as instance:
    assert not instance.telemetry_enabled
(folder / "dbt_project.yml").write_text("{name: nothing, version: '1.0', profile: nothing}")
(folder / "profiles.yml").write_text(
    "nothing: {target: dev, outputs: {dev: {type: duckdb, path: ':memory:'}}}")
from dbt.cli.main import dbtRunner
with contextlib.redirect_stdout(io.StringIO()):
    done = dbtRunner().invoke(["--quiet", "parse", "--project-dir", str(folder),
                               "--profiles-dir", str(folder), "--log-path", str(folder)])
assert done.success, done.exception
import great_expectations as gx
gx.get_context(mode="ephemeral")
"""


def contacts(code: str, tmp_path: Path, **environment: str) -> list[str]:
    """Run `code` in a process that knows nothing of pytest; return whom it tried to reach."""
    inherited = {k: v for k, v in os.environ.items() if k not in TELLTALES}
    done = subprocess.run(
        [sys.executable, "-c", LISTEN + code + TELL],
        cwd=ROOT,
        env={**inherited, "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_library_phones_home(tmp_path: Path) -> None:
    """Not even where the operator set the word that MLflow does not understand."""
    assert contacts(USE_EVERY_LIBRARY + USE_MLFLOW, tmp_path, DO_NOT_TRACK="1") == []


def test_the_ear_hears(tmp_path: Path) -> None:
    """Without our switches MLflow does call: where nobody can be heard, silence proves nothing."""
    assert any("mlflow" in host for host in contacts(USE_MLFLOW, tmp_path, DO_NOT_TRACK="1"))


def test_every_switch_is_really_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    silence_libraries()
    assert {name: os.environ[name] for name in QUIET} == QUIET
    assert QUIET["MLFLOW_DISABLE_TELEMETRY"] == "true"  # "1" does not silence it


def test_an_operators_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    silence_libraries()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"


def test_dbt_is_told_in_its_project_as_well() -> None:
    project = yaml.safe_load((ROOT / "dbt_project" / "dbt_project.yml").read_text())
    assert project["flags"]["send_anonymous_usage_stats"] is False


def test_the_instance_that_is_shipped() -> None:
    shipped = yaml.safe_load(TEMPLATE.read_text())
    assert shipped["telemetry"] == {"enabled": False}
    assert shipped["nux"] == {"enabled": False}
    # granularity "run" does not protect the steps of one run; a pool without a limit does nothing
    assert shipped["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}
    monitoring = shipped["run_monitoring"]
    assert monitoring["enabled"] is True
    # without either of these a killed run keeps its slot for ever
    assert 0 < monitoring["free_slots_after_run_end_seconds"] <= 10
    assert 0 < monitoring["max_runtime_seconds"] <= 4 * 3600
    assert 0 < monitoring["start_timeout_seconds"] <= 300
    assert 0 < monitoring["poll_interval_seconds"] <= 30
    # an op that failed on its data must not be run again; a run whose process died may
    assert shipped["run_retries"]["enabled"] is True
    assert shipped["run_retries"]["retry_on_asset_or_op_failure"] is False


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_AT_RISK_CAPACITY", "42")
    monkeypatch.setenv("HOLDFAST_HOME", "elsewhere")
    monkeypatch.setenv("HOLDFAST_SECRET", "s3cret-of-a-test")
    settings = Settings()
    assert settings.at_risk_capacity == 42
    assert settings.home == Path("elsewhere")
    assert "s3cret-of-a-test" not in f"{settings!r} {settings} {settings.model_dump()}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_BAD_SHARE", "1.5"),
        ("MARGIN_RATE", "0"),
        ("AT_RISK_CAPACITY", "-1"),
        ("DBT_THREADS", "0"),
        ("ENV", "production"),
        ("TODAY", "yesterday"),
    ],
)
def test_settings_that_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"HOLDFAST_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ACCEPT_RATE", "30", "between 0 and 1, not '30'"),
        ("ACCEPT_RATE", "", "between 0 and 1, not ''"),
        ("ACCEPT_RATE", "measured", "between 0 and 1, not 'measured'"),
        ("MARGIN_RATE", "1", "above 0 and below 1, not '1'"),
        ("TRAINING_ORIGINS", "0", "above 0, not '0'"),
        ("CONTACT_AMOUNT", "-1", "at least 0, not '-1'"),
        ("ENV", "production", "'dev' or 'prod', not 'production'"),
        ("SEED", "x", "a valid integer, unable to parse string as an integer, not 'x'"),
        ("PROTECTED_FEATURES", "age,creed", "'gender', 'age' or 'country', not 'creed'"),
    ],
)
def test_the_command_line_tells_which_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv(f"HOLDFAST_{name}", value)
    assert main(["summary"]) == 2
    assert capsys.readouterr().err == f"HOLDFAST_{name}: {told}\n"


def test_every_wrong_setting_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_ACCEPT_RATE", "30")
    monkeypatch.setenv("HOLDFAST_DBT_THREADS", "0")
    assert main(["summary"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "HOLDFAST_ACCEPT_RATE: between 0 and 1, not '30'",
        "HOLDFAST_DBT_THREADS: above 0, not '0'",
    ]


def test_settings_do_not_change_under_a_run() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, False), ({"env": "prod"}, True), ({"schedules": True}, True)],
)
def test_when_there_are_schedules(given: dict[str, object], expected: bool) -> None:
    assert Settings(**given).has_schedules is expected  # type: ignore[arg-type]


def test_protected_attributes_are_no_inputs_unless_a_shop_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ml.features import PROTECTED

    assert get_args(Protected) == tuple(PROTECTED)
    assert Settings().protected_features == ()
    monkeypatch.setenv("HOLDFAST_PROTECTED_FEATURES", "age, country")
    assert Settings().protected_features == ("age", "country")
    monkeypatch.setenv("HOLDFAST_PROTECTED_FEATURES", ",".join(PROTECTED))
    assert Settings().protected_features == tuple(PROTECTED)
    monkeypatch.setenv("HOLDFAST_PROTECTED_FEATURES", "religion")
    with pytest.raises(ValidationError, match="'gender', 'age' or 'country'"):
        Settings()
