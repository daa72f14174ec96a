"""The catalog: verdicts are appended, the index never goes back, any number of processes start."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from orchestration.resources.catalog import Audit, Catalog, Publication

SPAWN = multiprocessing.get_context("spawn")
AUDIT = Audit("things", "2024-03-01", "sha", "hash", "suite", 5, 5, True, (), "run")
PUBLISHED = Publication("things", "2024-03-01", 3, "hash", 10, 2, {"raw/all": "x"}, "run", "c", "4")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog.sqlite")


def test_verdicts_are_appended_and_the_newest_counts(catalog: Catalog) -> None:
    first = catalog.record_audits([AUDIT])[0]
    failed = replace(AUDIT, passed=False, failures=("order_count: 3 rows", "score: 1 row"))
    second = catalog.record_audits([failed])[0]
    assert second > first
    assert catalog.latest_audit("things", "2024-03-01") == replace(failed, id=second)
    assert catalog.latest_audit("things", "2024-03-02") is None
    assert catalog.latest_audit("others", "2024-03-01") is None


def test_the_verdict_on_one_file_is_not_that_on_another(catalog: Catalog) -> None:
    catalog.record_audits([AUDIT])
    catalog.record_audits([replace(AUDIT, file_sha256="other", passed=False)])
    found = catalog.latest_audit("things", "2024-03-01", "sha")
    assert found is not None
    assert found.passed
    assert catalog.latest_audit("things", "2024-03-01", "third") is None


def test_the_index_gives_back_what_it_was_given(catalog: Catalog) -> None:
    assert catalog.indexed_version("things") == -1
    catalog.index([PUBLISHED])
    assert catalog.publication("things", "2024-03-01") == PUBLISHED
    assert catalog.publications("things") == {"2024-03-01": PUBLISHED}
    assert catalog.indexed_version("things") == 3


def test_a_connection_that_failed_is_opened_again(catalog: Catalog) -> None:
    catalog.index([PUBLISHED])
    path, other = catalog.path, Catalog(catalog.path)
    vars(other)["_kept"].__dict__.clear()  # as in a thread that has not asked yet
    other.path = path / "no" / "such.sqlite"
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="unable to open"):
            other.publications("things")
    other.path = path
    assert other.publications("things") == {"2024-03-01": PUBLISHED}


def test_every_thread_has_a_connection_of_its_own(catalog: Catalog) -> None:
    catalog.index([PUBLISHED])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: catalog.publications("things"), range(40)))
    assert found == [{"2024-03-01": PUBLISHED}] * 40


def test_the_index_never_goes_back(catalog: Catalog) -> None:
    """A slow process that indexes an older commit last does not hide a newer one."""
    newer = replace(PUBLISHED, delta_version=4, content_hash="newer")
    catalog.index([newer])
    catalog.index([PUBLISHED])
    assert catalog.publication("things", "2024-03-01") == newer
    assert catalog.indexed_version("things") == 4


def test_partitions_come_in_order(catalog: Catalog) -> None:
    for day in ("2024-03-09", "2024-02-29", "2024-03-01"):
        catalog.index([replace(PUBLISHED, partition=day)])
    assert list(catalog.publications("things")) == ["2024-02-29", "2024-03-01", "2024-03-09"]


def _start(path: str, at: float, answers: multiprocessing.Queue[str]) -> None:
    time.sleep(max(0.0, at - time.time()))  # all at once
    try:
        catalog = Catalog(Path(path))
        for _ in range(5):
            catalog.record_audits([AUDIT])
        answers.put("")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def test_four_processes_start_at_once(tmp_path: Path) -> None:
    """Two processes that initialise one SQLite file at once fail: 6 of 6 did, unlocked."""
    answers: multiprocessing.Queue[str] = SPAWN.Queue()
    at = time.time() + 2.5
    for trial in range(3):
        path = tmp_path / f"{trial}.sqlite"
        processes = [SPAWN.Process(target=_start, args=(str(path), at, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        assert [answers.get(timeout=30) for _ in processes] == [""] * 4
        for process in processes:
            process.join(30)
        last = Catalog(path).latest_audit("things", "2024-03-01")
        assert last is not None
        assert last.id == 20


def test_a_half_made_catalog_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that looks while the first is still making the tables must wait for it."""
    from orchestration.resources import catalog as module

    path = tmp_path / "catalog.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(module, "SCHEMA", "create table half (n integer); this is not SQL")
        with pytest.raises(Exception, match="syntax error"):
            Catalog(path)
    catalog = Catalog(path)
    assert catalog.record_audits([AUDIT]) == [1]


def test_a_load_is_remembered_as_it_was_noted_last(catalog: Catalog) -> None:
    catalog.note_loads([(1, "orders/1.csv", None), (2, "orders/2.csv", "2024-03-03")])
    catalog.note_loads([(1, "orders/1.csv", "2024-03-01"), (2, "orders/2.csv", None)])
    assert catalog.restatements() == [(1, "2024-03-01")]


def test_the_generation_is_the_greatest_that_anybody_knows(catalog: Catalog) -> None:
    assert catalog.generation() == 0
    catalog.index([PUBLISHED])
    assert catalog.generation() == PUBLISHED.generation
    catalog.note_loads([(PUBLISHED.generation + 3, "orders/1.csv", None)])
    assert catalog.generation() == PUBLISHED.generation + 3
    catalog.index([replace(PUBLISHED, table="others", generation=40)])
    assert catalog.generation() == 40


def test_nobody_is_handed_over_twice(catalog: Catalog) -> None:
    assert catalog.exported("winback") == {}
    catalog.note_export("winback", ["a", "b"], date(2024, 3, 1), "Head of CRM")
    with pytest.raises(sqlite3.IntegrityError):
        catalog.note_export("winback", ["c", "a"], date(2024, 3, 2), "Head of CRM")
    assert catalog.exported("winback") == {"a": "2024-03-01", "b": "2024-03-01"}
    assert catalog.exported("another") == {}


def test_an_older_catalog_gains_the_exports(catalog: Catalog) -> None:
    with sqlite3.connect(catalog.path) as connection:
        connection.execute("drop table exports")
        connection.execute("pragma user_version = 2")
    assert Catalog(catalog.path).exported("winback") == {}
