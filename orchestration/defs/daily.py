"""What every daily asset shares: its partitions, and the loop from made to published.

What belongs here: the partitions of a shop, the decorator `daily_asset` that turns "make the rows
of one day" into an asset that stages, audits, publishes and reports each of its days, and the
metadata it reports. What does not: what any one table contains.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.resources.platform import Platform
from orchestration.resources.warehouse import POOL

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from expectations.schema import Table
    from orchestration.resources.home import Shop
    from orchestration.resources.publishing import Candidate, Facts, Outcome

ENGINEERING = "team:data-engineering"
SCIENCE = "team:data-science"
MARKETING = "team:marketing"

AUDIT = "audit"
# A range is one run, and one dbt invocation, of at most so many days: what the mart keeps in memory
# grows with them, while the fixed costs of a run are a tenth of 60 days.
DAYS_PER_RUN = 60
BACKFILL = dg.BackfillPolicy.multi_run(DAYS_PER_RUN)

# Days of a range that are audited and published at once; more would spare little (a suite costs
# 5 ms a query), and the last ones are published with nothing left to make beside them.
DAYS_AT_ONCE = 4
ROWS_AT_ONCE = 200_000
SECONDS_BETWEEN_WORDS = 2  # a line in the log of a run costs 6 ms
RESCORE_TAG = "holdfast/rescore"

# Data of a day is there by the next morning; a day and a half without it is late.
FRESH = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=36), warn_window=timedelta(hours=26)
)

# A lock held a moment too long or a full disk may pass; bad data does not, and is not retried.
RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)


def daily_partitions(shop: "Shop", today: date | None = None) -> dg.DailyPartitionsDefinition:
    """Return one partition a day of the shop, in its own time zone, up to its last day."""
    end = shop.last_day or today
    return dg.DailyPartitionsDefinition(
        start_date=shop.first_day.isoformat(),
        end_date=(end + timedelta(days=1)).isoformat() if end else None,
        timezone=shop.shop_timezone,
    )


def lake_key(name: str) -> dg.AssetKey:
    """Return the asset key of a published table."""
    return dg.AssetKey(["lake", name])


def mart_key(name: str) -> dg.AssetKey:
    """Return the asset key of a candidate that dbt builds."""
    return dg.AssetKey(["mart", name])


class NotOverError(Exception):
    """A day that is not over yet, of which nothing final can be said."""


def is_transient(error: Exception) -> bool:
    """Return whether trying again may help: a lock or a disk was in the way, not the data."""
    import sqlite3

    import duckdb

    return isinstance(error, OSError | duckdb.IOException | sqlite3.OperationalError)


@dataclass
class Made:
    """The rows of one day, and where they come from.

    `are_rows_due` says whether an empty day would be a fault; None leaves it to the declaration.
    """

    frame: "pd.DataFrame | pa.Table"
    generation: int
    inputs: dict[str, str] = field(default_factory=dict)
    model_version: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    are_rows_due: bool | None = None
    # Writes files for people, once the rows are published and not before; returns metadata.
    hand_over: "Callable[[], Mapping[str, Any]] | None" = None

    def table(self, declared: "Table") -> "Table":
        """Return the declaration that this day is judged by."""
        if self.are_rows_due is None:
            return declared
        return replace(declared, may_be_empty=not self.are_rows_due)


@dataclass
class Run:
    """One run of a daily asset over its days."""

    platform: Platform
    days: list[date]
    run_id: str
    log: Callable[[str], None]
    tags: Mapping[str, str] = field(default_factory=dict)
    warn: Callable[[str], None] = lambda text: None
    _once: dict[str, Any] = field(default_factory=dict)

    @property
    def is_rescoring(self) -> bool:
        """Whether this run was told to use today's models for days already published."""
        return self.tags.get(RESCORE_TAG) == "true"

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return `make()`, called on first use and kept for the other days of this run."""
        if name not in self._once:
            self._once[name] = make()
        return self._once[name]


def days_of(context: dg.AssetExecutionContext) -> list[date]:
    """Return the partitions of this run, in order."""
    return sorted(date.fromisoformat(key) for key in context.partition_keys)


def column_schema(table: "Table") -> dg.TableSchema:
    """Return the declared columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type,
                column.description or None,
                dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in table.columns
        ]
    )


