"""Runs from the command line: tagged, told in words, of the days asked for."""

import logging
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest

from orchestration import runs
from orchestration.cli import main
from orchestration.defs.daily import DAYS_PER_RUN, RESCORE_TAG, daily_partitions
from orchestration.resources.home import Home, HomeError
from orchestration.resources.instance import open_instance
from orchestration.resources.lake import NotPublishedError

D1, D3 = date(2024, 3, 1), date(2024, 3, 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `run_job` is asked for."""
    calls: list[dict[str, Any]] = []

    def run_job(home: Home, name: str, **arguments: Any) -> str:
        calls.append({"name": name, **arguments})
        return "run-id"

    monkeypatch.setattr(runs, "run_job", run_job)
    return calls


def test_a_day_and_a_range_are_the_daily_job(home: Home, asked: list[dict[str, Any]]) -> None:
    runs.run_days(home, D1, D1)
    runs.run_days(home, D1, D3, rescore=True)
    assert [(c["name"], c["start"], c["end"]) for c in asked] == [
        ("daily", D1, D1),
        ("daily", D1, D3),
    ]
    assert [c["tags"] for c in asked] == [{}, {RESCORE_TAG: "true"}]


@pytest.mark.parametrize(
    ("start", "end"), [(date(2024, 2, 29), D1), (D3, date(2024, 3, 11)), (D3, D1)]
)
def test_days_that_the_shop_does_not_have_are_not_run(
    home: Home, asked: list[dict[str, Any]], start: date, end: date
) -> None:
    with pytest.raises(HomeError, match=r"outside this shop's days|ends before"):
        runs.run_days(home, start, end)
    assert asked == []


def test_training_and_history_are_told_their_day(home: Home, asked: list[dict[str, Any]]) -> None:
    runs.run_training(home)
    runs.run_training(home, D3, 2)
    runs.run_history(home, D3, 7, D1)
    ops = [call["config"]["ops"] for call in asked]
    assert ops[0]["models__churn"] == {"config": {"as_of": "", "origins": 0}}
    told = {"config": {"as_of": "2024-03-03", "origins": 2}}
    assert ops[1]["models__customer_segments"] == ops[1]["models__customer_value"] == told
    assert ops[2]["build_history"]["config"] == {
        "end": "2024-03-03",
        "every_days": 7,
        "start": "2024-03-01",
    }


def test_the_ops_that_are_configured_are_there(asked: list[dict[str, Any]], home: Home) -> None:
    """A renamed asset would leave the command line with a config that fits nothing."""
    from orchestration.definitions import build_defs

    runs.run_training(home)
    runs.run_history(home, D3)
    defs = build_defs(shop=home.shop)
    for call in asked:
        result = dg.validate_run_config(defs.resolve_job_def(call["name"]), call["config"])
        assert result


def test_a_long_range_is_several_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mart holds in memory grows with the days of a run; one that fails stops no other."""
    asked: list[tuple[date, date]] = []

    def run_job(home: Home, name: str, *, start: date, end: date, **_: Any) -> str:
        asked.append((start, end))
        if len(asked) == 2:
            raise runs.RunFailedError("the second")
        return str(len(asked))

    monkeypatch.setattr(runs, "run_job", run_job)
    shop = home.shop
    last = shop.first_day + timedelta(days=2 * DAYS_PER_RUN)
    long = replace(home, shop=replace(shop, last_day=last))
    with pytest.raises(runs.RunFailedError, match="the second"):
        runs.run_days(long, shop.first_day, last)
    days = [end - start for start, end in asked]
    assert days == [timedelta(days=DAYS_PER_RUN - 1)] * 2 + [timedelta(0)]
    assert asked[1][0] == asked[0][1] + timedelta(days=1)


# -- a run, really run ---------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One asset under the name of the daily job, instead of the platform."""

    def build_defs(settings: Any, *, shop: Any, loggers: Any) -> dg.Definitions:
        @dg.asset(
            partitions_def=daily_partitions(shop), backfill_policy=dg.BackfillPolicy.single_run()
        )
        def thing(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            keys = sorted(context.partition_keys)
            context.log.info(f"thing of {keys[0]} .. {keys[-1]}")
            context.log.debug("not for people")
            if "2024-03-09" in keys:
                try:
                    raise NotPublishedError("things of 2024-03-09 is not published; do this")
                except NotPublishedError as error:
                    raise RuntimeError("an outer layer") from error
            if "2024-03-10" in keys:
                raise dg.Failure("one day was refused", allow_retries=False)
            return dg.MaterializeResult()

        return dg.Definitions(
            assets=[thing],
            jobs=[dg.define_asset_job("daily")],
            loggers=loggers,
            executor=dg.in_process_executor,
        )

    monkeypatch.setattr(runs, "build_defs", build_defs)


@pytest.mark.usefixtures("small")
def test_runs_of_a_home(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    [one] = runs.run_days(home, D1, D1)
    [many] = runs.run_days(home, D1, D3)
    with pytest.raises(runs.RunFailedError, match=r"^thing: .*: things of 2024-03-09 .*; do this$"):
        runs.run_days(home, date(2024, 3, 9), date(2024, 3, 9))
    with pytest.raises(runs.RunFailedError, match=r"^thing: one day was refused$"):
        runs.run_days(home, date(2024, 3, 10), date(2024, 3, 10))
    printed = capsys.readouterr().out
    assert "thing of 2024-03-01 .. 2024-03-01" in printed
    assert "thing of 2024-03-01 .. 2024-03-03" in printed
    for noise in ("STEP_START", "not for people", "Started execution", "RUN_SUCCESS"):
        assert noise not in printed
    with open_instance(home) as instance:
        found = {run.run_id: run for run in instance.get_runs()}
        assert len(found) == 4
        assert found[one].tags["dagster/partition"] == "2024-03-01"
        assert found[many].tags["dagster/asset_partition_range_start"] == "2024-03-01"
        assert found[many].tags["dagster/asset_partition_range_end"] == "2024-03-03"
        assert all({"holdfast/pid", "holdfast/pid_started"} <= set(r.tags) for r in found.values())
        keys = instance.get_materialized_partitions(dg.AssetKey("thing"))
        assert keys == {"2024-03-01", "2024-03-02", "2024-03-03"}
    assert not list((home.dagster / "storage").rglob("result"))


def test_progress_says_what_assets_say(capsys: pytest.CaptureFixture[str]) -> None:
    handler = runs.Progress()
    record = logging.LogRecord("x", logging.INFO, "", 0, "job - run - message", None, None)
    record.dagster_meta = {"orig_message": "message", "dagster_event": None}
    handler.emit(record)
    record.dagster_meta = {"orig_message": "event", "dagster_event": object()}
    handler.emit(record)
    out = capsys.readouterr().out
    assert out.strip().endswith("s  message")
    assert "event" not in out


# -- errors for people ---------------------------------------------------------------------------


def test_an_error_of_ours_is_one_message(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(home.root))
    assert main(["run", "--from", "2023-01-01"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("HomeError: 2023-01-01 .. 2023-01-01 is outside this shop's days")
    assert "Traceback" not in err
    monkeypatch.setenv("HOLDFAST_HOME", str(home.root / "nowhere"))
    assert main(["run", "--from", "2024-03-01"]) == 1
    assert "there is no home at" in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    def boom(*_: object, **__: object) -> str:
        raise ZeroDivisionError("a fault")

    monkeypatch.setenv("HOLDFAST_HOME", str(home.root))
    monkeypatch.setattr(runs, "run_days", boom)
    with pytest.raises(ZeroDivisionError):
        main(["run", "--from", "2024-03-01"])


def test_a_command_that_is_misused_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["run"], ["run", "--from", "yesterday"], ["fly"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--results", "--plan"], "argument --plan: not allowed with argument --results"),
        (["--results", "--approver", "Ada"], "--approver: not allowed with argument --results"),
        (["--plan", "--approver", "Ada"], "--approver: not allowed with argument --plan"),
        (["--to", "https://tool.example"], "--token and --to are of an export, which needs"),
        (["--results", "--token", "abc"], "--token and --to are of an export, which needs"),
    ],
)
def test_two_things_are_not_asked_of_a_campaign_at_once(
    asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them would be passed over in silence, such as an export that was approved."""
    with pytest.raises(SystemExit) as left:
        main(["campaign", "winback_coupon_1", *asked])
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_init_makes_a_home(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "shop"))
    arguments = ["--timezone", "Asia/Tokyo", "--currency", "JPY", "--first-day", "2024-01-01"]
    assert main(["init", *arguments]) == 0
    shop = Home.open(tmp_path / "shop").shop
    assert (shop.shop_timezone, shop.currency, shop.last_day) == ("Asia/Tokyo", "JPY", None)
    assert "landing" in capsys.readouterr().out
