"""The global holdout, read as the cohort of the quarter's start."""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pytest
from small_shop import campaign, keys, make_shop

from ml.campaigns.assignment import LEDGER_COLUMNS, assign, empty_ledger, in_global_holdout
from ml.campaigns.holdout import (
    CONTACTED,
    HELD_OUT,
    holdout_campaign,
    holdout_ledger,
    quarter_of,
)
from ml.campaigns.outcomes import unit_outcomes
from ml.campaigns.plan import PREDICTIONS, plan_of, read_from
from ml.campaigns.results import read_out

EVE = date(2025, 3, 31)


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [
        (date(2025, 1, 1), date(2025, 1, 1), date(2025, 3, 31)),
        (date(2024, 2, 29), date(2024, 1, 1), date(2024, 3, 31)),
        (date(2025, 6, 30), date(2025, 4, 1), date(2025, 6, 30)),
        (date(2025, 12, 31), date(2025, 10, 1), date(2025, 12, 31)),
    ],
)
def test_quarters(day: date, first: date, last: date) -> None:
    assert quarter_of(day) == (first, last)


def test_the_cohort_is_that_of_the_start_and_the_draw_that_of_the_campaigns() -> None:
    quarter = holdout_campaign(date(2025, 5, 17), 0.1)
    assert (quarter.id, quarter.start_date) == ("global_holdout_2025q2", EVE)
    assert quarter.window_end_date == date(2025, 6, 30)
    ledger = holdout_ledger(quarter, make_shop(3_000, EVE).status)
    assert list(ledger.columns) == LEDGER_COLUMNS
    held = set(ledger.loc[ledger["arm"] == HELD_OUT, "customer_key"])
    for day in (date(2025, 4, 1), date(2025, 6, 30)):
        out = in_global_holdout(ledger["customer_key"], day, 0.1)
        assert held == set(ledger.loc[out, "customer_key"]), "constant within the quarter"
        treated = assign(
            campaign(start_date=day, global_holdout=0.1, audience=[]), keys(3_000), day,
            empty_ledger(),
        )  # fmt: skip
        assert held.isdisjoint(treated["customer_key"]), "no campaign reaches them"
    other = holdout_ledger(holdout_campaign(date(2025, 7, 1), 0.1), make_shop(3_000, EVE).status)
    assert held != set(other.loc[other["arm"] == HELD_OUT, "customer_key"]), "rotated"


def test_what_all_campaigns_earned_is_read_at_the_end_of_the_quarter() -> None:
    quarter = holdout_campaign(EVE + timedelta(days=1), 0.2)
    ledger = holdout_ledger(quarter, make_shop(8_000, EVE).status)
    contacted = ledger.loc[ledger["arm"] == CONTACTED, "customer_key"].iloc[::3]
    held = ledger.loc[ledger["arm"] == HELD_OUT, "customer_key"].iloc[::4]
    orders = pd.DataFrame(
        {
            "customer_key": [*contacted, *held],
            # over sixty days: an effect that one day carries is looked at
            "ordered_date": [
                date(2025, 4, 15) + timedelta(days=i % 60)
                for i in range(len(contacted) + len(held))
            ],
            "revenue_amount": 20.0,
            "margin_amount": 8.0,
            "is_wholly_cancelled": False,
        }
    )
    units = unit_outcomes(
        ledger, orders, quarter.window_end_date, window_days=quarter.outcome.window_days,
        settle_days=30, contact_costs=dict.fromkeys(quarter.weights, 0.0),
    )  # fmt: skip
    scores = ledger[["customer_key"]].assign(snapshot_date=EVE, **dict.fromkeys(PREDICTIONS))
    rows, outcomes, usable = read_from(ledger, units, scores)
    read = read_out(plan_of(quarter, usable), rows, outcomes, quarter.window_end_date)
    row = read[read["metric"] == "retained"].iloc[0]
    assert row["status"] in ("ok", "underpowered"), "one point is more than 8,000 can see"
    assert row["effect"] == pytest.approx(1 / 3 - 1 / 4, abs=0.003)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_holdout_holds_somebody_out(share: float) -> None:
    with pytest.raises(ValueError, match="holds nobody out"):
        holdout_campaign(EVE, share)
