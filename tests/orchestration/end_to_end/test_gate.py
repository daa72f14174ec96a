"""A day that is refused: the good ones stand, nothing is made from the bad one, mending helps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_shop import LAST, LAST_RUN, hashes, messages, platform, run_assets

from orchestration.resources.instance import open_instance
from orchestration.resources.lake import NotPublishedError
from orchestration.resources.warehouse import POOL
from orchestration.runs import RunFailedError, run_days
from orchestration.tables import CHURN_SCORES, all_tables, mart_tables

if TYPE_CHECKING:
    from tiny_shop import Enrolled

    from orchestration.resources.home import Home

ROOT = Path(__file__).resolve().parents[3]
BAD = LAST_RUN - timedelta(days=1)  # published already; in the middle of the range
FEATURES = "customer_features"


def test_one_bad_day_of_a_range(
    enrolled: Enrolled, copy: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mart is corrupted between dbt and the gate, for one day of three."""
    from orchestration.defs.mart import assets

    build = assets.build_mart

    def corrupting(*args: object, **kwargs: object) -> object:
        results = build(*args, **kwargs)  # type: ignore[arg-type]
        with platform(copy).warehouse.connect() as connection:
            connection.execute(
                f"update mart.{FEATURES} set order_count_90d = -1 where snapshot_date = ?", [BAD]
            )
        return results

    days = [BAD, LAST_RUN, LAST_RUN + timedelta(days=1)]
    table, before = mart_tables()[FEATURES], hashes(enrolled.home)
    with monkeypatch.context() as patch:
        patch.setattr(assets, "build_mart", corrupting)
        with pytest.raises(RunFailedError) as failure:
            run_days(copy, days[0], days[-1])
    assert f"{FEATURES}: 1 of 3 days were not published, 2 were" in str(failure.value)
    assert str(BAD) in str(failure.value)
    assert str(LAST_RUN) not in str(failure.value)
    assert "order_count_90d" in str(failure.value)

    # the good days are published and reported, the last good state of the bad one stands
    after, lake = hashes(copy), platform(copy).lake
    assert (FEATURES, days[2].isoformat()) in after
    assert all(after[FEATURES, day.isoformat()] for day in days)
    assert after[FEATURES, BAD.isoformat()] == before[FEATURES, BAD.isoformat()]
    assert (CHURN_SCORES.name, days[2].isoformat()) not in after
    assert lake.read(table, [BAD]).num_rows > 0
    with pytest.raises(NotPublishedError, match="order_count_90d"):
        lake.require(table, BAD)
    with open_instance(copy) as instance:
        import dagster as dg

        key = dg.AssetKey(["lake", FEATURES])
        assert days[2].isoformat() in instance.get_materialized_partitions(key)

    # downstream refuses in a run of its own, and names the audit
    refused = run_assets(copy, [CHURN_SCORES.name], BAD)
    assert not refused.success
    assert "audit" in messages(refused)
    assert "order_count_90d" in messages(refused)

    # mended, it recovers
    run_days(copy, BAD, BAD)
    assert lake.require(table, BAD).content_hash
    mended = hashes(copy)
    assert all(mended[key] == before[key] for key in before)


def test_a_fault_in_raw_stops_the_run_before_the_mart(enrolled: Enrolled, copy: Home) -> None:
    """A file with too many bad rows is refused by name; what was published stays."""
    folder = copy.landing / "reviews"
    lines = ["review_id,customer_id,product_id,rating,created_at"]
    lines += [f"BAD{n},C0000001,P1,9,2025-05-30T10:00:00Z" for n in range(5)]
    (folder / "zz_bad.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFailedError) as failure:
        run_days(copy, LAST, LAST)
    assert "zz_bad.csv" in str(failure.value)
    assert "rating" in str(failure.value)
    assert "C0000001" not in str(failure.value)
    assert hashes(copy) == hashes(enrolled.home)


KILLED_IN_PUBLISH = """
import os, signal, sys
from datetime import date
from pathlib import Path
from orchestration.resources.home import Home
from orchestration.resources.lake import Lake
from orchestration.runs import run_days

replace = Lake.replace
done = []

def killed(self, table, partitions):
    if table.name == "customer_features" and done:
        # the commit lands, and the process dies before the index knows of it
        Lake._complete_index = lambda self, table: os.kill(os.getpid(), signal.SIGKILL)
    done.append(table.name) if table.name == "customer_features" else None
    return replace(self, table, partitions)

Lake.replace = killed
run_days(Home.open(Path(sys.argv[1])), *map(date.fromisoformat, sys.argv[2:]))
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_publication(enrolled: Enrolled, copy: Home) -> None:
    from dagster import DagsterRunStatus

    start, end = LAST_RUN + timedelta(days=1), LAST
    child = subprocess.run(
        [sys.executable, "-c", KILLED_IN_PUBLISH, str(copy.root), str(start), str(end)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]
    with open_instance(copy) as instance:
        (stuck,) = [r for r in instance.get_runs() if r.status == DagsterRunStatus.STARTED]
        slots = instance.event_log_storage.get_concurrency_info(POOL)
        assert stuck.run_id in slots.active_run_ids  # the dead run still holds the pool

    run_days(copy, start, end)

    with open_instance(copy) as instance:
        again = instance.get_run_by_id(stuck.run_id)
        assert again is not None
        assert again.status == DagsterRunStatus.FAILURE
        assert not instance.event_log_storage.get_concurrency_info(POOL).active_slot_count
    lake = platform(copy).lake
    for table in all_tables().values():
        content = lake.read(table).select(list(table.primary_key)).to_pandas(date_as_object=True)
        assert not content.duplicated().any(), table.name
        if table.name != "campaign_cohorts":
            assert lake.publication(table, end) is not None, table.name
    untouched = hashes(enrolled.home)
    assert {key: found for key, found in hashes(copy).items() if key in untouched} == untouched
