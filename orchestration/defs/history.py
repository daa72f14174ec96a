"""The history job: snapshots of any set of days in one run, for a home that begins with a past.

What belongs here: the one job that is not a selection of assets. A model needs features and labels
of many past days, but not of every day. Dagster's single run takes one contiguous range, and one
run a day would pay the fixed costs of dbt and of a run 40 times, so this op builds the days asked
for in one dbt invocation per table and reports each partition that it published.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.defs.daily import DAYS_PER_RUN, Done, Run, go_through, lake_key
from orchestration.resources.platform import Platform
from orchestration.resources.warehouse import POOL

if TYPE_CHECKING:
    from expectations.schema import Table
    from orchestration.resources.home import Shop


FACTS = ("orders", "order_lines", "deliveries", "churn_returns")


class HistoryConfig(dg.Config):
    """Which past days to build.

    Snapshots with labels matured by `end`, `every_days` apart, and what a training of value asks
    for of customer_status; or the facts (orders, lines,
    deliveries with the campaigns' view of them, returns of the churned) of every day from
    `facts_from` to `end`; or what is published of `days`, again.
    """

    end: str = ""
    every_days: int = 14
    start: str = ""
    facts_from: str = ""
    days: list[str] = []  # noqa: RUF012  Dagster reads the default


def history_days(
    shop: "Shop", end: date, every_days: int, start: date | None = None
) -> tuple[list[date], list[date]]:
    """Return the snapshots to build features of, and the days on which labels mature.

    Snapshots are spaced `every_days` apart, counted back from the last one whose labels have
    matured by `end`; the first has at least half an active window of history before it. Those after
    it have no labels yet, and tell a training who has bought since the earlier ones.
    """
    last = end - timedelta(days=shop.horizon_days)
    first = start or shop.first_day + timedelta(days=shop.active_window_days // 2)
    snapshots = []
    day = last
    while day >= first:
        snapshots.append(day)
        day -= timedelta(days=every_days)
    snapshots.reverse()
    matured = [day + timedelta(days=shop.horizon_days) for day in snapshots]
    if not snapshots:
        return [], []
    recent = range(every_days, shop.horizon_days + 1, every_days)
    return [*snapshots, *(last + timedelta(days=n) for n in recent)], matured


def history_job(loggers: Mapping[str, dg.LoggerDefinition] | None = None) -> dg.JobDefinition:
    """Return the job `history`; a job of ops takes its loggers here and not from the rest."""

    @dg.op(
        pool=POOL,
        description="Load what landed, build features and labels of past days, publish them.",
    )
    def build_history(
        context: dg.OpExecutionContext, config: HistoryConfig, platform: Platform
    ) -> None:
        from orchestration.defs.campaigns.assets import deliveries_of
        from orchestration.defs.mart.assets import build_mart, candidate_of
        from orchestration.defs.sources.assets import raise_for, require_raw, take_in
        from orchestration.tables import CAMPAIGN_DELIVERIES, mart_tables

        raise_for(take_in(platform, context.run_id, context.log.info))
        require_raw(platform)
        failures = []
        groups = [
            (days[at : at + DAYS_PER_RUN], names)
            for days, names in _by_days(_wanted(platform, config))
            for at in range(0, len(days), DAYS_PER_RUN)
        ]
        for days, names in groups:
            tables = ", ".join(names)
            context.log.info(f"{tables}: {len(days)} days, {days[0]} .. {days[-1]}, in one dbt run")
            build_mart(platform, days, [f"+{name}" for name in names])
            for name in names:
                table = mart_tables()[name]
                run = Run(platform, days, context.run_id, context.log.info)
                done = go_through(run, table, partial(candidate_of, table))
                failures += _reported(context, table, done)
        # What became of campaigns' messages is known as early as the messages are.
        days = _wanted(platform, config).get("deliveries", [])
        if config.days:
            days = sorted({*days} & {*platform.lake.days(CAMPAIGN_DELIVERIES)})
        if days:
            run = Run(platform, days, context.run_id, context.log.info)
            done = go_through(run, CAMPAIGN_DELIVERIES, deliveries_of)
            failures += _reported(context, CAMPAIGN_DELIVERIES, done)
        platform.publisher.finish()
        if failures:
            raise dg.Failure(
                "\n".join(str(failure.description) for failure in failures),
                allow_retries=any(failure.allow_retries for failure in failures),
            )

    @dg.job(
        name="history",
        logger_defs=dict(loggers) if loggers else None,
        description="Features and labels of past days, so that a new home can be trained.",
    )
    def history() -> None:
        build_history()

    return history


def _reported(context: dg.OpExecutionContext, table: "Table", done: Done) -> list[dg.Failure]:
    """Report the published days of a table; return its failure, if there is one."""
    for day, metadata in done.reported.items():
        context.log_event(
            dg.AssetMaterialization(
                lake_key(table.name), partition=day.isoformat(), metadata=metadata
            )
        )
    return [done.failure(table)] if done.bad else []


def _wanted(platform: Platform, config: HistoryConfig) -> dict[str, list[date]]:
    """Return the days to build of each mart table."""
    from orchestration.defs.mart.stale import published_days
    from orchestration.tables import mart_tables

    if config.days:
        days = [date.fromisoformat(day) for day in config.days]
        return {name: published_days(platform, name, days) for name in mart_tables()}
    shop, end = platform.home.shop, date.fromisoformat(config.end)
    if config.facts_from:
        days = shop.days(date.fromisoformat(config.facts_from), end)
        return dict.fromkeys(FACTS, days)
    start = date.fromisoformat(config.start) if config.start else None
    snapshots, matured = history_days(shop, end, config.every_days, start)
    if not snapshots:
        raise dg.Failure(
            f"no snapshot before {end} has matured labels: the shop began {shop.first_day} and the "
            f"horizon is {shop.horizon_days} days",
            allow_retries=False,
        )
    # Segments are fitted on the last day; value and purchases on what a customer was and became.
    from ml.value_training import days_needed

    earliest = start or shop.first_day + timedelta(days=shop.active_window_days // 2)
    status = sorted({*days_needed(end, earliest), end})
    return {"customer_features": snapshots, "churn_labels": matured, "customer_status": status}


def _by_days(wanted: Mapping[str, list[date]]) -> list[tuple[list[date], list[str]]]:
    """Return the tables that are wanted for the same days together, so that dbt runs once."""
    groups: list[tuple[list[date], list[str]]] = []
    for name, days in wanted.items():
        same = next((names for known, names in groups if known == days), None)
        if same is not None:
            same.append(name)
        elif days:
            groups.append((days, [name]))
    return groups
