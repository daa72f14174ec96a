"""Time: nothing known at or after the end of a day may move that day.

Belongs here: properties over whole worlds. Each example changes thousands of rows and outcomes at
once that were not known yet; one that leaked would show in the exact comparison of every mart.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mart_project import Dbt, assert_same_rows, on_day
from perturb import change_the_future
from raw_world import KEYS, World, finish, make_world

D = date(2025, 2, 1)
few = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def full(dbt: Dbt, world: World) -> dict[str, pd.DataFrame]:
    """The marts of the small world on D, in one thread and in the order of the files."""
    return dbt.run(world)


@few
@given(seed=st.integers(0, 2**16), timezone=st.sampled_from(["Europe/Berlin", "Pacific/Auckland"]))
def test_the_future_changes_nothing(dbt: Dbt, seed: int, timezone: str) -> None:
    world = make_world(seed, late_share=0.3, redelivered_share=0.3, timezone=timezone)
    other, touched = change_the_future(world, D, seed + 1, timezone)
    assert min(touched[table] for table in ("orders", "order_items", "events", "consents")) > 5
    assert touched["orders.delivered_at"] > 0
    assert touched["order_items.cancelled_at"] > 0
    before = dbt.run(world, shop_timezone=timezone)
    after = dbt.run(other, shop_timezone=timezone)
    assert len(before["customer_features"]) > 10
    assert len(before["churn_labels"]) > 10
    assert_same_rows(before, after)


@pytest.mark.parametrize(
    ("model", "right", "wrong"),
    [
        (
            "int_orders",
            "coalesce(orders.cancelled_date <= periods.known_date, false)",
            "orders.cancelled_date is not null",
        ),
        ("int_customer_engagement", "known_date <= bounds.last_date", "true"),
        ("int_customer_orders", "age_1 >= 0", "true"),
        (
            "int_order_lines",
            "coalesce(line_cancelled_date <= state_date, false)",
            "line_cancelled_date is not null",
        ),
        ("int_customer_service", "age_1 >= 0", "true"),
        ("int_customer_service", "age_0 >= 0", "true"),
        ("int_customer_contacts", "age_1 >= 0", "true"),
        ("churn_labels", "orders.known_date <= population.matured_date and", ""),
        (
            "stg_events",
            "where coalesce(",
            "where delivered._superseded_date is null and coalesce(",
        ),
        (
            "stg_customers",
            "greatest(delivered.occurred_date, delivered.arrived_date)",
            "delivered.occurred_date",
        ),
    ],
)
def test_a_leak_would_be_noticed(dbt: Dbt, model: str, right: str, wrong: str) -> None:
    """Each way to look ahead makes the comparison above fail."""
    world = make_world(5, late_share=0.3, redelivered_share=0.3, customers=400)
    other, _ = change_the_future(world, D, 10, "Europe/Berlin")
    faults = {model: {right: wrong}}
    with pytest.raises(AssertionError, match="are different"):
        assert_same_rows(dbt.run(world, faults=faults), dbt.run(other, faults=faults))


def test_the_future_does_change_later_days(dbt: Dbt) -> None:
    """The changes above are real: half a year later every mart shows them."""
    world = make_world(3, late_share=0.3, redelivered_share=0.3)
    other, _ = change_the_future(world, D, 4, "Europe/Berlin")
    days = [(D + timedelta(days=i)).isoformat() for i in range(1, 60)]
    before, after = dbt.run(world, snapshot_dates=days), dbt.run(other, snapshot_dates=days)
    for name, frame in before.items():
        assert not frame.equals(after[name]), name


@pytest.mark.parametrize("table", ["orders", "order_items", "events", "support_tickets", "reviews"])
def test_a_row_counts_from_the_day_on_which_it_was_known(
    dbt: Dbt, world: World, table: str
) -> None:
    """A row that arrives a day after D is absent on D and there on D + 1."""
    late = {name: frame.copy() for name, frame in world.items()}
    frame = late[table]
    occurred = frame["occurred_date"].fillna(pd.Timestamp("2024-01-01"))
    once = ~frame.duplicated(KEYS[table], keep=False)
    picked = (occurred <= pd.Timestamp(D)) & once
    frame.loc[picked, "arrived_at"] = pd.Timestamp(D) + pd.Timedelta(days=1, hours=12)
    finish(late, "Europe/Berlin")
    dropped = {**world, table: frame[~picked]}
    days = [D.isoformat(), (D + timedelta(days=1)).isoformat()]
    arrived, never = dbt.run(late, snapshot_dates=days), dbt.run(dropped, snapshot_dates=days)
    daily = ("customer_features", "customer_status", "churn_labels")
    assert_same_rows(on_day(arrived, D), on_day(never, D), daily)
    later = D + timedelta(days=1)
    assert not on_day(arrived, later)["customer_features"].equals(
        on_day(never, later)["customer_features"]
    )


def test_the_horizon_changes_labels_only(
    dbt: Dbt, world: World, full: dict[str, pd.DataFrame]
) -> None:
    short = dbt.run(world, horizon_days=45)
    labelled = ("churn_labels", "churn_returns")
    assert_same_rows(full, short, [name for name in full if name not in labelled])
    labels = short["churn_labels"]
    assert set(labels["horizon_days"]) == {45}
    assert set(labels["snapshot_date"]) == {D - timedelta(days=45)}
    assert not labels.equals(full["churn_labels"])


def test_one_day_alone_is_the_day_within_a_range(dbt: Dbt) -> None:
    world = make_world(21, late_share=0.3, redelivered_share=0.3)
    days = [D - timedelta(days=i) for i in (0, 1, 2, 30, 90, 91, 200)]
    together = dbt.run(world, snapshot_dates=[day.isoformat() for day in days])
    for day in (days[0], days[3], days[6]):
        assert_same_rows(dbt.run(world, snapshot_dates=[day.isoformat()]), on_day(together, day))


@pytest.mark.parametrize(("threads", "shuffle_seed"), [(1, 1), (4, None), (4, 2)])
def test_neither_threads_nor_the_order_of_rows_show(
    dbt: Dbt,
    world: World,
    full: dict[str, pd.DataFrame],
    threads: int,
    shuffle_seed: int | None,
) -> None:
    assert_same_rows(full, dbt.run(world, threads=threads, shuffle_seed=shuffle_seed))


@pytest.mark.parametrize(
    "table",
    [
        "consents",
        "products",
        "returns",
        "coupons",
        "events",
        "support_tickets",
        "reviews",
        "deliveries",
    ],
)
def test_a_missing_optional_table_empties_its_features_only(
    dbt: Dbt, world: World, full: dict[str, pd.DataFrame], table: str
) -> None:
    without = dbt.run({name: frame for name, frame in world.items() if name != table})
    features = without["customer_features"]
    assert list(features["customer_key"]) == list(full["customer_features"]["customer_key"])
    required = features[
        [c for c in features if c.startswith(("order_count", "revenue_amount", "event_count"))]
    ]
    assert not required.isna().any().any()
    moved = {c for c in features if not features[c].equals(full["customer_features"][c])}
    words = {
        "consents": (),
        "products": ("margin", "categor", "product_count"),
        "returns": ("return",),
        "coupons": ("coupon",),
        "events": ("event", "view", "cart", "session", "email"),
        "support_tickets": ("ticket", "csat"),
        "reviews": ("review", "rating"),
        "deliveries": ("contact", "email"),
    }[table]
    assert all(any(word in column for word in words) for column in moved), moved
    assert bool(moved) == bool(words)
    if table not in ("products", "deliveries"):
        assert_same_rows(full, without, ["churn_labels"])


def test_only_customers_orders_and_items_are_needed(dbt: Dbt, world: World) -> None:
    bare = {name: world[name] for name in ("customers", "orders", "order_items")}
    marts = dbt.run(bare)
    features = marts["customer_features"]
    assert len(features) > 10
    assert features["margin_amount_365d"].isna().all()
    assert not marts["customer_status"]["has_email_consent"].any()
    assert not marts["churn_labels"]["was_contacted"].any()
    empty = dbt.run({})
    assert all(frame.empty for frame in empty.values())


def one_order(ordered_at: str, **more: Any) -> World:
    """A world of one customer and one order of one line."""
    order = {"order_id": "o1", "customer_key": "a" * 32, "ordered_at": pd.Timestamp(ordered_at)}
    for column in ("delivered_at", "cancelled_at", "arrived_at"):
        order[column] = pd.Timestamp(more[column]) if column in more else pd.NaT
    nothing = {"arrived_at": pd.NaT, "_file_id": 1, "_is_current": True}
    item = {
        "order_id": "o1",
        "line_number": 1,
        "product_id": "p",
        "quantity": 1,
        "unit_price": 10,
        "cancelled_quantity": 0,
        "cancelled_at": pd.NaT,
    }
    return {
        "customers": pd.DataFrame(
            [
                {
                    "customer_key": "a" * 32,
                    "created_at": pd.NaT,
                    "has_email": True,
                    "has_phone": False,
                    "account_type": None,
                    "country": None,
                    "birth_year": None,
                    "gender": None,
                    "acquisition_channel": None,
                    **nothing,
                }
            ]
        ),
        "orders": pd.DataFrame(
            [
                {
                    **nothing,
                    **order,
                    "discount_amount": None,
                    "shipping_amount": None,
                    "channel": None,
                }
            ]
        ),
        "order_items": pd.DataFrame([{**item, **nothing}]),
    }


@pytest.mark.parametrize(
    ("timezone", "ordered_at", "day"),
    [
        # Clocks go forward at 02:00 on 30 March: the day has 23 hours and ends at 22:00 UTC.
        ("Europe/Berlin", "2025-03-29 22:59:59", date(2025, 3, 29)),
        ("Europe/Berlin", "2025-03-29 23:00:00", date(2025, 3, 30)),
        ("Europe/Berlin", "2025-03-30 21:59:59", date(2025, 3, 30)),
        ("Europe/Berlin", "2025-03-30 22:00:00", date(2025, 3, 31)),
        # And back on 26 October: 25 hours, to 23:00 UTC.
        ("Europe/Berlin", "2025-10-25 22:00:00", date(2025, 10, 26)),
        ("Europe/Berlin", "2025-10-26 22:59:59", date(2025, 10, 26)),
        ("Europe/Berlin", "2025-10-26 23:00:00", date(2025, 10, 27)),
        # Midnight itself does not exist in Santiago on 7 September 2025: the day begins at 01:00.
        ("America/Santiago", "2025-09-07 03:59:59", date(2025, 9, 6)),
        ("America/Santiago", "2025-09-07 04:00:00", date(2025, 9, 7)),
        ("UTC", "2025-01-31 23:59:59.999999", date(2025, 1, 31)),
    ],
)
def test_a_day_is_the_shops(dbt: Dbt, timezone: str, ordered_at: str, day: date) -> None:
    """The loader's days and dbt's days of outcomes are the same, whatever the clocks do."""
    world = one_order(ordered_at, cancelled_at=ordered_at)
    finish(world, timezone)
    marts = dbt.run(
        world,
        shop_timezone=timezone,
        snapshot_dates=[(day + timedelta(days=i)).isoformat() for i in (-1, 0, 1)],
    )
    assert list(marts["orders"]["snapshot_date"]) == [day]
    assert list(marts["orders"]["ordered_date"]) == [day]
    assert list(marts["orders"]["is_wholly_cancelled"]) == [True]


@pytest.mark.parametrize(
    ("arrived_at", "first_day"),
    [(None, 0), ("2025-01-12 23:30:00", 3), ("2025-01-08 12:00:00", 0)],
)
def test_an_order_exists_from_the_day_on_which_it_was_known(
    dbt: Dbt, arrived_at: str | None, first_day: int
) -> None:
    """23:30 UTC on the 12th is the 13th in Berlin; what arrives early waits for its day."""
    more = {"arrived_at": arrived_at} if arrived_at else {}
    world = one_order("2025-01-10 12:00:00", cancelled_at="2025-01-20 12:00:00", **more)
    finish(world, "Europe/Berlin")
    days = [date(2025, 1, 10) + timedelta(days=i) for i in range(12)]
    marts = dbt.run(world, snapshot_dates=[day.isoformat() for day in days])
    assert list(marts["customer_features"]["snapshot_date"]) == days[first_day:10]
    assert list(marts["orders"]["snapshot_date"]) == [days[first_day], days[10]]
    assert [str(x) for x in marts["orders"]["revenue_amount"]] == ["10.0000", "0.0000"]
    status = marts["customer_status"].set_index("snapshot_date")["lifecycle"]
    assert [status.get(day) for day in days] == [
        "active" if first_day <= i < 10 else "prospect" for i in range(12)
    ]
