"""Runs started from the command line: the same jobs as in the UI, in this process.

What belongs here: opening the instance, tagging a run so that a later start can tell whether its
process still lives, and printing progress. What does not: what a job does.
"""

import logging
import sys
import time
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.definitions import build_defs
from orchestration.defs.daily import DAYS_PER_RUN, RESCORE_TAG
from orchestration.defs.jobs import range_tags
from orchestration.resources.instance import open_instance, process_tags, reconcile
from orchestration.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestration.resources.home import Home


class RunFailedError(Exception):
    """A run failed; the message is what its steps said."""


class Progress(logging.Handler):
    """Prints what the assets report, with the seconds since the start; Dagster's own noise not."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        meta = getattr(record, "dagster_meta", None) or {}
        if meta.get("dagster_event") is None:
            text = meta.get("orig_message") or record.getMessage()
            print(f"  {time.monotonic() - self.started:6.1f} s  {text}", flush=True)


def _console() -> dg.LoggerDefinition:
    def console(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("holdfast", logging.INFO)
        logger.addHandler(Progress())
        return logger

    return dg.LoggerDefinition(console, description="one line per thing that an asset reports")


def run_job(
    home: "Home",
    name: str,
    *,
    start: date | None = None,
    end: date | None = None,
    config: "Mapping[str, Any] | None" = None,
    tags: "Mapping[str, str] | None" = None,
    settings: Settings | None = None,
) -> str:
    """Run job `name` for one partition, a range, or none; return the run's id.

    Raises:
        RunFailedError: the run failed; what was published before stays.
    """
    settings = (settings or Settings()).model_copy(update={"home": home.root})
    with open_instance(home) as instance:
        for run_id in reconcile(instance):
            print(f"  cleared run {run_id[:8]}, whose process is gone", flush=True)
        definitions = build_defs(settings, shop=home.shop, loggers={"console": _console()})
        job = definitions.resolve_job_def(name)
        run_tags = {**process_tags(), **(tags or {})}
        partition = None
        if start is not None and end is not None and start != end:
            run_tags.update(range_tags(start.isoformat(), end.isoformat()))
        elif start is not None:
            partition = start.isoformat()
        result = job.execute_in_process(
            instance=instance,
            partition_key=partition,
            tags=run_tags,
            run_config={"loggers": {"console": {}}, **(config or {})},
            raise_on_error=False,
        )
        if not result.success:
            raise RunFailedError(_why(result))
        return result.run_id


def run_days(
    home: "Home", start: date, end: date, *, rescore: bool = False, settings: Settings | None = None
) -> list[str]:
    """Materialise the daily job for a day or a range; return the runs, of `DAYS_PER_RUN` at most.

    Raises:
        RunFailedError: some runs failed; the others were made nevertheless.
    """
    days = home.shop.days(start, end)
    tags = {RESCORE_TAG: "true"} if rescore else {}
    made, failures = [], []
    for at in range(0, len(days), DAYS_PER_RUN):
        start, end = days[at], days[at : at + DAYS_PER_RUN][-1]
        try:
            made.append(run_job(home, "daily", start=start, end=end, tags=tags, settings=settings))
        except RunFailedError as error:
            failures.append(str(error))
    if failures:
        raise RunFailedError("\n".join(failures))
    return made


def _why(result: dg.ExecuteInProcessResult) -> str:
    lines = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            user = event.step_failure_data.user_failure_data
            text = (user.description if user else None) or (error.message.strip() if error else "")
            lines.append(f"{event.step_key}: {text}")
    return "\n".join(lines) or "the run failed; see the Dagster UI"


def say(text: str) -> None:
    """Print a heading of a longer command."""
    print(f"\n{text}", flush=True)
    sys.stdout.flush()


def run_history(home: "Home", end: date, every_days: int = 14, start: date | None = None) -> str:
    """Build features and labels of past days, `every_days` apart, in one run."""
    config = {
        "end": end.isoformat(),
        "every_days": every_days,
        "start": start.isoformat() if start else "",
    }
    return run_job(home, "history", config={"ops": {"build_history": {"config": config}}})


def run_facts(home: "Home", start: date, end: date) -> str:
    """Publish the facts of past days that are not run daily, in one run."""
    config = {"end": end.isoformat(), "facts_from": start.isoformat()}
    return run_job(home, "history", config={"ops": {"build_history": {"config": config}}})


def run_training(home: "Home", as_of: date | None = None, origins: int = 0) -> str:
    """Train, compare and register the models as of a day, on so many test snapshots."""
    config = {"config": {"as_of": as_of.isoformat() if as_of else "", "origins": origins}}
    trained = ("models__churn", "models__customer_segments", "models__customer_value")
    ops = dict.fromkeys(trained, config)
    return run_job(home, "training", config={"ops": ops})


def rebuild_stale(home: "Home") -> list[date]:
    """Build the published days again that late data restates; return them.

    Days of the daily job are run whole; days of which only features or labels were published, to
    train on, are built as far as they were published.
    """
    from orchestration.defs.mart.stale import ranges, stale_days
    from orchestration.resources.platform import Platform
    from orchestration.tables import CHURN_SCORES

    platform = Platform(root=str(home.root))
    stale = stale_days(platform)
    scored = set(platform.lake.days(CHURN_SCORES))
    for start, end, _ in ranges({day: load for day, load in stale.items() if day in scored}):
        run_days(home, start, end)
    rest = sorted(day.isoformat() for day in stale if day not in scored)
    if rest:
        config = {"ops": {"build_history": {"config": {"days": rest}}}}
        run_job(home, "history", config=config)
    return sorted(stale)
