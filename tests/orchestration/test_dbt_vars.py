"""What dbt receives: typed here, since dbt interpolates raw text into SQL."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.resources import dbt
from orchestration.resources.dbt import PARSE_VARS, PROJECT, dbt_vars
from orchestration.resources.home import HomeError, Shop

SHOP = Shop("Europe/Berlin", "EUR", date(2024, 1, 1))
SQL = "2024-03-01'); drop schema raw cascade; --"


@given(st.lists(st.dates(), min_size=1, max_size=40))
def test_days_are_sorted_unique_and_iso(days: list[date]) -> None:
    given_to_dbt = dbt_vars(SHOP, days)["snapshot_dates"]
    assert given_to_dbt == sorted(set(given_to_dbt))
    assert {date.fromisoformat(text) for text in given_to_dbt} == set(days)


@given(st.lists(st.dates(), min_size=1, max_size=10), st.randoms())
def test_the_order_in_which_days_are_asked_for_does_not_matter(
    days: list[date], random: Any
) -> None:
    shuffled = [*days, days[0]]
    random.shuffle(shuffled)
    assert dbt_vars(SHOP, shuffled) == dbt_vars(SHOP, days)


@pytest.mark.parametrize(
    "day", [SQL, "2024-03-01", datetime(2024, 3, 1), 20240301, None], ids=lambda day: repr(day)[:20]
)
def test_what_is_no_date_is_refused_by_name(day: Any) -> None:
    with pytest.raises(TypeError) as refused:
        dbt_vars(SHOP, [date(2024, 3, 1), day])
    assert repr(day) in str(refused.value)


def test_sql_does_not_get_in_through_the_facts_of_a_shop() -> None:
    for change in (
        {"shop_timezone": "UTC' or '1'='1"},
        {"consent_without_records": "denied' --"},
    ):
        with pytest.raises(HomeError):
            replace(SHOP, **change)  # type: ignore[arg-type]
    text = json.dumps(dbt_vars(SHOP, [date(2024, 3, 1)]))
    assert "'" not in text
    assert ";" not in text


def test_the_variables_are_those_of_the_project() -> None:
    """One that is missing stops dbt; one that nobody reads is a promise that nobody keeps."""
    variables = dbt_vars(SHOP, [date(2024, 3, 1)])
    assert set(variables) == set(PARSE_VARS)
    text = " ".join(
        path.read_text()
        for folder in ("models", "macros", "tests")
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in (".sql", ".yml")
    )
    for name in variables:
        assert f"'{name}'" in text, name  # var('x') or a macro of ours around it


def test_facts_of_the_shop_reach_dbt() -> None:
    shop = replace(SHOP, horizon_days=30, active_window_days=120, first_day=date(2023, 5, 4))
    assert dbt_vars(shop, [date(2024, 3, 1)]) == {
        "snapshot_dates": ["2024-03-01"],
        "shop_timezone": "Europe/Berlin",
        "active_window_days": 120,
        "horizon_days": 30,
        "history_start_date": "2023-05-04",
        "consent_without_records": "denied",
    }


def test_a_node_that_failed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from orchestration.resources.home import Home

    asked: list[list[str]] = []

    def invoke(_: dbt.Dbt, arguments: list[str]) -> list[dbt.NodeResult]:
        asked.append(arguments)
        return [
            dbt.NodeResult("model.holdfast.good", "success", 0.1, None, ""),
            dbt.NodeResult("model.holdfast.bad", "error", 0.1, None, "no column x"),
            dbt.NodeResult("test.holdfast.broken", "fail", 0.1, 3, "3 rows"),
            dbt.NodeResult("test.holdfast.weak", "warn", 0.1, 1, "1 row"),
        ]

    monkeypatch.setattr(dbt.Dbt, "_invoke", invoke)
    built = dbt.Dbt(Home.create(tmp_path, SHOP), threads=1)
    with pytest.raises(dbt.DbtError) as failed:
        built.build([date(2024, 3, 1), date(2024, 3, 2)], ["+customer_features"])
    told = str(failed.value)
    assert "2024-03-01 .. 2024-03-02" in told
    assert "model.holdfast.bad: no column x" in told
    assert "test.holdfast.broken: 3 rows" in told
    assert "good" not in told
    assert "weak" not in told
    [arguments] = asked
    given_to_dbt = json.loads(arguments[arguments.index("--vars") + 1])
    assert given_to_dbt["snapshot_dates"] == ["2024-03-01", "2024-03-02"]
    assert arguments[arguments.index("--select") + 1] == "+customer_features"


def test_the_manifest_is_made_again_only_when_the_project_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    (project / "target").mkdir()
    model, manifest = project / "models" / "m.sql", project / "target" / "manifest.json"
    model.write_text("select 1")
    made: list[int] = []
    monkeypatch.setattr(dbt, "PROJECT", project)
    monkeypatch.setattr(dbt, "MANIFEST", manifest)
    monkeypatch.setattr(dbt, "_parsed", lambda: made.append(manifest.write_text("{}")))
    assert dbt.prepare_manifest() == manifest
    dbt.prepare_manifest()
    assert len(made) == 1
    later = manifest.stat().st_mtime + 5
    os.utime(model, (later, later))
    dbt.prepare_manifest()
    assert len(made) == 2
    assert dbt.read_manifest() == {}
