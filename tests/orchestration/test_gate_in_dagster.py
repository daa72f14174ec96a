"""The same gate, from Dagster: no selection of assets and checks gets past it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from small_tables import D1, D2, D3, OTHERS, THINGS, bad_things, things

from orchestration.defs import daily
from orchestration.defs.daily import Made, Run, daily_asset, daily_partitions, lake_key
from orchestration.resources.home import Home
from orchestration.resources.instance import open_instance
from orchestration.resources.platform import Platform


@pytest.fixture
def instance(home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class World:
    """`lake/things`, made from what the test puts into `frames`, and `lake/others` made from it."""

    def __init__(self, home: Home) -> None:
        self.platform = Platform(root=str(home.root))
        self.frames: dict[date, pd.DataFrame | Exception] = {}
        partitions = daily_partitions(home.shop)
        common: dict[str, Any] = {
            "group": "test",
            "owner": "team:test",
            "description": "a table of the tests",
            "kinds": {"deltalake"},
        }

        @daily_asset(THINGS, partitions, deps=[], **common)
        def make_things(run: Run, day: date) -> Made:
            made = self.frames[day]
            if isinstance(made, Exception):
                raise made
            return Made(made, generation=1, metadata={"orders": int(made["order_count"].sum())})

        @daily_asset(OTHERS, partitions, deps=[lake_key("things")], **common)
        def make_others(run: Run, day: date) -> Made:
            found = run.platform.lake.require(THINGS, day)
            frame = run.platform.lake.read_frame(THINGS, [day], list(OTHERS.column_names))
            return Made(frame, found.generation, {f"things/{day}": found.content_hash})

        self.assets = [make_things, make_others]

    def run(
        self,
        instance: dg.DagsterInstance,
        selection: dg.AssetSelection,
        first: date,
        last: date | None = None,
    ) -> dg.ExecuteInProcessResult:
        job = dg.define_asset_job("job", selection)
        defs = dg.Definitions(assets=self.assets, jobs=[job], resources={"platform": self.platform})
        tags = {}
        if last is not None:
            tags["dagster/asset_partition_range_start"] = first.isoformat()
            tags["dagster/asset_partition_range_end"] = last.isoformat()
        return defs.resolve_job_def("job").execute_in_process(
            instance=instance,
            partition_key=None if last else first.isoformat(),
            tags=tags,
            raise_on_error=False,
        )


THINGS_ONLY = dg.AssetSelection.assets(lake_key("things"))
OTHERS_ONLY = dg.AssetSelection.assets(lake_key("others"))
BOTH = THINGS_ONLY | OTHERS_ONLY


@pytest.fixture
def world(home: Home) -> World:
    return World(home)


def orders(world: World, day: date) -> list[int]:
    found: list[int] = world.platform.lake.read(THINGS, [day]).column("order_count").to_pylist()
    return found


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [e for e in result.all_events if e.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    data = event.step_failure_data.user_failure_data
    return f"{data.description if data else ''} {error.to_string()}"


def test_a_good_day_is_published_and_reported(world: World, instance: dg.DagsterInstance) -> None:
    world.frames[D1] = things(D1)
    result = world.run(instance, BOTH, D1)
    assert result.success
    [made] = result.asset_materializations_for_node("lake__things")
    found = {name: value.value for name, value in made.metadata.items()}
    assert made.partition == D1.isoformat()
    assert found["dagster/partition_row_count"] == 3
    assert found["orders"] == 3
    assert {"content_hash", "audit", "generation"} <= set(found)
    [check] = [e for e in result.get_asset_check_evaluations() if e.asset_key == lake_key("things")]
    assert check.passed
    assert check.blocking
    publication = world.platform.lake.publication(OTHERS, D1)
    assert publication is not None
    assert publication.run_id == result.run_id


@pytest.mark.parametrize(
    "selection",
    [BOTH, THINGS_ONLY],
    ids=["with what follows", "alone"],
)
def test_no_selection_publishes_a_bad_day(
    world: World, instance: dg.DagsterInstance, selection: dg.AssetSelection
) -> None:
    world.frames[D1] = things(D1, orders=1)
    assert world.run(instance, BOTH, D1).success
    before = world.platform.lake.publication(OTHERS, D1)
    world.frames[D1] = bad_things(D1)
    result = world.run(instance, selection, D1)
    assert not result.success
    assert orders(world, D1) == [1, 1, 1]
    assert world.platform.lake.publication(OTHERS, D1) == before
    assert not result.asset_materializations_for_node("lake__things")


UNCHECKED = [
    THINGS_ONLY.without_checks(),
    OTHERS_ONLY.without_checks(),
    BOTH.without_checks(),
    THINGS_ONLY - dg.AssetSelection.checks_for_assets(lake_key("things")),
]


@pytest.mark.parametrize("selection", UNCHECKED, ids=str)
def test_the_audit_cannot_be_left_out(
    world: World, instance: dg.DagsterInstance, selection: dg.AssetSelection
) -> None:
    """It is no step of its own that a selection could drop: Dagster refuses to make such a job."""
    world.frames[D1] = bad_things(D1)
    with pytest.raises(dg.DagsterInvalidDefinitionError) as refused:
        world.run(instance, selection, D1)
    assert isinstance(refused.value.__cause__, dg.DagsterInvalidSubsetError)
    assert world.platform.lake.days(THINGS) == []


def test_the_failed_run_names_the_audit_the_day_and_the_expectation(
    world: World, instance: dg.DagsterInstance
) -> None:
    world.frames[D1] = bad_things(D1)
    told = failure(world.run(instance, THINGS_ONLY, D1))
    audit = world.platform.catalog.latest_audit("things", D1.isoformat())
    assert audit is not None
    assert f"audit {audit.id} failed" in told
    assert "2024-03-01" in told
    assert "order_count" in told
    assert not any(key in told for key in bad_things(D1)["customer_key"])


def test_a_separate_run_of_what_follows_refuses_and_names_the_audit(
    world: World, instance: dg.DagsterInstance
) -> None:
    """In Dagster a blocking check holds within one run only: dagster#17332."""
    world.frames[D1] = things(D1)
    assert world.run(instance, BOTH, D1).success
    world.frames[D1] = bad_things(D1)
    assert not world.run(instance, THINGS_ONLY, D1).success
    audit = world.platform.catalog.latest_audit("things", D1.isoformat())
    assert audit is not None
    result = world.run(instance, OTHERS_ONLY, D1)
    assert not result.success
    assert f"things of 2024-03-01: audit {audit.id} " in failure(result)
    world.frames[D1] = things(D1)
    assert world.run(instance, THINGS_ONLY, D1).success
    assert world.run(instance, OTHERS_ONLY, D1).success


