"""Which published days late data restates, and which runs build them again."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.defs.history import history_days
from orchestration.defs.mart.stale import SNAPSHOTS, ranges, stale_days
from orchestration.resources.catalog import Publication
from orchestration.resources.home import Home, Shop
from orchestration.resources.platform import Platform
from orchestration.tables import mart_tables

DAYS = st.dates(date(2024, 1, 1), date(2024, 3, 1))


@given(st.dictionaries(DAYS, st.integers(1, 9), max_size=40))
def test_ranges_cover_the_days_and_no_others(stale: dict[date, int]) -> None:
    found = list(ranges(stale))
    covered = [
        first + timedelta(days=n)
        for first, last, _ in found
        for n in range((last - first).days + 1)
    ]
    assert covered == sorted(stale)
    for (_, last, _), (first, _, _) in pairwise(found):
        assert first - last > timedelta(days=1)  # neighbours would have been one range
    for first, last, load in found:
        assert load == max(n for day, n in stale.items() if first <= day <= last)


def test_a_range_is_one_run() -> None:
    stale = dict.fromkeys((date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)), 4)
    stale[date(2024, 3, 3)] = 5
    assert list(ranges(stale)) == [
        (date(2024, 2, 28), date(2024, 3, 1), 4),
        (date(2024, 3, 3), date(2024, 3, 3), 5),
    ]


@pytest.fixture
def platform(home: Home) -> Platform:
    return Platform(root=str(home.root))


def publish(platform: Platform, table: str, *days: int, generation: int) -> None:
    for day in days:
        platform.catalog.index(
            [Publication(table, f"2024-03-{day:02d}", -1, "hash", 1, generation=generation)]
        )


def days_of(platform: Platform) -> dict[int, int]:
    return {day.day: load for day, load in stale_days(platform).items()}


def test_days_from_the_restated_one_on_are_stale(platform: Platform) -> None:
    publish(platform, "customer_features", 1, 2, 3, 4, generation=1)
    platform.catalog.note_loads([(1, "orders/1.csv", None), (2, "orders/2.csv", "2024-03-03")])
    assert days_of(platform) == {3: 2, 4: 2}


def test_a_day_published_after_the_load_is_not_stale(platform: Platform) -> None:
    publish(platform, "customer_features", 1, 2, generation=1)
    publish(platform, "customer_features", 3, generation=2)
    platform.catalog.note_loads([(2, "orders/2.csv", "2024-03-02")])
    assert days_of(platform) == {2: 2}
    publish(platform, "customer_features", 2, generation=2)
    assert days_of(platform) == {}


def test_late_files_are_noticed_after_the_warehouse_was_made_again(platform: Platform) -> None:
    platform.catalog.note_loads([(1, "orders/1.csv", "2024-03-01"), (2, "orders/2.csv", None)])
    publish(platform, "customer_features", 2, 3, generation=2)
    from orchestration.defs.sources.assets import take_in

    landing = platform.home.landing
    for table, text in {
        "customers": "customer_id,created_at\nann,2024-03-01\n",
        "orders": "order_id,customer_id,ordered_at\no1,ann,2024-03-03\n",
        "order_items": "order_id,line_number,product_id,quantity,unit_price\no1,1,p1,1,1\n",
    }.items():
        (landing / table).mkdir()
        (landing / table / "1.csv").write_text(text)
    taken = take_in(platform, "run", lambda text: None)
    assert taken.generation == 5
    assert set(days_of(platform)) == {2, 3}


def test_the_newest_of_several_loads_counts(platform: Platform) -> None:
    publish(platform, "customer_status", 1, 2, 3, generation=1)
    platform.catalog.note_loads([(2, "a", "2024-03-01"), (3, "b", "2024-03-03")])
    assert days_of(platform) == {1: 2, 2: 2, 3: 3}


def test_a_load_that_restates_nothing_makes_nothing_stale(platform: Platform) -> None:
    publish(platform, "orders", 1, 2, 3, generation=1)
    platform.catalog.note_loads([(2, "events/2.csv", None)])
    assert days_of(platform) == {}


def test_one_table_that_was_left_behind_is_enough(platform: Platform) -> None:
    publish(platform, "customer_features", 1, generation=2)
    publish(platform, "churn_labels", 1, generation=1)
    platform.catalog.note_loads([(2, "a", "2024-03-01")])
    assert days_of(platform) == {1: 2}


def test_the_snapshots_are_tables_of_the_mart() -> None:
    assert set(SNAPSHOTS) <= set(mart_tables())


@given(
    end=st.integers(0, 900),
    every=st.integers(1, 60),
    horizon=st.integers(1, 120),
    window=st.integers(1, 365),
)
def test_the_days_a_home_is_trained_on(end: int, every: int, horizon: int, window: int) -> None:
    shop = Shop("UTC", "EUR", date(2022, 1, 1), None, window, horizon)
    last = shop.first_day + timedelta(days=end)
    snapshots, matured = history_days(shop, last, every)
    labelled, recent = snapshots[: len(matured)], snapshots[len(matured) :]
    assert all(m - s == timedelta(days=horizon) for s, m in zip(labelled, matured, strict=True))
    assert len(recent) == (horizon // every if matured else 0)  # up to the last day, unlabelled
    assert not recent or recent[-1] <= last
    assert all(b - a == timedelta(days=every) for a, b in pairwise(snapshots))
    if snapshots:
        assert matured[-1] == last  # nothing that matures later, nothing left unused
        assert snapshots[0] >= shop.first_day + timedelta(days=window // 2)
    else:
        assert end < horizon + window // 2
