"""The daily table of value: everybody of the day, or nobody and why."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from orchestration.defs.daily import Made, Run, go_through
from orchestration.defs.history import HistoryConfig, _wanted
from orchestration.defs.models.assets import contactable
from orchestration.defs.scores.assets import value_of
from orchestration.resources.platform import Platform
from orchestration.tables import CUSTOMER_VALUE, mart_tables

if TYPE_CHECKING:
    from orchestration.resources.home import Home

DAY = date(2024, 3, 5)


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A home in which customer_status of DAY is published: a prospect, one buyer, one regular."""
    monkeypatch.setenv("HOLDFAST_SECRET", "a-simulated-shop-has-no-secrets")
    platform = Platform(root=str(home.root))
    run = Run(platform, [DAY], "run", lambda text: None)
    table = mart_tables()["customer_status"]
    plain = {
        "string": None,
        "date": None,
        "boolean": False,
        "integer": 0,
        "double": None,
        "decimal": 0.0,
    }
    rows: list[dict[str, Any]] = [
        {
            "lifecycle": "prospect",
            "days_since_created": 3,
            "is_margin_known": True,
            "has_post_consent": True,
        },
        _buyer(silent=40, tenure=40, orders=1, gap=None),
        _buyer(silent=2, tenure=202, orders=11, gap=20.0),
    ]
    frame = pd.DataFrame(
        {
            column.name: [row.get(column.name, plain.get(column.type, 0)) for row in rows]
            for column in table.columns
        }
    ).assign(
        snapshot_date=DAY, account_type="consumer", customer_key=[f"{i:032x}" for i in (2, 1, 0)]
    )
    for name in ("days_since_created", "days_since_first_order", "days_since_last_order"):
        frame[name] = pd.array([row.get(name) for row in rows], dtype="Int64")
    done = go_through(run, table, lambda r, d: Made(frame, generation=1))
    assert not done.bad, done.bad
    return run


def _buyer(silent: int, tenure: int, orders: int, gap: float | None) -> dict[str, Any]:
    inside = {f"order_count_{w}d": orders if silent < w else 0 for w in (30, 90, 365)}
    return {
        "lifecycle": "active",
        "first_order_date": DAY - timedelta(days=tenure),
        "last_order_date": DAY - timedelta(days=silent),
        "days_since_first_order": tenure,
        "days_since_last_order": silent,
        "gap_mean_days": gap,
        "order_count_lifetime": orders,
        "revenue_amount_lifetime": 20.0 * orders,
        "revenue_amount_365d": 20.0 * orders,
        "margin_amount_365d": 8.0 * orders,
        "is_margin_known": True,
        **inside,
    }


def _register(run: Run, last: date) -> str:
    from ml.buy_till_you_die import PurchasePopulation, SpendPopulation
    from ml.customer_value import CustomerValueModel, Purchases
    from ml.value_training import ValueResult

    purchases = Purchases(
        PurchasePopulation("mbg", 0.5, 60.0, 0.9, 1.6), SpendPopulation(6.0, 4.0, 10.0), 1.0
    )
    model = CustomerValueModel(purchases, "buy_till_you_die", {}, {}, {}, {}, 0.4, ())
    result = ValueResult(
        as_of=last,
        model=model,
        recipe="buy_till_you_die",
        purchase_recipes={},
        last_matured_date=last,
        training_row_count=3,
        is_compared=False,
        reason="histories alone",
        metrics={},
        intervals={},
        deciles={},
        coverages=pd.DataFrame(),
        origins={},
        data_digest="ab",
    )
    return str(run.platform.models.register_value(result, {}).version)


def test_without_a_model_the_day_is_empty_and_says_so(run: Run) -> None:
    made = value_of(run, DAY)
    assert len(made.frame) == 0
    assert "no model of value serves" in made.metadata["refused"]
    done = go_through(run, CUSTOMER_VALUE, value_of)
    assert not done.bad
    assert run.platform.lake.require(CUSTOMER_VALUE, DAY).row_count == 0


def test_everybody_known_has_a_row_that_passes_the_gate(run: Run) -> None:
    version = _register(run, DAY - timedelta(days=1))
    done = go_through(run, CUSTOMER_VALUE, value_of)
    assert not done.bad, done.bad
    found = run.platform.lake.read_frame(CUSTOMER_VALUE, [DAY], money_as_float=True)
    assert found["lifecycle"].tolist() == ["active", "active", "prospect"]
    assert found["expected_revenue_amount_90d"].isna().tolist() == [False, False, True]
    regular, once = found["expected_revenue_amount_90d"].iloc[:2]
    assert regular > once > 0
    assert set(found["model_version"]) == {version}
    assert found["is_extrapolated_365d"].all()
    assert not found["is_rescore"].any()


def test_a_day_made_again_keeps_its_model_unless_told_to_rescore(run: Run) -> None:
    first = _register(run, DAY - timedelta(days=1))
    go_through(run, CUSTOMER_VALUE, value_of)
    second = _register(run, DAY + timedelta(days=9))
    again = Run(run.platform, [DAY], "again", lambda text: None)
    assert value_of(again, DAY).model_version == first
    told = Run(run.platform, [DAY], "told", lambda text: None, {"holdfast/rescore": "true"})
    made = value_of(told, DAY)
    assert made.model_version == second
    assert isinstance(made.frame, pd.DataFrame)
    assert made.frame["is_rescore"].all()


def test_the_history_builds_what_a_training_of_value_reads(home: Home) -> None:
    from dataclasses import replace

    from ml.value_training import days_needed

    shop = replace(home.shop, first_day=date(2023, 1, 1), last_day=date(2024, 3, 10))
    platform = Platform(root=str(home.root))
    platform.home.__dict__["shop"] = shop
    wanted = _wanted(platform, HistoryConfig(end="2024-03-10"))
    assert wanted["customer_status"] == days_needed(date(2024, 3, 10), date(2023, 4, 1))
    assert wanted["customer_status"][-1] == date(2024, 3, 10)


def test_who_may_be_contacted_is_told_by_the_last_status(run: Run) -> None:
    keys = pd.Series([f"{i:032x}" for i in (2, 1, 0, 9)])  # the last is in no status
    frame = pd.DataFrame({"customer_key": keys})
    found = contactable(run.platform, DAY + timedelta(days=3), frame)
    assert found["is_reachable"].iloc[:3].tolist() == [True, False, False]
    assert pd.isna(found["is_reachable"].iloc[3])
    assert not found["is_eligible"].iloc[1:3].any()  # without consent nobody is
    before = contactable(run.platform, DAY - timedelta(days=1), frame)
    assert all(values.isna().all() for values in before.values())