def test_what_follows_what_was_never_published_says_what_to_do(
    world: World, instance: dg.DagsterInstance
) -> None:
    told = failure(world.run(instance, OTHERS_ONLY, D1))
    assert "things of 2024-03-01 is not published; materialise lake/things" in told


def test_one_bad_day_does_not_take_the_others_with_it(
    world: World, instance: dg.DagsterInstance
) -> None:
    world.frames = {D1: things(D1), D2: bad_things(D2), D3: things(D3, rows=4)}
    result = world.run(instance, THINGS_ONLY, D1, D3)
    assert not result.success
    assert "1 of 3 days were not published" in failure(result)
    assert world.platform.lake.days(THINGS) == [D1, D3]
    reported = instance.fetch_materializations(lake_key("things"), limit=10).records
    assert {one.partition_key for one in reported} == {D1.isoformat(), D3.isoformat()}
    [check] = [e for e in result.get_asset_check_evaluations() if e.asset_key == lake_key("things")]
    assert not check.passed


def test_a_day_that_cannot_be_made_does_not_take_the_others_with_it(
    world: World, instance: dg.DagsterInstance
) -> None:
    world.frames = {D1: ValueError("no such thing"), D2: things(D2)}
    result = world.run(instance, THINGS_ONLY, D1, D2)
    assert "ValueError: no such thing" in failure(result)
    assert world.platform.lake.days(THINGS) == [D2]


def test_a_range_is_one_run_and_the_same_as_day_by_day(
    world: World, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    world.frames = {day: things(day, rows=day.day + 1) for day in (D1, D2, D3)}
    assert world.run(instance, BOTH, D1, D3).success
    single = World(Home.create(tmp_path / "other", world.platform.home.shop))
    single.frames = world.frames
    for day in (D3, D1, D2):
        assert single.run(instance, BOTH, day).success
    for table in (THINGS, OTHERS):
        for day in (D1, D2, D3):
            one, other = (w.platform.lake.publication(table, day) for w in (world, single))
            assert one is not None
            assert other is not None
            assert one.content_hash == other.content_hash


def test_bad_data_is_not_tried_again_and_a_full_disk_is(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daily, "RETRY", dg.RetryPolicy(max_retries=daily.RETRY.max_retries))
    world = World(home)
    world.frames[D1] = bad_things(D1)
    events = world.run(instance, THINGS_ONLY, D1).all_events
    assert not any(event.is_step_up_for_retry for event in events)
    world.frames[D1] = OSError("No space left on device")
    events = world.run(instance, THINGS_ONLY, D1).all_events
    assert any(event.is_step_up_for_retry for event in events)


def test_nothing_is_handed_to_an_io_manager(home: Home, world: World) -> None:
    """Assets read what they need from the lake; a pickle of customers would lie in storage/."""
    world.frames[D1] = things(D1)
    with open_instance(home) as instance:
        assert world.run(instance, BOTH, D1).success
    stored = [
        path
        for path in (home.dagster / "storage").rglob("*")
        if path.is_file() and "compute_logs" not in path.parts
    ]
    assert stored == []
