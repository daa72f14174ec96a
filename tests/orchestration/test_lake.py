"""The lake: one partition at a time, every version kept, the log the truth."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder
from small_tables import (
    D1,
    D2,
    D3,
    LEDGER,
    OTHERS,
    THINGS,
    draws,
    facts_of,
    file_of,
    key,
    others,
    put,
    things,
)

from expectations.schema import Column
from orchestration.resources.catalog import Audit, Catalog
from orchestration.resources.content import arrow_schema, canonical, content_hash
from orchestration.resources.lake import (
    DamagedError,
    Lake,
    MixedGenerationError,
    NotPublishedError,
)
from orchestration.resources.publishing import Facts, Publisher

ROOT = Path(__file__).resolve().parents[2]
SPAWN = multiprocessing.get_context("spawn")


def hash_of(lake: Lake, day: date) -> str:
    return content_hash(canonical(lake.read(THINGS, [day]), THINGS))


# -- reading and replacing -----------------------------------------------------------------------


def test_nothing_is_an_empty_table_of_the_declared_columns(lake: Lake) -> None:
    assert lake.days(THINGS) == []
    assert lake.publication(THINGS, D1) is None
    assert lake.read(THINGS).schema == arrow_schema(THINGS)
    assert lake.read(THINGS, [D1]).num_rows == 0


def test_what_is_written_is_what_is_read(lake: Lake) -> None:
    content = canonical(things(D1, 20), THINGS)
    put(lake, THINGS, D1, things(D1, 20))
    assert lake.read(THINGS, [D1]).equals(content)
    frame = lake.read_frame(THINGS, [D1], ["customer_key", "revenue_amount", "snapshot_date"])
    assert list(frame.columns) == ["customer_key", "revenue_amount", "snapshot_date"]
    assert set(frame["snapshot_date"]) == {D1}
    assert str(frame["revenue_amount"][3]) == "3.1234"


def test_replacing_one_partition_leaves_the_others(lake: Lake) -> None:
    for day in (D2, D1, D3):
        put(lake, THINGS, day, things(day))
    before = {day: (hash_of(lake, day), lake.publication(THINGS, day)) for day in (D1, D3)}
    put(lake, THINGS, D2, things(D2, rows=5, orders=9), generation=2)
    assert {day: (hash_of(lake, day), lake.publication(THINGS, day)) for day in before} == before
    assert lake.days(THINGS) == [D1, D2, D3]
    found = lake.publication(THINGS, D2)
    assert found is not None
    assert (found.row_count, found.generation, found.delta_version) == (5, 2, 4)
    assert found.content_hash == hash_of(lake, D2)
    assert lake.read(THINGS).column("snapshot_date").to_pylist() == [D1] * 3 + [D2] * 5 + [D3] * 3


def test_a_partition_may_become_empty(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    put(lake, THINGS, D2, things(D2))
    put(lake, THINGS, D1, things(D1, rows=0))
    assert lake.days(THINGS) == [D1, D2]
    assert lake.read(THINGS, [D1]).num_rows == 0
    assert lake.read(THINGS).num_rows == 3


def test_a_table_may_begin_with_an_empty_partition(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1, rows=0))
    found = lake.publication(THINGS, D1)
    assert found is not None
    assert found.row_count == 0
    put(lake, THINGS, D2, things(D2))
    assert lake.read(THINGS).num_rows == 3


def test_a_row_of_another_day_does_not_get_in(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    with pytest.raises(ValueError, match=f"things of {D2}: .* has rows of another day"):
        put(lake, THINGS, D2, things(D1))
    assert lake.days(THINGS) == [D1]
    assert lake.read(THINGS).num_rows == 3


def test_a_file_of_other_columns_does_not_get_in(lake: Lake) -> None:
    content = canonical(things(D1), THINGS)
    facts = facts_of(THINGS, D1, content)
    for other in (content.drop_columns(["reason"]), content.rename_columns({"reason": "cause"})):
        with pytest.raises(ValueError, match=f"things of {D1}: .* has other columns than declared"):
            lake.replace(THINGS, {D1: (file_of(lake, other), facts)})
    assert lake.read(THINGS).num_rows == 0


def test_a_file_changed_on_its_way_does_not_get_in(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    path = file_of(lake, canonical(things(D2), THINGS))
    file_of(lake, canonical(things(D2, rows=7), THINGS)).replace(path)
    with pytest.raises(ValueError, match=f"things of {D2}: .* is not what it is called after"):
        lake.replace(THINGS, {D2: (path, facts_of(THINGS, D2, canonical(things(D2), THINGS)))})
    assert lake.days(THINGS) == [D1]


def test_a_commit_that_another_reader_indexes_first(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer reads what it wrote all the same."""
    put(lake, THINGS, D1, things(D1, rows=3))
    other = Lake(lake.root, lake.catalog)
    commit = DeltaTable.create_write_transaction

    def and_be_read(delta: DeltaTable, *given: object, **named: object) -> None:
        commit(delta, *given, **named)  # type: ignore[arg-type]
        other.days(THINGS)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", and_be_read)
    put(lake, THINGS, D1, things(D1, rows=5))
    assert lake.read(THINGS, [D1]).num_rows == other.read(THINGS, [D1]).num_rows == 5


