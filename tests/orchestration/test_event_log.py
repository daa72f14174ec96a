"""A batch of events is stored as its events would have been, one by one."""

import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration.resources.event_log import BatchingSqliteEventLogStorage
from orchestration.resources.home import Home
from orchestration.resources.instance import open_instance

DAYS = dg.DailyPartitionsDefinition("2025-01-01", end_date="2025-01-06")
COLUMNS = "dagster_event_type, asset_key, partition, step_key"


@dg.multi_asset(
    specs=[dg.AssetSpec("one"), dg.AssetSpec("two")],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("seen", asset="one")],
)
def both(context: dg.AssetExecutionContext) -> Any:
    """Two assets, each with metadata per day."""
    for name in ("one", "two"):
        for day in context.partition_keys:
            context.add_asset_metadata({"day": day}, asset_key=name, partition_key=day)
        yield dg.MaterializeResult(asset_key=name)
    yield dg.AssetCheckResult(asset_key="one", check_name="seen", passed=True)


def run(home: Home, monkeypatch: pytest.MonkeyPatch, batch: int) -> tuple[list[Any], list[Any]]:
    """Run the range with a batch size; return what the run's database and the index hold."""
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", str(batch))
    with open_instance(home) as instance:
        result = dg.materialize(
            [both],
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": "2025-01-01",
                "dagster/asset_partition_range_end": "2025-01-05",
            },
        )
        assert result.success
        assert instance.get_materialized_partitions(dg.AssetKey("two")) == set(
            DAYS.get_partition_keys()
        )
        latest = instance.get_latest_materialization_event(dg.AssetKey("one"))
        assert latest is not None
        assert latest.asset_materialization is not None
        assert latest.asset_materialization.partition == "2025-01-05"
        folder = Path(instance.event_log_storage._base_dir)  # type: ignore[attr-defined]
    query = f"select {COLUMNS} from event_logs where run_id = ? order by 1, 2, 3, 4"
    of_run, index = (
        sqlite3.connect(folder / f"{name}.db").execute(query, [result.run_id]).fetchall()
        for name in (result.run_id, "index")
    )
    return of_run, index


def test_a_batch_is_stored_as_its_events_are(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[int] = []
    whole = BatchingSqliteEventLogStorage.store_event_batch

    def counting(self: BatchingSqliteEventLogStorage, events: Any) -> None:
        stored.append(len(events))
        whole(self, events)

    monkeypatch.setattr(BatchingSqliteEventLogStorage, "store_event_batch", counting)
    batched = run(home, monkeypatch, 1000)
    assert sorted(stored) == [5, 5, 11]  # per asset, and all that was planned with the check
    one_by_one = run(home, monkeypatch, 0)
    assert len(stored) == 3
    assert batched == one_by_one
    assert sum(row[0] == "ASSET_MATERIALIZATION" for row in batched[1]) == 10


def test_a_batch_that_cannot_be_stored_is_stored_one_by_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: BatchingSqliteEventLogStorage, events: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(BatchingSqliteEventLogStorage, "_store_in_index", fail)
    rows, index = run(home, monkeypatch, 1000)
    assert sum(row[0] == "ASSET_MATERIALIZATION" for row in rows) == 10
    assert sum(row[0] == "ASSET_MATERIALIZATION" for row in index) == 10