def daily_asset(
    table: "Table",
    partitions: dg.DailyPartitionsDefinition,
    *,
    deps: Sequence[dg.AssetKey | dg.AssetDep],
    group: str,
    owner: str,
    description: str,
    kinds: set[str],
    opens_warehouse: bool = False,
    code_version: str = "1",
    days_at_once: int = DAYS_AT_ONCE,
) -> Callable[[Callable[[Run, date], Made]], dg.AssetsDefinition]:
    """Turn "make the rows of one day" into the daily asset `lake/<table>`.

    The asset goes through its days in order. A day that is refused, or that cannot be made, does
    not take the others with it: the good ones are published and reported, and then the run fails
    and names the bad ones. An asset whose days read what was published of earlier ones sets
    `days_at_once` to 1.
    """

    def decorate(make: Callable[[Run, date], Made]) -> dg.AssetsDefinition:
        @dg.asset(
            key=lake_key(table.name),
            deps=deps,
            partitions_def=partitions,
            backfill_policy=BACKFILL,
            group_name=group,
            owners=[owner],
            description=description,
            kinds=kinds,
            code_version=code_version,
            freshness_policy=FRESH,
            retry_policy=RETRY,
            pool=POOL if opens_warehouse else None,
            metadata={"dagster/column_schema": column_schema(table)},
            check_specs=[
                dg.AssetCheckSpec(
                    AUDIT,
                    asset=lake_key(table.name),
                    blocking=True,
                    description=(
                        "Great Expectations on the staged file of each day. What fails here is "
                        "not published, in this run or any other."
                    ),
                )
            ],
        )
        def asset(
            context: dg.AssetExecutionContext, platform: Platform
        ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
            yield from publish_days(context, platform, table, make, days_at_once)

        return asset

    return decorate


def publish_days(
    context: dg.AssetExecutionContext,
    platform: Platform,
    table: "Table",
    make: Callable[[Run, date], Made],
    days_at_once: int = DAYS_AT_ONCE,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Make, stage, audit and publish the days of an asset's run, and report each."""
    log = context.log
    run = Run(platform, days_of(context), context.run_id, log.info, context.run.tags, log.warning)
    key = lake_key(table.name)
    done = go_through(run, table, make, days_at_once)
    platform.publisher.finish()
    yield _check(table, done, platform)
    if done.bad:
        for day, metadata in done.reported.items():
            context.log_event(
                dg.AssetMaterialization(key, partition=day.isoformat(), metadata=metadata)
            )
        raise done.failure(table)
    for day, metadata in done.reported.items():
        context.add_asset_metadata(metadata, asset_key=key, partition_key=day.isoformat())
    yield dg.MaterializeResult(asset_key=key)


@dataclass
class Done:
    """What came of the days of one table."""

    reported: dict[date, dict[str, Any]] = field(default_factory=dict)  # published: its metadata
    bad: dict[date, str] = field(default_factory=dict)  # not published: why
    verdicts: "list[tuple[date, Outcome]]" = field(default_factory=list)
    crashed: list[Exception] = field(default_factory=list)

    def note(self, day: date, error: Exception) -> None:
        """Note that a day is not published because of an error, which no verdict is."""
        self.bad[day] = f"{type(error).__name__}: {error}"
        self.crashed.append(error)

    def failure(self, table: "Table") -> dg.Failure:
        """Return the failure that names the days that were not published."""
        days = len(self.bad) + len(self.reported)
        failure = dg.Failure(
            f"{table.name}: {len(self.bad)} of {days} days were not published, "
            f"{len(self.reported)} were.\n{_by_reason(self.bad)}",
            metadata={"bad_days": [day.isoformat() for day in self.bad]},
            # Retrying helps where a lock or a disk was in the way, never where data was judged.
            allow_retries=any(is_transient(error) for error in self.crashed),
        )
        failure.__cause__ = self.crashed[0] if self.crashed else None
        return failure


def go_through(
    run: Run,
    table: "Table",
    make: Callable[[Run, date], Made],
    days_at_once: int = DAYS_AT_ONCE,
) -> Done:
    """Make, stage, audit and publish each day of a run, some at once.

    A day that cannot be made or is refused does not take the others with it. Days that are audited
    and published at once cost one query and one commit; so many are taken together as hold
    `ROWS_AT_ONCE`, at most `days_at_once`. While they are, the next ones are made: DuckDB, Arrow
    and Delta let go of the interpreter.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    from orchestration.resources.publishing import Facts

    # What is alive by now stays so: a collection that looks at its 900,000 objects takes 0.2 s.
    gc.freeze()
    done = Done()
    publishing: Future[None] | None = None
    last = run.platform.last_day()
    waiting: list[tuple[Made, Candidate, Facts]] = []
    started = told = time.perf_counter()
    with ThreadPoolExecutor(1) as background:
        for number, day in enumerate(run.days, start=1):
            try:
                if day > last:
                    raise NotOverError(f"{day} is not over: the shop's last known day is {last}")
                made = make(run, day)
                candidate = run.platform.publisher.stage(made.table(table), day, made.frame)
                made.frame = made.frame[:0]  # staged; a range would hold all its days in memory
                facts = Facts(run.run_id, made.generation, made.inputs, made.model_version)
                waiting.append((made, candidate, facts))
            except Exception as error:  # every other day still deserves its chance
                done.note(day, error)
            rows = sum(candidate.row_count for _, candidate, _ in waiting)
            if len(waiting) < days_at_once and rows < ROWS_AT_ONCE and number < len(run.days):
                continue
            if publishing is not None:
                publishing.result()
            if waiting:
                publishing = background.submit(
                    _publish_together, run, table, waiting, started, done
                )
                if days_at_once == 1:  # the next day reads what this one published
                    publishing.result()
                rows = waiting[-1][1].row_count
                if number == len(run.days) or time.perf_counter() - told > SECONDS_BETWEEN_WORDS:
                    run.log(f"{table.name}: {number} of {len(run.days)} days, {day}: {rows:,} rows")
                    told = time.perf_counter()
            waiting = []
            started = time.perf_counter()
        if publishing is not None:
            publishing.result()
    return done


def _publish_together(
    run: Run,
    table: "Table",
    waiting: "list[tuple[Made, Candidate, Facts]]",
    started: float,
    done: Done,
) -> None:
    """Audit and publish what is staged, hand it over, and note what came of each day."""
    shown = run.days[-1:]  # a page costs 35 ms; what is wrong is always shown
    candidates = [(candidate, facts) for _, candidate, facts in waiting]
    try:
        outcomes = run.platform.publisher.run_all(candidates, shown)
    except Exception as error:  # of the lake or the library, not of the data: of all these days
        for candidate, _ in candidates:
            done.note(candidate.day, error)
        return
    seconds = (time.perf_counter() - started) / len(waiting)
    for (made, candidate, _), outcome in zip(waiting, outcomes, strict=True):
        day = candidate.day
        done.verdicts.append((day, outcome))
        if outcome.publication is None:
            done.bad[day] = outcome.reason
            continue
        try:
            handed_over = made.hand_over() if made.hand_over else {}
        except Exception as error:  # the rows are published, the file for people is not
            done.note(day, error)
            continue
        done.reported[day] = {**_facts(outcome, seconds), **made.metadata, **handed_over}


def _by_reason(bad: Mapping[date, str]) -> str:
    """Return one line per reason with the days that it spoiled."""
    days: dict[str, list[date]] = {}
    for day, reason in bad.items():
        days.setdefault(reason, []).append(day)
    return "\n".join(
        f"  {', '.join(map(str, found[:5]))}{f' and {len(found) - 5} more' if found[5:] else ''}: "
        f"{reason}"
        for reason, found in days.items()
    )


def _facts(outcome: "Outcome", seconds: float) -> dict[str, Any]:
    publication = outcome.publication
    assert publication is not None
    facts: dict[str, Any] = {
        "dagster/partition_row_count": outcome.candidate.row_count,
        "content_hash": publication.content_hash[:16],
        "is_changed": outcome.changed,
        "delta_version": publication.delta_version,
        "generation": publication.generation,
        "audit": f"{outcome.audit.id}: {outcome.audit.evaluated} of {outcome.audit.expected} "
        f"expectations evaluated, suite {outcome.audit.suite_version}",
        "seconds": round(seconds, 3),
    }
    if publication.inputs:
        facts["inputs"] = {name: digest[:16] for name, digest in publication.inputs.items()}
    if publication.model_version:
        facts["model_version"] = publication.model_version
    if outcome.warnings:
        facts["warnings"] = list(outcome.warnings)
    return facts


def _check(table: "Table", done: Done, platform: Platform) -> dg.AssetCheckResult:
    verdicts, bad = done.verdicts, done.bad
    failed = {day: o.audit for day, o in verdicts if not o.audit.passed}
    return dg.AssetCheckResult(
        asset_key=lake_key(table.name),
        check_name=AUDIT,
        passed=not bad,
        severity=dg.AssetCheckSeverity.ERROR,
        description=_by_reason(bad) or None,
        metadata={
            "days": len(verdicts),
            "days_failed": len(bad),
            "expectations_evaluated": sum(o.audit.evaluated for _, o in verdicts),
            "failed_expectations": {
                day.isoformat(): list(audit.failures) for day, audit in failed.items()
            },
            "warnings": {day.isoformat(): list(o.warnings) for day, o in verdicts if o.warnings},
            "data_docs": dg.MetadataValue.url(
                (platform.home.data_docs / "index.html").resolve().as_uri()
            ),
        },
    )