def test_other_readers_see_the_same(lake: Lake) -> None:
    """Of the library itself, since ours reads the files alone; of the newest and of older rows."""
    put(lake, THINGS, D1, things(D1, orders=1))
    put(lake, THINGS, D2, things(D2, rows=5))
    put(lake, THINGS, D1, things(D1, orders=7))
    query = "select * from things order by snapshot_date, customer_key"
    for version in (None, 2):
        delta = DeltaTable(str(lake.root / "things"), version=version)
        seen = pa.table(QueryBuilder().register("things", delta).execute(query))
        ours = lake.read(THINGS, version=version)
        assert seen.select(ours.column_names).cast(ours.schema).equals(ours)


def test_every_version_stays_readable(lake: Lake) -> None:
    versions = {
        put(lake, THINGS, D1, things(D1, orders=orders), generation=orders): orders
        for orders in (1, 2, 3)
    }
    put(lake, THINGS, D2, things(D2))
    for version, orders in versions.items():
        seen = lake.read(THINGS, [D1], version=version)
        assert seen.column("order_count").to_pylist() == [orders] * 3
    told = lake.versions(THINGS, D1)
    assert [(one.delta_version, one.generation) for one in told] == list(versions.items())
    assert lake.read(THINGS, version=max(versions)).num_rows == 3, "D2 came after it"
    assert lake.read(THINGS).num_rows == 6, "and the newest is read as before"
    assert lake.versions(THINGS, D3) == []


