"""Jobs, schedules and sensors.

What belongs here: which assets run together and when. The daily chain has a hard order, so it is
one job (blocking checks hold only within one run), not a set of automation conditions.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from orchestration.defs.daily import DAYS_PER_RUN
from orchestration.defs.history import history_job
from orchestration.resources.home import Home
from orchestration.resources.platform import Platform

AssetJob = UnresolvedAssetJobDefinition

DAILY = "daily"
TRAINING = "training"

DAILY_SELECTION = dg.AssetSelection.groups(
    "sources", "mart", "scores", "segments", "campaigns", "uplift"
)
TRAINING_SELECTION = dg.AssetSelection.groups("models")


def jobs(
    partitions: dg.DailyPartitionsDefinition,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
) -> list[AssetJob | dg.JobDefinition]:
    """Return the jobs: the day, the training, and the history a new home is trained on."""
    return [
        dg.define_asset_job(
            DAILY,
            DAILY_SELECTION,
            description="One day, or a range in one run: landing files to cohorts.",
            partitions_def=partitions,
        ),
        dg.define_asset_job(
            TRAINING,
            TRAINING_SELECTION,
            description="Train, compare and register the models on all matured labels.",
        ),
        history_job(loggers),
    ]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags by which one run takes a range of days."""
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }


def due_days(keys: Sequence[str], last_made: date | None) -> list[str]:
    """Return the days that a tick asks for: the last one, and those missed since `last_made`.

    keys: all days that are over, in order. A shop of which nothing was made yet begins with its
    last day; a gap longer than a run may be is made up by the ticks that follow.
    """
    if last_made is None:
        return list(keys[-1:])
    return [key for key in keys if key > last_made.isoformat()][:DAYS_PER_RUN]


def schedules(partitions: dg.DailyPartitionsDefinition) -> list[dg.ScheduleDefinition]:
    """Return the schedules; they are registered only where the settings ask for them."""

    @dg.schedule(
        job_name=DAILY,
        cron_schedule="0 4 * * *",
        execution_timezone=partitions.timezone,
        description=(
            "The day that ended at midnight, shop time, and with it the days that were missed "
            "while nothing ran. One run per day, ever."
        ),
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def daily_schedule(
        context: dg.ScheduleEvaluationContext, platform: Platform
    ) -> Iterator[dg.RunRequest]:
        from orchestration.tables import CHURN_SCORES

        keys = partitions.get_partition_keys(current_time=context.scheduled_execution_time)
        made = platform.lake.days(CHURN_SCORES) if Home.exists(Path(platform.root)) else []
        due = due_days(keys, made[-1] if made else None)
        if len(due) == 1:
            yield dg.RunRequest(run_key=due[0], partition_key=due[0])
        elif due:
            yield dg.RunRequest(run_key=due[-1], tags=range_tags(due[0], due[-1]))

    @dg.schedule(
        job_name=TRAINING,
        cron_schedule="0 6 * * 1",
        execution_timezone=partitions.timezone,
        description="Every Monday, on all labels matured by then.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def training_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield dg.RunRequest(run_key=context.scheduled_execution_time.date().isoformat())

    return [daily_schedule, training_schedule]


def sensors() -> list[dg.SensorDefinition]:
    """Return the sensors: late data that restates published days rebuilds them."""

    @dg.sensor(
        job_name=DAILY,
        minimum_interval_seconds=300,
        description="Days whose inputs changed after they were published are built again.",
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def stale_days(
        context: dg.SensorEvaluationContext, platform: Platform
    ) -> Iterator[dg.RunRequest]:
        from orchestration.defs.mart.stale import ranges
        from orchestration.defs.mart.stale import stale_days as find

        for start, end, generation in ranges(find(platform)):
            yield dg.RunRequest(
                # The hour lets a rebuild that failed be asked for again.
                run_key=f"stale-{start}-{end}-{generation}-{datetime.now(UTC):%Y%m%d%H}",
                tags=range_tags(start.isoformat(), end.isoformat()),
            )

    return [stale_days]
