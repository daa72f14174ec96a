"""The loop of a daily asset: what is not over, and what is handed to people when."""

from __future__ import annotations

from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from small_tables import D1, D2, THINGS, publisher_of, things

from orchestration.defs.daily import Made, daily_asset, daily_partitions, is_transient
from orchestration.resources.home import Home, Shop
from orchestration.resources.lake import Lake
from orchestration.resources.platform import Platform


@pytest.fixture
def platform(home: Home, lake: Lake) -> Platform:
    platform = Platform(root=str(home.root))
    platform.__dict__["publisher"] = publisher_of(home.staging, lake)
    return platform


def run(platform: Platform, make: Any, partitions: Any, day: date) -> dg.ExecuteInProcessResult:
    asset = daily_asset(
        THINGS,
        partitions,
        deps=[],
        group="scores",
        owner="team:data-science",
        description="things",
        kinds={"deltalake"},
    )(make)
    return dg.materialize(
        [asset],
        partition_key=day.isoformat(),
        resources={"platform": platform},
        raise_on_error=False,
    )


def test_files_for_people_are_written_only_once_published(platform: Platform, home: Home) -> None:
    written: list[date] = []

    def make(_: Any, day: date) -> Made:
        frame: pd.DataFrame = things(day, 3)
        if day == D2:
            frame["order_count"] = -1  # the gate refuses
        return Made(frame, 1, hand_over=lambda: written.append(day) or {"csv": "there"})

    partitions = daily_partitions(home.shop)
    assert run(platform, make, partitions, D1).success
    assert not run(platform, make, partitions, D2).success
    assert written == [D1]


def test_a_day_that_is_not_over_is_refused(
    platform: Platform, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_TODAY", D1.isoformat())
    asked: list[date] = []

    def make(_: Any, day: date) -> Made:
        asked.append(day)
        return Made(things(day, 3), 1)

    result = run(platform, make, daily_partitions(home.shop), D2)
    assert not result.success
    assert asked == []
    (event,) = [e for e in result.all_events if e.is_step_failure]
    assert "not over" in str(event.step_failure_data.user_failure_data)


def test_a_lock_may_pass_and_bad_data_does_not() -> None:
    import duckdb

    assert is_transient(duckdb.IOException("Could not set lock"))
    assert is_transient(OSError("disk"))
    assert not is_transient(ValueError("a bad column"))


def test_the_last_day_of_a_historic_shop_is_its_own(home: Home) -> None:
    assert Platform(root=str(home.root)).last_day() == home.shop.last_day
    assert Shop("UTC", "EUR", D1).last_day is None


def test_a_load_that_was_not_audited_is_not_taken_for_audited(home: Home) -> None:
    from expectations.suites import suite_for
    from orchestration.defs.sources.assets import _is_audited, raw_table
    from orchestration.defs.sources.contract import load_contract
    from orchestration.resources.catalog import Audit

    platform = Platform(root=str(home.root))
    table = load_contract().table("orders")
    suite = suite_for(raw_table(table)).version

    def judged(generation: int, version: str) -> None:
        platform.catalog.record_audits(
            [Audit("raw_orders", "all", "", str(generation), version, 3, 3, True, (), "run")]
        )

    assert not _is_audited(platform, table, 1)
    judged(1, suite)
    assert _is_audited(platform, table, 1)
    assert not _is_audited(platform, table, 2)  # killed between load 2 and its audit
    judged(2, "an older suite")
    assert not _is_audited(platform, table, 2)
