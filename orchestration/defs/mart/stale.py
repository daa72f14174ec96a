"""Days that late data restates: found, shown, rebuilt.

What belongs here: which published days were made before rows arrived that they should have seen.
A row counts from its business day on, or from the day on which it arrived where that is later, so
every published day from there on is stale. A row that lands on the day of its arrival finds none.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from orchestration.tables import mart_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestration.resources.platform import Platform

# Of the published tables only these are snapshots: what they say of a day depends on what was
# known by then. The facts follow from the same build.
SNAPSHOTS = (
    "customer_features",
    "customer_status",
    "churn_labels",
    "churn_returns",
    "orders",
    "order_lines",
)


def stale_days(platform: Platform) -> dict[date, int]:
    """Return the published days that a later load restates, each with that load's generation."""
    loads = [
        (generation, date.fromisoformat(first))
        for generation, first in platform.catalog.restatements()
    ]
    stale: dict[date, int] = {}
    for name in SNAPSHOTS:
        for day, generation in _published(platform, name).items():
            later = [load for load, first in loads if load > generation and first <= day]
            if later:
                stale[day] = max(later)
    return stale


def published_days(platform: Platform, name: str, among: Iterable[date]) -> list[date]:
    """Return those of `among` that are published in a mart table, in order."""
    published = _published(platform, name)
    return sorted(day for day in among if day in published)


def _published(platform: Platform, name: str) -> dict[date, int]:
    table = mart_tables()[name]
    platform.lake.days(table)  # completes the index
    return {
        date.fromisoformat(day): publication.generation
        for day, publication in platform.catalog.publications(table.name).items()
    }


def ranges(stale: dict[date, int]) -> Iterator[tuple[date, date, int]]:
    """Yield runs of consecutive days as (first, last, newest load that restates them)."""
    days = sorted(stale)
    start = None
    for number, day in enumerate(days):
        start = start or day
        if number + 1 == len(days) or days[number + 1] != day + timedelta(days=1):
            yield start, day, max(stale[d] for d in days if start <= d <= day)
            start = None
