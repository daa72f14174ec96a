"""Days that late data restates: found, shown, rebuilt.

What belongs here: which published days were made before rows arrived that they should have seen.
A row with an arrival time restates nothing (it counts from the day on which it arrived); a row
without one counts from its business day on, so every published day from there on is stale.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from orchestration.tables import mart_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from orchestration.resources.platform import Platform

# Of the published tables only these are snapshots: what they say of a day depends on what was
# known by then. The facts follow from the same build.
SNAPSHOTS = ("customer_features", "customer_status", "churn_labels", "orders", "order_lines")


def stale_days(platform: Platform) -> dict[date, int]:
    """Return the published days that a later load restates, each with that load's sequence.

    Call it under the pool: it reads the warehouse.
    """
    with platform.warehouse.connect() as connection:
        loads = connection.execute(
            "select load_sequence, restated_from_date from ops.load_files "
            "where restated_from_date is not null order by load_sequence"
        ).fetchall()
    stale: dict[date, int] = {}
    for name in SNAPSHOTS:
        table = mart_tables()[name]
        for day in platform.lake.days(table):
            publication = platform.lake.publication(table, day)
            assert publication is not None
            later = [
                sequence
                for sequence, first in loads
                if sequence > publication.generation and first <= day
            ]
            if later:
                stale[day] = max(later)
    return stale


def ranges(stale: dict[date, int]) -> Iterator[tuple[date, date, int]]:
    """Yield runs of consecutive days as (first, last, newest load that restates them)."""
    days = sorted(stale)
    start = None
    for number, day in enumerate(days):
        start = start or day
        if number + 1 == len(days) or days[number + 1] != day + timedelta(days=1):
            yield start, day, max(stale[d] for d in days if start <= d <= day)
            start = None
