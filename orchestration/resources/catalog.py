"""The catalog of a home: audit records, loads, exports, and an index of what was published.

What belongs here: the SQLite tables behind the publish gate and behind staleness, which must be
answered without opening the warehouse. The Delta log is the truth about
publications; the index only spares reading it, and is completed from it when a crash left it short
(`orchestration/resources/lake.py`). What does not belong here: judging (`expectations/`) and
deciding (`orchestration/resources/publishing.py`).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestration.resources.home import file_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

# Raised whenever SCHEMA gains a table: an older catalog is brought forward when it is opened.
SCHEMA_VERSION = 3
SCHEMA = """
create table if not exists audits (
    id integer primary key,
    table_name text not null, partition text not null,
    file_sha256 text not null, content_hash text not null,
    suite_version text not null, expected integer not null, evaluated integer not null,
    passed integer not null, failures text not null, run_id text not null
);
create index if not exists audits_by_partition on audits (table_name, partition, id);
create table if not exists publications (
    table_name text not null, partition text not null, delta_version integer not null,
    content_hash text not null, row_count integer not null, generation integer not null,
    inputs text not null, run_id text not null, code_version text not null,
    model_version text,
    primary key (table_name, partition)
);
create table if not exists indexed (table_name text primary key, delta_version integer not null);
create table if not exists loads (
    generation integer primary key, file text not null, restated_from text
);
create table if not exists exports (
    campaign_id text not null, customer_key text not null,
    exported_on text not null, approver text not null,
    primary key (campaign_id, customer_key)
);
"""


@dataclass(frozen=True)
class Audit:
    """The verdict of one suite on one staged file."""

    table: str
    partition: str
    file_sha256: str
    content_hash: str
    suite_version: str
    expected: int
    evaluated: int
    passed: bool
    failures: tuple[str, ...]
    run_id: str
    id: int = 0


@dataclass(frozen=True)
class Publication:
    """One published partition: what stands in it and where it came from."""

    table: str
    partition: str
    delta_version: int
    content_hash: str
    row_count: int
    generation: int  # load sequence of raw up to which the partition is known to hold
    inputs: dict[str, str] = field(default_factory=dict)  # "table/partition" -> content hash
    run_id: str = ""
    code_version: str = ""
    model_version: str | None = None


class Catalog:
    """Audits and publications of one home. Safe between processes (SQLite, WAL)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = threading.local()
        if not path.is_file() or self._version() < SCHEMA_VERSION:
            # Two processes that initialise one SQLite file at once fail (facts: 6 of 6 did).
            with file_lock(path.with_suffix(".init.lock")), self._connect() as connection:
                connection.execute("pragma journal_mode = wal")
                connection.executescript(SCHEMA)
                connection.execute(f"pragma user_version = {SCHEMA_VERSION}")

    def _version(self) -> int:
        with self._connect() as connection:
            return int(connection.execute("pragma user_version").fetchone()[0])

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # One connection a thread: a day asks 200 times, and the last one to close writes the WAL
        # back, 45 ms a day in all. Never one of the process that this one was forked from.
        kept = self._kept
        if getattr(kept, "pid", None) != os.getpid():
            opened = sqlite3.connect(self.path, timeout=30)
            opened.row_factory = sqlite3.Row
            opened.execute("pragma synchronous = normal")  # the Delta log is the truth
            kept.connection, kept.pid = opened, os.getpid()
        with kept.connection as connection:
            yield connection

    def record_audits(self, audits: Sequence[Audit]) -> list[int]:
        """Append verdicts in one transaction; return their ids."""
        with self._connect() as connection:
            return [
                int(
                    connection.execute(
                        "insert into audits (table_name, partition, file_sha256, content_hash,"
                        " suite_version, expected, evaluated, passed, failures, run_id)"
                        " values (?,?,?,?,?,?,?,?,?,?)",
                        (
                            audit.table,
                            audit.partition,
                            audit.file_sha256,
                            audit.content_hash,
                            audit.suite_version,
                            audit.expected,
                            audit.evaluated,
                            int(audit.passed),
                            json.dumps(audit.failures),
                            audit.run_id,
                        ),
                    ).lastrowid
                    or 0
                )
                for audit in audits
            ]

    def latest_audit(
        self, table: str, partition: str, file_sha256: str | None = None
    ) -> Audit | None:
        """Return the newest verdict on a partition, or on one very file of it."""
        query = "select * from audits where table_name = ? and partition = ?"
        values: list[Any] = [table, partition]
        if file_sha256 is not None:
            query += " and file_sha256 = ?"
            values.append(file_sha256)
        with self._connect() as connection:
            row = connection.execute(query + " order by id desc limit 1", values).fetchone()
        if row is None:
            return None
        return Audit(
            table=row["table_name"],
            partition=row["partition"],
            file_sha256=row["file_sha256"],
            content_hash=row["content_hash"],
            suite_version=row["suite_version"],
            expected=row["expected"],
            evaluated=row["evaluated"],
            passed=bool(row["passed"]),
            failures=tuple(json.loads(row["failures"])),
            run_id=row["run_id"],
            id=row["id"],
        )

    def index(self, publications: Sequence[Publication]) -> None:
        """Remember publications of one table whose Delta commits have landed."""
        if not publications:
            return
        with self._connect() as connection:
            connection.executemany(
                # A slow process that indexes an older commit last must not hide a newer one.
                "insert into publications values (?,?,?,?,?,?,?,?,?,?)"
                " on conflict (table_name, partition) do update set"
                " delta_version = excluded.delta_version, content_hash = excluded.content_hash,"
                " row_count = excluded.row_count, generation = excluded.generation,"
                " inputs = excluded.inputs, run_id = excluded.run_id,"
                " code_version = excluded.code_version, model_version = excluded.model_version"
                " where excluded.delta_version >= delta_version",
                [
                    (
                        publication.table,
                        publication.partition,
                        publication.delta_version,
                        publication.content_hash,
                        publication.row_count,
                        publication.generation,
                        json.dumps(publication.inputs, sort_keys=True),
                        publication.run_id,
                        publication.code_version,
                        publication.model_version,
                    )
                    for publication in publications
                ],
            )
            newest = max(publication.delta_version for publication in publications)
            self._note_indexed(connection, publications[0].table, newest)

    def forget(self, table: str) -> None:
        """Drop the index of a table whose Delta log is not the one that was indexed."""
        with self._connect() as connection:
            connection.execute("delete from publications where table_name = ?", (table,))
            connection.execute("delete from indexed where table_name = ?", (table,))

    def note_indexed(self, table: str, delta_version: int) -> None:
        """Remember that the index covers `table` up to a version (a commit may publish nothing)."""
        with self._connect() as connection:
            self._note_indexed(connection, table, delta_version)

    @staticmethod
    def _note_indexed(connection: sqlite3.Connection, table: str, delta_version: int) -> None:
        connection.execute(
            "insert into indexed values (?, ?) on conflict (table_name)"
            " do update set delta_version = max(delta_version, excluded.delta_version)",
            (table, delta_version),
        )

    def indexed_version(self, table: str) -> int:
        """Return the newest Delta version of `table` that the index covers, -1 if none."""
        with self._connect() as connection:
            row = connection.execute(
                "select delta_version from indexed where table_name = ?", (table,)
            ).fetchone()
        return -1 if row is None else int(row[0])

    def publications(self, table: str) -> dict[str, Publication]:
        """Return every published partition of `table`, by partition, in order."""
        with self._connect() as connection:
            rows = connection.execute(
                "select * from publications where table_name = ? order by partition", (table,)
            ).fetchall()
        return {row["partition"]: _publication(row) for row in rows}

    def publication(self, table: str, partition: str) -> Publication | None:
        """Return what stands in one partition of `table`, or None."""
        with self._connect() as connection:
            row = connection.execute(
                "select * from publications where table_name = ? and partition = ?",
                (table, partition),
            ).fetchone()
        return None if row is None else _publication(row)

    def note_loads(self, loads: list[tuple[int, str, str | None]]) -> None:
        """Remember loaded files: (generation, file, first day that it restates or None)."""
        with self._connect() as connection:
            connection.executemany(
                "insert into loads values (?, ?, ?) on conflict (generation)"
                " do update set file = excluded.file, restated_from = excluded.restated_from",
                loads,
            )

    def generation(self) -> int:
        """Return the greatest load sequence that a load or a publication is known by, 0 if none."""
        with self._connect() as connection:
            row = connection.execute(
                "select max(coalesce((select max(generation) from loads), 0),"
                " coalesce((select max(generation) from publications), 0))"
            ).fetchone()
        return int(row[0])

    def note_export(
        self, campaign_id: str, customer_keys: Iterable[str], exported_on: date, approver: str
    ) -> None:
        """Remember who is handed over: all of them, or none.

        Raises:
            sqlite3.IntegrityError: one of them was handed over before.
        """
        with self._connect() as connection:
            connection.executemany(
                "insert into exports values (?, ?, ?, ?)",
                [(campaign_id, key, exported_on.isoformat(), approver) for key in customer_keys],
            )

    def exported(self, campaign_id: str) -> dict[str, str]:
        """Return who was handed over for a campaign: customer_key -> day of the export."""
        with self._connect() as connection:
            rows = connection.execute(
                "select customer_key, exported_on from exports where campaign_id = ?",
                (campaign_id,),
            ).fetchall()
        return {str(row[0]): str(row[1]) for row in rows}

    def restatements(self) -> list[tuple[int, str]]:
        """Return (generation, first day) of every load that restates published days."""
        with self._connect() as connection:
            return [
                (int(row[0]), str(row[1]))
                for row in connection.execute(
                    "select generation, restated_from from loads"
                    " where restated_from is not null order by generation"
                )
            ]


def _publication(row: sqlite3.Row) -> Publication:
    return Publication(
        table=row["table_name"],
        partition=row["partition"],
        delta_version=row["delta_version"],
        content_hash=row["content_hash"],
        row_count=row["row_count"],
        generation=row["generation"],
        inputs=json.loads(row["inputs"]),
        run_id=row["run_id"],
        code_version=row["code_version"],
        model_version=row["model_version"],
    )