def test_history_is_kept_for_ten_years(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    content = canonical(draws(D1, range(2)), LEDGER)
    lake.merge_new(LEDGER, content, facts_of(LEDGER, D1, content))
    for name in ("things", "draws"):
        configuration = DeltaTable(str(lake.root / name)).metadata().configuration
        for setting in ("delta.logRetentionDuration", "delta.deletedFileRetentionDuration"):
            assert configuration[setting] == "interval 3650 days"


def test_a_new_nullable_column_is_merged_in(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    wider = replace(
        THINGS, version=2, columns=(*THINGS.columns, Column("rank", "integer", nullable=True))
    )
    later = Lake(lake.root, lake.catalog)  # another release, another process
    put(later, wider, D2, things(D2).assign(rank=[3, 1, 2]))
    assert later.read(wider).column("rank").to_pylist() == [None, None, None, 3, 1, 2]
    assert later.read(THINGS).column_names == list(THINGS.column_names)
    put(later, wider, D1, things(D1).assign(rank=7))
    assert later.read(wider, [D1]).column("rank").to_pylist() == [7, 7, 7]


def test_a_retyped_column_is_another_table(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    retyped = replace(
        THINGS,
        columns=tuple(
            Column(c.name, "string", nullable=False) if c.name == "order_count" else c
            for c in THINGS.columns
        ),
    )
    with pytest.raises(ValueError, match="order_count is declared as string, but stored as long"):
        put(Lake(lake.root, lake.catalog), retyped, D2, things(D2).assign(order_count="many"))
    assert lake.days(THINGS) == [D1]
    assert lake.read(THINGS).num_rows == 3


# -- the index and the log -----------------------------------------------------------------------


def test_the_index_is_completed_from_the_log(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the commit and the index: the next reader finds the commit all the same."""
    put(lake, THINGS, D1, things(D1))
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "index", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            put(lake, THINGS, D2, things(D2, rows=5), generation=4, inputs={"raw/all": "x"})
    assert lake.catalog.publication("things", D2.isoformat()) is None
    again = Lake(lake.root, Catalog(lake.catalog.path))
    found = again.publication(THINGS, D2)
    assert found is not None
    assert (found.row_count, found.generation, found.inputs) == (5, 4, {"raw/all": "x"})
    assert found.delta_version == 2
    assert again.days(THINGS) == [D1, D2]


def test_the_index_is_made_anew_from_the_log(lake: Lake, tmp_path: Path) -> None:
    for orders in range(1, 14):  # beyond the tenth version, at which the log is checkpointed
        put(lake, THINGS, D1 if orders % 2 else D2, things(D1 if orders % 2 else D2, orders=orders))
    before = lake.catalog.publications("things")
    anew = Lake(lake.root, Catalog(tmp_path / "anew.sqlite"))
    assert anew.days(THINGS) == [D1, D2]
    assert anew.catalog.publications("things") == before


def test_the_facts_travel_with_the_commit(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1), generation=3, inputs={"raw/all": "x"})
    commit, _ = DeltaTable(str(lake.root / "things")).history()  # the other one made the table
    [facts] = json.loads(commit["holdfast"])
    assert facts["content_hash"] == hash_of(lake, D1)
    assert (facts["generation"], facts["inputs"]) == (3, {"raw/all": "x"})


# -- what may be made from what ------------------------------------------------------------------


def verdict(lake: Lake, day: date, *, passed: bool) -> int:
    failures = () if passed else ("order_count: 3 rows below 0",)
    audit = Audit("things", day.isoformat(), "sha", "hash", "v1", 5, 5, passed, failures, "run")
    return lake.catalog.record_audits([audit])[0]


def test_what_is_not_published_is_required_in_vain(lake: Lake) -> None:
    with pytest.raises(NotPublishedError, match=r"things of 2024-03-01.*materialise lake/things"):
        lake.require(THINGS, D1)


def test_a_failed_audit_stops_what_would_be_made_from_it(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    verdict(lake, D1, passed=True)
    assert lake.require(THINGS, D1).row_count == 3
    number = verdict(lake, D1, passed=False)
    with pytest.raises(NotPublishedError, match=rf"audit {number} .*order_count: 3 rows below 0"):
        lake.require(THINGS, D1)
    assert lake.read(THINGS, [D1]).num_rows == 3  # the last good partition stands
    verdict(lake, D1, passed=True)
    assert lake.require(THINGS, D1).row_count == 3


def test_a_failed_audit_of_one_day_is_not_that_of_another(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    verdict(lake, D2, passed=False)
    assert lake.require(THINGS, D1).row_count == 3


def test_inputs_of_one_generation_go_together(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1), generation=2)
    made_from = {f"things/{D1}": hash_of(lake, D1)}
    put(lake, OTHERS, D1, others(D1), generation=2, inputs=made_from)
    assert list(lake.require_together([THINGS, OTHERS], D1)) == ["things", "others"]
    # what does not concern this day or these tables does not matter
    put(lake, THINGS, D2, things(D2), generation=3)
    assert lake.require_together([THINGS, OTHERS], D1)


def test_made_from_content_that_was_replaced_since(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    put(lake, OTHERS, D1, others(D1), inputs={f"things/{D1}": hash_of(lake, D1)})
    put(lake, THINGS, D1, things(D1, orders=2))
    for tables in ([THINGS, OTHERS], [OTHERS, THINGS]):
        with pytest.raises(MixedGenerationError, match=r"others of .* an older things; .*lake/oth"):
            lake.require_together(tables, D1)


def test_made_from_different_loads(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1), generation=1)
    put(lake, OTHERS, D1, others(D1), generation=2)
    with pytest.raises(MixedGenerationError, match="different loads"):
        lake.require_together([THINGS, OTHERS], D1)


def test_together_needs_each(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1))
    with pytest.raises(NotPublishedError, match="others of 2024-03-01"):
        lake.require_together([THINGS, OTHERS], D1)


# -- several writers -----------------------------------------------------------------------------


def test_two_threads_write_two_partitions_of_a_new_table(lake: Lake) -> None:
    errors: list[BaseException] = []

    def write(days: list[date]) -> None:
        own = Lake(lake.root, Catalog(lake.catalog.path))
        try:
            for day in days:
                put(own, THINGS, day, things(day, orders=day.day))
        except BaseException as error:
            errors.append(error)

    days = [date(2024, 3, n) for n in range(1, 9)]
    threads = [threading.Thread(target=write, args=(part,)) for part in (days[::2], days[1::2])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert lake.days(THINGS) == days
    for day in days:
        assert lake.read(THINGS, [day]).column("order_count").to_pylist() == [day.day] * 3


def _write(root: str, catalog: str, orders: int, answers: multiprocessing.Queue[str]) -> None:
    try:
        lake = Lake(Path(root), Catalog(Path(catalog)))
        for day in (D1, D2):
            put(lake, THINGS, day, things(day, orders=orders), generation=orders)
        answers.put("")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def _draw(root: str, catalog: str, first: int, answers: multiprocessing.Queue[str]) -> None:
    try:
        lake = Lake(Path(root), Catalog(Path(catalog)))
        for start in range(first, first + 60, 20):
            content = canonical(draws(D1, range(start, start + 20), arm=f"a{first}"), LEDGER)
            lake.merge_new(LEDGER, content, facts_of(LEDGER, D1, content))
        answers.put("")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def _at_once(target: object, lake: Lake, arguments: tuple[int, ...]) -> None:
    answers: multiprocessing.Queue[str] = SPAWN.Queue()
    paths = (str(lake.root), str(lake.catalog.path))
    processes = [
        SPAWN.Process(target=target, args=(*paths, argument, answers))  # type: ignore[arg-type]
        for argument in arguments
    ]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [""] * len(processes)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_two_processes_replace_the_same_partitions(lake: Lake) -> None:
    """Whoever is last, each partition is one writer's, whole, and the index says whose."""
    _at_once(_write, lake, (1, 2))
    for day in (D1, D2):
        [orders] = set(lake.read(THINGS, [day]).column("order_count").to_pylist())
        found = lake.publication(THINGS, day)
        assert found is not None
        assert (found.generation, found.row_count) == (orders, 3)
        assert found.content_hash == hash_of(lake, day)
    assert DeltaTable(str(lake.root / "things")).version() == 4


def test_two_processes_draw_overlapping_customers(lake: Lake) -> None:
    """Customers 0..59 and 30..89: nobody is lost, nobody is drawn twice."""
    _at_once(_draw, lake, (0, 30))
    rows = lake.read_frame(LEDGER)
    assert sorted(rows["customer_key"]) == [key(n) for n in range(90)]
    assert set(rows["arm"]) == {"a0", "a30"}


# -- the ledger ----------------------------------------------------------------------------------


def test_a_merge_inserts_only_what_is_new(lake: Lake) -> None:
    first = canonical(draws(D1, range(3)), LEDGER)
    assert lake.merge_new(LEDGER, first, facts_of(LEDGER, D1, first)) == 3
    second = canonical(draws(D2, range(5), arm="mail"), LEDGER)
    assert lake.merge_new(LEDGER, second, facts_of(LEDGER, D2, second)) == 2
    rows = lake.read_frame(LEDGER)
    assert rows["arm"].tolist() == ["control"] * 3 + ["mail"] * 2
    assert lake.merge_new(LEDGER, first, facts_of(LEDGER, D1, first)) == 0


def test_a_day_on_which_nobody_was_drawn_is_a_day(lake: Lake) -> None:
    nobody = canonical(draws(D1, range(0)), LEDGER)
    assert lake.merge_new(LEDGER, nobody, facts_of(LEDGER, D1, nobody)) == 0
    assert lake.days(LEDGER) == [D1]
    assert lake.read(LEDGER).num_rows == 0
    assert [one.row_count for one in lake.versions(LEDGER, D1)] == [0]


def test_the_ledger_is_read_in_order(lake: Lake) -> None:
    content = canonical(draws(D1, range(5000)), LEDGER)
    lake.merge_new(LEDGER, content, facts_of(LEDGER, D1, content))
    assert lake.read(LEDGER).equals(content)


# -- leaving -------------------------------------------------------------------------------------


def test_a_process_that_read_ends_well(lake: Lake) -> None:
    """`to_pyarrow_dataset` of deltalake aborts the interpreter at exit in two of three runs."""
    put(lake, THINGS, D1, things(D1))
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from small_tables import THINGS, D1\n"
        "from orchestration.resources.lake import Lake\n"
        "from orchestration.resources.catalog import Catalog\n"
        "lake = Lake(Path(sys.argv[1]), Catalog(Path(sys.argv[2])))\n"
        "assert len(lake.read_frame(THINGS)) == 3\n"
        "assert lake.require(THINGS, D1).row_count == 3\n"
    )
    arguments = [str(lake.root), str(lake.catalog.path), str(Path(__file__).parent)]
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


# -- the lake before its index -------------------------------------------------------------------


def test_a_deleted_table_is_not_there_whatever_the_index_says(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1, 3))
    shutil.rmtree(lake.root / THINGS.name)
    assert lake.days(THINGS) == []
    with pytest.raises(NotPublishedError):
        lake.require(THINGS, D1)
    put(lake, THINGS, D2, things(D2, 3))
    assert lake.days(THINGS) == [D2]


def test_a_lost_file_is_named_and_mended_by_publishing_again(
    lake: Lake, publisher: Publisher
) -> None:
    facts = Facts("run", 1)
    publisher.run(THINGS, D1, things(D1, 3), facts)
    (file,) = (lake.root / THINGS.name).rglob("*.parquet")
    file.unlink()
    with pytest.raises(DamagedError, match=f"{THINGS.name} of {D1}"):
        lake.read(THINGS, [D1])
    outcome = publisher.run(THINGS, D1, things(D1, 3), facts)
    assert outcome.changed
    assert lake.read(THINGS, [D1]).num_rows == 3


def test_a_commit_that_fails_leaves_what_stood(
    lake: Lake, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies in its folder by then, but no log tells of it."""
    facts = Facts("run", 1)
    publisher.run(THINGS, D1, things(D1, 3), facts)
    with monkeypatch.context() as patch:
        full = OSError("no space left on device")
        patch.setattr(DeltaTable, "create_write_transaction", lambda *_, **__: raises(full))
        with pytest.raises(OSError, match="no space"):
            publisher.run(THINGS, D1, things(D1, 5), facts)
    assert lake.read(THINGS, [D1]).num_rows == 3
    assert publisher.run(THINGS, D1, things(D1, 5), facts).changed
    assert Lake(lake.root, lake.catalog).read(THINGS).num_rows == 5


def raises(error: Exception) -> None:
    raise error


def test_inputs_are_judged_at_any_depth(lake: Lake) -> None:
    put(lake, THINGS, D1, things(D1, 3))
    inputs = {f"{THINGS.name}/{D1}": hash_of(lake, D1)}
    put(lake, OTHERS, D1, others(D1, 3), inputs=inputs)
    lake.require_together([OTHERS], D1)
    put(lake, THINGS, D1, things(D1, 4))  # replaced, and OTHERS not made again
    with pytest.raises(MixedGenerationError, match="older things"):
        lake.require_together([OTHERS], D1)


def test_a_ledger_gains_a_column_and_keeps_its_rows(lake: Lake) -> None:
    first = canonical(draws(D1, range(2)), LEDGER)
    lake.merge_new(LEDGER, first, facts_of(LEDGER, D1, first))
    wider = replace(LEDGER, columns=(*LEDGER.columns, Column("layer", "string", nullable=True)))
    later = Lake(lake.root, lake.catalog)  # another process, of a newer version
    for day, numbers in ((D2, range(3)), (D3, range(4))):
        content = canonical(draws(day, numbers).assign(layer="crm"), wider)
        assert later.merge_new(wider, content, facts_of(wider, day, content)) == 1
    layers = later.read_frame(wider).set_index("customer_key")["layer"]
    assert layers[[key(0), key(1)]].isna().all()
    assert list(layers[[key(2), key(3)]]) == ["crm", "crm"]
