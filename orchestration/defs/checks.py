"""Checks that look across assets: what no single partition can know of itself.

What belongs here: staleness of published days, and that rows, customers and money agree between
the stages. What one partition must look like is audited before it is published (`daily.py`).
"""

from typing import TYPE_CHECKING

import dagster as dg

from orchestration.defs.daily import lake_key
from orchestration.resources.platform import Platform
from orchestration.tables import CHURN_SCORES, CUSTOMER_SEGMENTS, CUSTOMER_VALUE, mart_tables

if TYPE_CHECKING:
    from datetime import date


def platform_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks."""

    @dg.asset_check(
        asset=lake_key("customer_features"),
        name="no_stale_days",
        description="No published day was made before late rows landed that it should have seen.",
    )
    def no_stale_days(platform: Platform) -> dg.AssetCheckResult:
        from orchestration.defs.mart.stale import stale_days

        stale = sorted(stale_days(platform))
        return dg.AssetCheckResult(
            passed=not stale,
            severity=dg.AssetCheckSeverity.WARN,
            description=(
                f"{len(stale)} days, {stale[0]} .. {stale[-1]}, were restated by late data; "
                "materialise them again, or run `python -m orchestration rebuild-stale`"
                if stale
                else None
            ),
            metadata={"stale_days": [day.isoformat() for day in stale]},
        )

    @dg.asset_check(
        asset=lake_key("churn_scores"),
        name="reconciles",
        description="Scores, segments, status and features count the same customers each day.",
    )
    def reconciles(platform: Platform) -> dg.AssetCheckResult:
        lake = platform.lake
        differences = {}
        for day in lake.days(CHURN_SCORES)[-31:]:
            problem = disagreement(platform, day)
            if problem:
                differences[day.isoformat()] = problem
        return dg.AssetCheckResult(passed=not differences, metadata={"differences": differences})

    return [no_stale_days, reconciles]


def disagreement(platform: Platform, day: "date") -> str | None:
    """Return how the published tables of `day` disagree about customers, or None.

    Scores cover the population, which is what customer_status calls active; segments cover
    everybody in customer_status, and so does value, where a model of it serves.
    """
    lake, tables = platform.lake, mart_tables()
    counts = {}
    for table in (
        CHURN_SCORES,
        CUSTOMER_SEGMENTS,
        *map(tables.get, ("customer_features", "customer_status")),
    ):
        assert table is not None
        publication = lake.publication(table, day)
        if publication is None:
            return f"{table.name} is not published"
        counts[table.name] = publication.row_count
    active = (
        lake.read_frame(tables["customer_status"], [day], ["lifecycle"])["lifecycle"] == "active"
    ).sum()
    if not counts["churn_scores"] == counts["customer_features"] == active:
        return (
            f"{counts['churn_scores']} scores, {counts['customer_features']} feature rows, "
            f"{active} active customers"
        )
    if counts["customer_segments"] != counts["customer_status"]:
        return f"{counts['customer_segments']} segments, {counts['customer_status']} customers"
    # days before the table was there have none, and days without a model an empty one
    value = lake.publication(CUSTOMER_VALUE, day)
    if value is not None and value.row_count not in (0, counts["customer_status"]):
        return f"{value.row_count} customers with a value, {counts['customer_status']} customers"
    return None
