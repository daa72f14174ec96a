"""One truth, three paths: the oracle, the SQL of one day and the SQL of a range say the same.

Belongs here: the property over random worlds, days and time zones, to the last digit between the
two fast paths; and the proof that it can fail, on SQL that is wrong by one day, one instant or one
version. Worlds hold late rows with and without an arrival time, rows delivered twice, instants on
the shop's midnight, and days of 23 and 25 hours.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mart_project import Dbt, assert_same_rows, on_day
from oracle import Knowledge
from raw_world import World, make_world
from test_oracle import assert_row

FIRST, LAST = date(2024, 2, 1), date(2025, 6, 30)
TIMEZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Pacific/Auckland",
    "UTC",
)
DAILY = ("customer_features", "customer_status", "churn_labels")

# Without shrinking: a world is made from a seed, and a smaller seed is no simpler world.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

requested = st.builds(
    lambda first, length, step: [
        day for n in range(length) if (day := first + timedelta(days=n * step)) <= LAST
    ],
    st.dates(FIRST, LAST),
    st.integers(2, 40),
    st.sampled_from([1, 1, 1, 3, 14]),
)


def compare(dbt: Dbt, seed: int, days: list[date], late: float, timezone: str) -> None:
    """Compare the three paths on a world and one day of a range: all rows, three customers by hand.

    The first day, one in the middle and the last are as likely; the world's seed tells which.
    """
    world = make_world(
        seed, customers=12, late_share=late, redelivered_share=late, timezone=timezone
    )
    days = sorted({*days, days[0] + timedelta(days=1)})  # a range, whatever was drawn
    day = (days[0], days[len(days) // 2], days[-1])[seed % 3]
    with dbt.loaded(world) as warehouse:
        many = dbt.build(
            warehouse, snapshot_dates=[str(day) for day in days], shop_timezone=timezone
        )
        one = dbt.build(warehouse, snapshot_dates=[str(day)], shop_timezone=timezone)
    assert_same_rows(on_day(many, day), one)
    by_hand(world, one["customer_features"], day, timezone, at_most=3)


def by_hand(world: World, features: pd.DataFrame, day: date, timezone: str, at_most: int) -> None:
    """Compare customers of one day with the oracle."""
    known = Knowledge(world, day, timezone=timezone)
    assert list(features["customer_key"]) == known.population()
    for _, row in features.head(at_most).iterrows():
        key = str(row["customer_key"])
        assert_row(row, known.features(key), f"{key} on {day}")


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=PHASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**20),
    days=requested,
    late=st.sampled_from([0.0, 0.1, 0.4]),
    timezone=st.sampled_from(TIMEZONES[:2]),
)
def test_three_paths_one_truth(
    dbt: Dbt, seed: int, days: list[date], late: float, timezone: str
) -> None:
    compare(dbt, seed, days, late, timezone)


@pytest.mark.slow
@pytest.mark.parametrize("timezone", TIMEZONES)
@settings(
    max_examples=250,  # 2,000 over all time zones
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**31),
    days=requested,
    late=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_three_paths_one_truth_on_many_worlds(
    dbt: Dbt, timezone: str, seed: int, days: list[date], late: float
) -> None:
    compare(dbt, seed, days, late, timezone)


def shifted(clock: str, window: int, by: int) -> dict[str, str]:
    """A window that is longer by some days: in the words of a range, of one day, and its reach."""
    return {
        f"({clock} + {window})": f"({clock} + {window + by})",
        f"age_0 < {window}": f"age_0 < {window + by}",
        f" + -{window})": f" + -{window + by})",
    }


# Of a model, pieces of SQL and what is wrong in their place.
MUTATIONS: list[tuple[str, dict[str, str]]] = [
    *(
        ("int_customer_orders", shifted("ordered_date", window, by))
        for window in (30, 90, 180, 365)
        for by in (-1, 1)
    ),
    *(
        ("int_customer_engagement", shifted("occurred_date", window, by))
        for window in (7, 30, 90)
        for by in (-1, 1)
    ),
    ("int_customer_contacts", shifted("sent_date", 30, 1)),
    # all days the same bit
    ("int_customer_engagement", {"<< (age_0 - 0)": "<< (0)"}),
    # days that are in reach, not read
    ("int_customer_engagement", {" + -90)": " + -80)"}),
    # facts of the day itself left out
    ("int_customer_orders", {"known_date <= bounds.last_date": "known_date < bounds.last_date"}),
    # the end instant: midnight is the next day's
    (
        "stg_orders",
        {
            "timezone('UTC', delivered_at)": (
                "timezone('UTC', delivered_at - interval 1 microsecond)"
            )
        },
    ),
    # the final fate of an order
    (
        "int_orders",
        {"orders.cancelled_date <= periods.known_date": "orders.cancelled_date is not null"},
    ),
    ("int_order_lines", {"line_cancelled_date <= state_date": "line_cancelled_date is not null"}),
    # landing order instead of the order of events
    (
        "int_customer_service",
        {"order by rated.created_at desc": "order by rated.enter_date desc"},
    ),
    # the day of the event instead of the day on which it arrived
    *(
        (
            name,
            {
                "greatest(delivered.occurred_date, delivered.arrived_date)": (
                    "delivered.occurred_date"
                )
            },
        )
        for name in ("stg_orders", "stg_events", "stg_reviews")
    ),
    # the version that won in the end, whatever was known then
    (
        "stg_orders",
        {"where coalesce(": "where delivered._superseded_date is null and coalesce("},
    ),
]


@cache
def at_midnight() -> World:
    """A world in which orders are delivered on the very instant that begins a day."""
    world = make_world(5, customers=40, late_share=0.3, redelivered_share=0.3, timezone="UTC")
    orders = world["orders"]
    orders["delivered_at"] = orders["delivered_at"].dt.floor("D")
    return world


@pytest.mark.parametrize(
    ("model", "pieces"), MUTATIONS, ids=[f"{m}-{max(p.values())[:40]}" for m, p in MUTATIONS]
)
def test_wrong_sql_would_be_noticed(dbt: Dbt, model: str, pieces: dict[str, str]) -> None:
    """In the SQL of one day and in that of a range, by the comparison with the oracle."""
    world = at_midnight()
    days = [date(2025, 2, 20) - timedelta(days=n) for n in range(14)]
    faults = {model: pieces}

    def run(*days: date) -> dict[str, pd.DataFrame]:
        texts = [str(day) for day in days]
        return dbt.build(warehouse, faults, snapshot_dates=texts, shop_timezone="UTC")

    def is_caught(features: pd.DataFrame, day: date) -> bool:
        try:
            by_hand(world, features, day, "UTC", at_most=len(features))
        except AssertionError:
            return True
        return False

    with dbt.loaded(world) as warehouse:
        many = run(*days)
        caught = [day for day in days if is_caught(on_day(many, day)["customer_features"], day)]
        assert caught, "the SQL of a range hides it"
        # What is wrong on a day of the range is wrong on that day alone, of all rows.
        assert any(is_caught(run(day)["customer_features"], day) for day in caught), (
            "the SQL of one day hides it"
        )


def test_right_sql_is_not_noticed(dbt: Dbt) -> None:
    """The control: what the mutations are made of passes."""
    world = at_midnight()
    days = [date(2025, 2, 20) - timedelta(days=n) for n in range(3)]
    marts = dbt.run(world, snapshot_dates=[str(day) for day in days], shop_timezone="UTC")
    for day in days:
        by_hand(world, on_day(marts, day)["customer_features"], day, "UTC", at_most=40)
