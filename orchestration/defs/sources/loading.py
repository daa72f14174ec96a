"""Loading landing files into the raw tables: each file once, whole or not at all.

Here belongs everything between a file that the shop delivered and `raw.<table>`: reading it with
the contract's types, splitting off identifiers, quarantine, versions of a key, accounting. What a
column must hold is said in contract.yaml; what the rows mean for a customer is the mart's business.

Tables that this module keeps in the schema `ops`:

- `load_files`: one row per delivery of a file (`file` is its path below the landing folder).
  `load_sequence` counts the files taken in; it is empty for `failed` and `skipped` ones.
  `restated_from_date` is the first day on which its rows are known: their business day, or the day
  of their arrival where that is later. Days from there on, if published already, are stale.
- `load_days`: rows that a file delivered per business day, counted before any was judged.
- `quarantine`: rows that break the contract, with the first reason; the payload holds the row as
  delivered, with `customer_key` in place of identifiers.
- `duplicates`: rows that were dropped because an identical one was delivered later.

Of several versions of a key the latest by (arrived_at, empty first; file; load sequence; line) is
current, in whatever order the files were loaded. The others keep the day from which on a later one
was known (`_superseded_date`): worked out here, where versions of a key meet, it costs the mart
nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.defs.sources.contract import (
    ARRIVED_AT,
    CUSTOMER_ID,
    CUSTOMER_KEY,
    SUPERSEDED,
    Contract,
    ContractError,
    SourceTable,
    content_columns,
    raw_columns,
    row_columns,
)
from orchestration.defs.sources.parsing import (
    absent,
    judgements,
    literal,
    parsed,
    with_instants,
)
from orchestration.defs.sources.reading import (
    FileRejected,
    Reader,
    landing_files,
    open_reader,
    open_regular,
)
from orchestration.resources.vault import Identity, Vault, normalise_id

if TYPE_CHECKING:
    from datetime import date

    import duckdb
    import pandas as pd
    import pyarrow as pa

# Versions `v` of a key, of files `f`, the one that wins first.
_LATEST_FIRST = f"{ARRIVED_AT} DESC NULLS LAST, file DESC, load_sequence DESC, _line DESC"
# greatest() passes over nulls. What names no day at all was always known.
_KNOWN_DATE = "coalesce(greatest(occurred_date, arrived_date), DATE '1900-01-01')"

_COUNTS = ("loaded", "quarantined", "duplicates", "superseded")

_OPS = """
CREATE SCHEMA IF NOT EXISTS raw;
CREATE SCHEMA IF NOT EXISTS ops;
CREATE TABLE IF NOT EXISTS ops.load_files (
    file_id INTEGER, load_sequence INTEGER, table_name VARCHAR, file VARCHAR, sha256 VARCHAR,
    status VARCHAR, rows_in BIGINT, restated_from_date DATE, unexpected_columns VARCHAR[],
    error VARCHAR);
CREATE TABLE IF NOT EXISTS ops.load_days (
    file_id INTEGER, business_date DATE, rows_in BIGINT);
CREATE TABLE IF NOT EXISTS ops.quarantine (
    file_id INTEGER, line INTEGER, table_name VARCHAR, column_name VARCHAR, reason VARCHAR,
    business_date DATE, order_id VARCHAR, payload VARCHAR);
CREATE TABLE IF NOT EXISTS ops.duplicates (
    file_id INTEGER, line INTEGER, table_name VARCHAR, business_date DATE, order_id VARCHAR);
"""


class AccountingError(Exception):
    """Rows that were delivered are neither loaded nor accounted for."""


@dataclass(frozen=True)
class FileLoad:
    """What became of one file in one load. Rows that it superseded in older files are theirs."""

    table: str
    file: str
    status: str  # loaded | skipped (the same bytes were loaded under another name)
    rows_in: int = 0
    quarantined: int = 0
    unexpected_columns: tuple[str, ...] = ()
    restated_from_date: date | None = None


@dataclass(frozen=True)
class LoadReport:
    """What one load did: files taken in or skipped, files refused, folders that nobody expected."""

    files: tuple[FileLoad, ...] = ()
    failed: tuple[FileRejected, ...] = ()
    empty_tables: tuple[str, ...] = ()
    unexpected_folders: tuple[str, ...] = ()

    @property
    def rows_in(self) -> int:
        """Rows of all files that were loaded."""
        return sum(file.rows_in for file in self.files)

    @property
    def restated_from_date(self) -> date | None:
        """First day that the rows changed, over all files."""
        days = [f.restated_from_date for f in self.files if f.restated_from_date is not None]
        return min(days, default=None)


def load_landing(
    connection: duckdb.DuckDBPyConnection,
    landing: Path,
    contract: Contract,
    vault: Vault,
    shop_timezone: str,
    max_bad_share: float = 0.01,
    on_progress: Callable[[str], None] | None = None,
    after: int = 0,
) -> LoadReport:
    """Load every file below `landing` that was not loaded before, and report.

    `<landing>/<table>/**/*.csv|*.parquet`; names that begin with `.` or `_` are passed over. Each
    file is one transaction. A file with a share of bad rows above `max_bad_share`, or that cannot
    be read as the contract says, is refused as a whole and named in `LoadReport.failed`; the others
    load. `shop_timezone` (IANA name) reads timestamps without a zone and defines business days; a
    clock time that the change from summer time repeats is read as the later one. `after`: the
    greatest load sequence that anybody remembers; a warehouse that was made again goes on from
    there, or published days would seem newer than what it loads.

    Raises:
        ContractError: the folder as a whole cannot be loaded: it does not exist, a required table
            was never delivered, or the raw tables were made by another version of the contract.
    """
    say = on_progress or (lambda message: None)
    if not landing.is_dir():
        raise ContractError(f"the landing folder {landing} does not exist")
    _prepare(connection, contract, shop_timezone)
    found = {table.name: landing_files(landing, table) for table in contract.tables}
    _require_tables(connection, contract, landing, found)

    loader = _Loader(connection, vault, shop_timezone, max_bad_share, after)
    done: list[FileLoad] = []
    failed: list[FileRejected] = []
    for table in contract.tables:
        for path in found[table.name]:
            file = path.relative_to(landing).as_posix()
            try:
                result = loader.load(table, path, file)
            except FileRejected as rejected:
                failed.append(rejected)
                say(f"refused {rejected}")
                continue
            if result is not None:
                done.append(result)
                say(f"{result.status} {file}: {result.rows_in:,} rows")
    return LoadReport(
        files=tuple(done),
        failed=tuple(failed),
        empty_tables=tuple(
            table.name for table in contract.tables if _is_empty(connection, table.name)
        ),
        unexpected_folders=_unexpected_folders(landing, contract),
    )


def accounting(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Where every delivered row went.

    One row per file and business day (a `datetime.date`, None where the rows have none), with
    columns table, file_id, file, business_date, rows_in, loaded, quarantined, duplicates,
    superseded. Lines of orders take the day of their order. What a file delivered and no day
    explains stands in `rows_in` of its row without a day, where `check_accounting` finds it.
    """
    tables = [
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT table_name FROM ops.load_files WHERE status = 'loaded' ORDER BY 1"
        ).fetchall()
    ]
    # An order has one current row, so the join adds no rows.
    join = "LEFT JOIN raw.orders o ON o.order_id = r.order_id AND o._is_current"
    parts = [
        "SELECT r.file_id, coalesce(r.business_date, o.occurred_date) AS business_date,"
        f" 0 AS loaded, {here} AS quarantined, {there} AS duplicates, 0 AS superseded"
        f" FROM ops.{name} r {join}"
        for name, here, there in (("quarantine", 1, 0), ("duplicates", 0, 1))
    ]
    for name in tables:
        day, with_order = (
            ("o.occurred_date", join)
            if name == "order_items"
            else (
                "r.occurred_date",
                "",
            )
        )
        parts.append(
            f"SELECT r._file_id, {day}, CAST(r._is_current AS INTEGER), 0, 0,"
            f" CAST(NOT r._is_current AS INTEGER) FROM raw.{name} r {with_order}"
        )
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in _COUNTS)
    total = " + ".join(f"coalesce(w.{name}, 0)" for name in _COUNTS)
    counts = ", ".join(f"coalesce(w.{name}, 0) AS {name}" for name in _COUNTS)
    frame = connection.execute(
        f"""
        WITH went AS (
            SELECT file_id, business_date, {sums} FROM ({" UNION ALL ".join(parts)})
            GROUP BY file_id, business_date
        ), days AS (
            SELECT file_id, business_date FROM went
            UNION SELECT file_id, business_date FROM ops.load_days
            UNION SELECT file_id, NULL FROM ops.load_files WHERE status = 'loaded'
        ), counted AS (
            SELECT d.file_id, d.business_date, {counts},
                -- lines of orders have no day of their own to be counted by
                CASE WHEN f.table_name = 'order_items' THEN {total}
                    ELSE coalesce(l.rows_in, 0) END AS day_rows, f.rows_in AS file_rows,
                f.table_name, f.file
            FROM days d
            JOIN ops.load_files f ON f.file_id = d.file_id
            LEFT JOIN went w ON w.file_id = d.file_id
                AND w.business_date IS NOT DISTINCT FROM d.business_date
            LEFT JOIN ops.load_days l ON l.file_id = d.file_id
                AND l.business_date IS NOT DISTINCT FROM d.business_date
        ), balanced AS (
            SELECT *, CASE WHEN business_date IS NOT NULL THEN day_rows ELSE file_rows - coalesce(
                sum(day_rows) FILTER (WHERE business_date IS NOT NULL)
                OVER (PARTITION BY file_id), 0) END AS rows_in
            FROM counted
        )
        SELECT table_name AS "table", file_id, file, business_date,
            CAST(rows_in AS BIGINT) AS rows_in, {", ".join(_COUNTS)}
        FROM balanced
        WHERE business_date IS NOT NULL OR rows_in <> 0
            OR loaded + quarantined + duplicates + superseded <> 0
        ORDER BY "table", file, file_id, business_date NULLS FIRST
        """
    ).df()
    import pandas as pd

    days = [None if pd.isna(day) else day.date() for day in frame["business_date"]]
    frame["business_date"] = pd.Series(days, dtype=object, index=frame.index)
    return frame


def check_accounting(frame: pd.DataFrame) -> None:
    """Raise AccountingError, naming files and days, where rows in do not equal rows accounted for.

    `frame` is what `accounting` returns.
    """
    out = frame[list(_COUNTS)].sum(axis=1)
    wrong = frame[frame["rows_in"] != out]
    if len(wrong):
        lines = [
            f"{row['file']}, {row['business_date'] or 'without a day'}: {row['rows_in']} rows in, "
            + " + ".join(f"{row[name]} {name}" for name in _COUNTS)
            for row in wrong.head(5).to_dict("records")
        ]
        raise AccountingError(
            f"{len(wrong)} files and days do not add up; the first: " + "; ".join(lines)
        )


class _Loader:
    """State of one load: the connection and the pseudonyms met so far."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        vault: Vault,
        shop_timezone: str,
        max_bad_share: float,
        after: int,
    ) -> None:
        self.connection = connection
        self.vault = vault
        self.shop_timezone = shop_timezone
        self.max_bad_share = max_bad_share
        self.after = after
        self.keys: dict[str, str | None] = {}
        self.stored: set[str] = set()

    def load(self, table: SourceTable, path: Path, file: str) -> FileLoad | None:
        """Load one file; None where this very delivery is known. Raises FileRejected."""
        sha256 = ""
        try:
            with open_regular(table, path, file) as stream:
                before = os.fstat(stream.fileno())
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                if self._is_known(table, file, sha256):
                    return None
                if self._skip(table, file, sha256):
                    return FileLoad(table.name, file, "skipped")
                stream.seek(0)
                result = self._take_in(table, stream, file, sha256, before)
        except FileRejected as rejected:
            self._record(table, file, sha256, "failed", error=rejected.reason)
            raise
        return result

    def _is_known(self, table: SourceTable, file: str, sha256: str) -> bool:
        row = self.connection.execute(
            "SELECT sha256 FROM ops.load_files WHERE table_name = ? AND file = ?"
            " AND status <> 'failed' ORDER BY file_id DESC LIMIT 1",
            [table.name, file],
        ).fetchone()
        return row is not None and row[0] == sha256

    def _skip(self, table: SourceTable, file: str, sha256: str) -> bool:
        """Record a delivery whose bytes were loaded before, unless loading it would matter.

        Delivered again under a later name, the same rows are the latest of their keys once more.
        Where none of those keys has another version, giving the loaded file the later name says
        so; otherwise the file is loaded like any other.
        """
        row = self.connection.execute(
            "SELECT file_id, file FROM ops.load_files WHERE table_name = ? AND sha256 = ?"
            " AND status = 'loaded' ORDER BY file DESC, file_id DESC LIMIT 1",
            [table.name, sha256],
        ).fetchone()
        if row is None:
            return False
        loaded_id, loaded_name = row
        if file >= loaded_name:
            key = ", ".join(_quoted(table.raw_key))
            (shared,) = self._one(
                f"SELECT count(*) FROM raw.{table.name} SEMI JOIN"
                f" (SELECT {key} FROM raw.{table.name} WHERE _file_id = {loaded_id})"
                f" USING ({key}) WHERE _file_id <> {loaded_id}"
            )
            (dropped,) = self._one(
                f"SELECT count(*) FROM ops.duplicates WHERE file_id = {loaded_id}"
            )
            # The vault orders what customers are called by the name of the file, too.
            if shared or dropped or table.name == "customers":
                return False
        self.connection.execute("BEGIN")
        try:
            if file > loaded_name:
                self.connection.execute(
                    "UPDATE ops.load_files SET file = ? WHERE file_id = ?", [file, loaded_id]
                )
            self._record(table, min(file, loaded_name), sha256, "skipped")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return True

    def _take_in(
        self,
        table: SourceTable,
        stream: BufferedReader,
        file: str,
        sha256: str,
        before: os.stat_result,
    ) -> FileLoad:
        reader = open_reader(table, stream, file)
        self.connection.execute("BEGIN")
        try:
            file_id = self._record(table, file, sha256, "loaded")
            identities = self._parse(table, reader, file_id)
            quarantined = self._judge(table, file, file_id, reader.rows_in)
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise FileRejected(
                    table.name, file, "it changed while it was read; deliver files by renaming"
                )
            restated = self._merge(table, file_id)
            self.connection.execute(
                "UPDATE ops.load_files SET rows_in = ?, restated_from_date = ?,"
                " unexpected_columns = ? WHERE file_id = ?",
                [reader.rows_in, restated, list(reader.unexpected), file_id],
            )
            # Before the warehouse commits: a key in it without an identity could never be mailed,
            # while an identity without rows does no harm and is stored again.
            self._store(file, file_id, identities)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return FileLoad(
            table.name, file, "loaded", reader.rows_in, quarantined, reader.unexpected, restated
        )

    def _record(
        self, table: SourceTable, file: str, sha256: str, status: str, error: str | None = None
    ) -> int:
        """Add a row to ops.load_files and return its file_id; one failure is kept per file."""
        self.connection.execute(
            "DELETE FROM ops.load_files WHERE table_name = ? AND file = ? AND status = 'failed'",
            [table.name, file],
        )
        (file_id, sequence) = self._one(
            "SELECT coalesce(max(file_id), 0) + 1, coalesce(max(load_sequence), 0) + 1"
            " FROM ops.load_files"
        )
        self.connection.execute(
            "INSERT INTO ops.load_files VALUES (?, ?, ?, ?, ?, ?, 0, NULL, NULL, ?)",
            [
                file_id,
                max(sequence, self.after + 1) if status == "loaded" else None,
                table.name,
                file,
                sha256,
                status,
                error,
            ],
        )
        return int(file_id)

    # Reading: chunks of the file -> temp table _new (good rows) and ops.quarantine (bad rows)

    def _parse(self, table: SourceTable, reader: Reader, file_id: int) -> _Identities:
        columns = ", ".join(f'"{c.name}" {c.type}' for c in row_columns(table))
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE _new ({columns}, _bad VARCHAR)")
        identities = _Identities()
        for chunk in reader.chunks():
            self._parse_chunk(table, reader, file_id, self._split(table, chunk, identities))
        for line, reason in reader.ragged:
            # Which field is which is unknown, and one may be a name: no payload.
            self.connection.execute(
                "INSERT INTO ops.quarantine VALUES (?, ?, ?, NULL, ?, NULL, NULL, NULL)",
                [file_id, line, table.name, reason],
            )
        self.connection.execute(
            f"""INSERT INTO ops.load_days
                SELECT {file_id}, occurred_date, count(*) FROM _new
                GROUP BY occurred_date ORDER BY occurred_date;
            DELETE FROM _new WHERE _bad IS NOT NULL;
            ALTER TABLE _new DROP COLUMN _bad"""
        )
        return identities

    def _split(self, table: SourceTable, chunk: pa.Table, identities: _Identities) -> pa.Table:
        """`chunk` with pseudonyms in place of identifiers, which are kept aside for the vault."""
        import pyarrow as pa

        kept = {"_line": chunk["_line"]}
        for column in table.columns:
            if column.name not in chunk.column_names:
                continue
            values = chunk[column.name]
            if column.name == CUSTOMER_ID:
                encoded = _text(values).combine_chunks().dictionary_encode()
                ids = encoded.dictionary.to_pylist()
                self._learn(ids)
                identities.ids.update(i for i in ids if self.keys[i] is not None)
                keys = pa.array([self.keys[i] for i in ids], pa.string())
                kept[CUSTOMER_KEY] = keys.take(encoded.indices)
                if table.name == "customers":
                    identities.lines.append(chunk["_line"])
                    identities.fields.setdefault(CUSTOMER_ID, []).append(_text(values))
            elif column.identifier:
                text = _text(values)
                identities.fields.setdefault(column.name, []).append(text)
                if column.name in ("email", "phone"):
                    kept[f"has_{column.name}"] = text.is_valid()
            else:
                kept[column.name] = values
        return pa.table(kept)

    def _learn(self, ids: list[str]) -> None:
        new = [i for i in ids if i not in self.keys]
        usable = [i for i in new if normalise_id(i)]
        self.keys.update(dict.fromkeys(new))
        self.keys.update(zip(usable, self.vault.keys_for(usable), strict=True))

    def _parse_chunk(
        self, table: SourceTable, reader: Reader, file_id: int, chunk: pa.Table
    ) -> None:
        """Add the rows of `chunk` to _new, and those that break the contract to quarantine."""
        chunk = with_instants(self.connection, chunk, table, reader.kinds, self.shop_timezone)
        values, delivered, bad, payload = [], [], [], []
        for column in content_columns(table):
            quoted = f'"{column.name}"'
            if column.name == CUSTOMER_KEY:
                values.append(quoted)
                bad.append(f"WHEN {quoted} IS NULL THEN 'customer_id: is missing'")
                payload.append(f"'{CUSTOMER_KEY}': c.{CUSTOMER_KEY}")
            elif column.name not in chunk.column_names:
                is_flag = column.type == "BOOLEAN"
                empty = "false" if is_flag else absent(table.column(column.name))
                values.append(f"{empty} AS {quoted}")
            elif column.type == "BOOLEAN":
                values.append(quoted)
            else:
                source = table.column(column.name)
                values.append(f"{parsed(source, reader.kinds[source.name])} AS {quoted}")
                delivered.append(f'{quoted} IS NOT NULL AS "has {source.name}"')
                bad += judgements(source)
                payload.append(f"'{source.name}': CAST(c.{quoted} AS VARCHAR)")
        columns = ", ".join(_quoted([c.name for c in content_columns(table)]))
        self.connection.register("_chunk", chunk)
        self.connection.execute(
            f"""INSERT INTO _new
                SELECT {columns}, occurred_date, arrived_date, {file_id}, _line,
                    CASE {" ".join(bad)} END
                FROM (SELECT _line, occurred_date, arrived_date, {", ".join(values + delivered)}
                    FROM _chunk)"""
        )
        order_id = 'n."order_id"' if table.name == "order_items" else "NULL"
        self.connection.execute(
            f"""INSERT INTO ops.quarantine
                SELECT {file_id}, _line, '{table.name}', split_part(n._bad, ': ', 1),
                    split_part(n._bad, ': ', 2), n.occurred_date, {order_id},
                    to_json({{{", ".join(payload)}}})
                FROM _new n JOIN _chunk c USING (_line) WHERE n._bad IS NOT NULL ORDER BY _line"""
        )
        self.connection.unregister("_chunk")

    def _judge(self, table: SourceTable, file: str, file_id: int, rows_in: int) -> int:
        """Count of quarantined rows; FileRejected where they are too many."""
        (bad,) = self._one(f"SELECT count(*) FROM ops.quarantine WHERE file_id = {file_id}")
        if bad > self.max_bad_share * rows_in:
            examples = self.connection.execute(
                "SELECT min(line), column_name, reason, count(*) FROM ops.quarantine"
                f" WHERE file_id = {file_id} GROUP BY column_name, reason"
                " ORDER BY count(*) DESC, min(line) LIMIT 5"
            ).fetchall()
            reasons = "; ".join(
                f"{f'{column} ' if column else ''}{reason} ({count}, first in line {line})"
                for line, column, reason, count in examples
            )
            raise FileRejected(
                table.name,
                file,
                f"{bad} of {rows_in} rows break the contract, more than "
                f"{self.max_bad_share:.2%}: {reasons}",
            )
        return int(bad)

    # Merging: _new against what raw.<table> holds

    def _merge(self, table: SourceTable, file_id: int) -> date | None:
        """Add _new to the raw table; return the first day that it restates."""
        raw = f"raw.{table.name}"
        key = ", ".join(_quoted(table.raw_key))
        content = _quoted([c.name for c in content_columns(table)])
        columns = ", ".join(_quoted([c.name for c in row_columns(table)]))
        self.connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE _contested AS
                SELECT {key} FROM (
                    SELECT {key} FROM _new
                    UNION ALL SELECT {key} FROM {raw} SEMI JOIN _new USING ({key})
                ) GROUP BY {key} HAVING count(*) > 1"""
        )
        (contested,) = self._one("SELECT count(*) FROM _contested")
        if table.name == "order_items":
            day, join = (
                "o.occurred_date",
                ("LEFT JOIN raw.orders o ON o.order_id = n.order_id AND o._is_current"),
            )
        else:
            day, join = "n.occurred_date", ""
        changed = "_new n"
        if contested:
            same = " AND ".join(f"r.{c} IS NOT DISTINCT FROM n.{c}" for c in content)
            # What is already the current row restates nothing when it is delivered again.
            changed = f"(FROM _new n ANTI JOIN {raw} r ON r._is_current AND {same}) n"
            on_row = " AND ".join(f"r.{c} = n.{c}" for c in _quoted(table.raw_key))
            join += f" LEFT JOIN {raw} r ON r._is_current AND {on_row}"
            day = self._restated_day(table, day)
        (restated,) = self._one(
            # A row counts from its arrival on, and a file can land late with an arrival long past.
            # greatest() passes over an arrival that is empty.
            f"SELECT min(greatest({day}, n.arrived_date)) FROM {changed} {join}"
        )
        if not contested:
            self.connection.execute(f"INSERT INTO {raw} SELECT {columns}, true, NULL FROM _new")
            return restated
        order_id = '"order_id"' if table.name == "order_items" else "NULL"
        on_key = " AND ".join(f"r.{c} = c.{c}" for c in _quoted(table.raw_key))
        self.connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE _versions AS
                SELECT *, {_superseded(f"{key}, _copy = 1")} AS {SUPERSEDED}
                FROM (
                    SELECT v.*, f.file, f.load_sequence, row_number() OVER (
                        -- v.: load_files has columns of its own, and one may be named alike
                        PARTITION BY {", ".join(f"v.{name}" for name in content)}
                        ORDER BY f.file DESC, f.load_sequence DESC, v._line DESC) AS _copy
                    FROM (
                        SELECT {columns} FROM _new SEMI JOIN _contested USING ({key})
                        UNION ALL
                        SELECT {columns} FROM {raw} SEMI JOIN _contested USING ({key})
                    ) v JOIN ops.load_files f ON f.file_id = v._file_id
                );
            DELETE FROM {raw} r USING _contested c WHERE {on_key};
            INSERT INTO {raw}
                SELECT {columns}, true, NULL FROM _new ANTI JOIN _contested USING ({key});
            INSERT INTO {raw} SELECT {columns}, {SUPERSEDED} IS NULL, {SUPERSEDED}
                FROM _versions WHERE _copy = 1 ORDER BY _file_id, _line;
            INSERT INTO ops.duplicates
                SELECT _file_id, _line, '{table.name}', occurred_date, {order_id}
                FROM _versions WHERE _copy > 1 ORDER BY _file_id, _line"""
        )
        return restated

    def _restated_day(self, table: SourceTable, day: str) -> str:
        """Return SQL for the first day that a new version `n` of the current row `r` restates.

        A version that only adds outcomes (and what is known with them) restates from the first of
        them on: the row was delivered again because something became of it, and what the days
        before knew still holds. Any other version restates from the row's business day on.
        """
        outcomes, zone = _quoted(list(table.outcomes)), literal(self.shop_timezone)
        if not outcomes:
            return day
        later = {*table.outcomes, *(c.name for c in table.columns if c.known_with), ARRIVED_AT}
        stable = _quoted([c.name for c in content_columns(table) if c.name not in later])
        only_adds = [f"r.{c} IS NOT DISTINCT FROM n.{c}" for c in stable]
        only_adds += [f"(r.{c} IS NULL OR r.{c} IS NOT DISTINCT FROM n.{c})" for c in outcomes]
        added = ", ".join(
            f"CASE WHEN r.{c} IS NULL THEN"
            f" CAST(timezone({zone}, timezone('UTC', n.{c})) AS DATE) END"
            for c in outcomes
        )
        return (
            f"CASE WHEN r._file_id IS NOT NULL AND {' AND '.join(only_adds)}"
            f" THEN coalesce(least({added}), {day}) ELSE {day} END"
        )

    def _store(self, file: str, file_id: int, identities: _Identities) -> None:
        rows: list[Identity] = []
        for customer_id in sorted(identities.ids - self.stored):
            key = self.keys[customer_id]
            assert key is not None
            rows.append(Identity(key, customer_id))
        if identities.lines and len(identities.fields) > 1:
            accepted = dict(
                self.connection.execute(
                    f"SELECT _line, strftime({ARRIVED_AT}, '%Y-%m-%dT%H:%M:%S.%f') FROM _new"
                ).fetchall()
            )
            lines = [line for chunk in identities.lines for line in chunk.to_pylist()]
            values = {
                name: [value for chunk in chunks for value in chunk.to_pylist()]
                for name, chunks in identities.fields.items()
            }
            nothing = [None] * len(lines)
            for line, customer_id, name, email, phone in zip(
                lines,
                values[CUSTOMER_ID],
                values.get("name", nothing),
                values.get("email", nothing),
                values.get("phone", nothing),
                strict=True,
            ):
                key = self.keys.get(customer_id)
                if line in accepted and key is not None:
                    # Sorts like the version order: no arrival first, then arrival, file, line.
                    delivery = "\x1f".join(
                        (accepted[line] or "", file, f"{file_id:012d}", f"{line:012d}")
                    )
                    rows.append(Identity(key, customer_id, name, email, phone, delivery))
        if rows:
            self.vault.store(rows)
            self.stored |= identities.ids

    def _one(self, query: str) -> tuple[Any, ...]:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row


@dataclass
class _Identities:
    """Identifiers of one file, on their way to the vault."""

    ids: set[str] = field(default_factory=set)
    lines: list[pa.ChunkedArray] = field(default_factory=list)
    fields: dict[str, list[pa.ChunkedArray]] = field(default_factory=dict)


def _require_tables(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    landing: Path,
    found: dict[str, list[Path]],
) -> None:
    missing = [
        table.name
        for table in contract.tables
        if table.required and not found[table.name] and _is_empty(connection, table.name)
    ]
    if not missing:
        return
    others = _unexpected_folders(landing, contract)
    hints = []
    for name in missing:
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
        hints.append(f"{name} (is it {close[0]!r}?)" if close else name)
    raise ContractError(
        f"required tables are missing: {', '.join(hints)}. Put at least one .csv or .parquet file "
        f"into a folder of that name in {landing}"
    )


def _unexpected_folders(landing: Path, contract: Contract) -> tuple[str, ...]:
    known = {table.name for table in contract.tables}
    names = (entry.name for entry in landing.iterdir() if entry.name[0] not in "._")
    return tuple(sorted(name for name in names if name not in known))


# SQL


def held_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str]]]:
    """Return name and type of every column that each raw table has, in order."""
    held: dict[str, list[tuple[str, str]]] = {}
    for name, column, kind in connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns()"
        " WHERE schema_name = 'raw' ORDER BY table_name, column_index"
    ).fetchall():
        held.setdefault(name, []).append((column, kind))
    return held


def _prepare(connection: duckdb.DuckDBPyConnection, contract: Contract, shop_timezone: str) -> None:
    """Create what is not there; ContractError where it is there and different."""
    try:
        zoneinfo.ZoneInfo(shop_timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        raise ContractError(f"{shop_timezone!r} is not a time zone") from None
    held = held_columns(connection)
    if not held:
        connection.execute(_OPS)
    for table in contract.tables:
        wanted = [(c.name, c.type) for c in raw_columns(table)]
        if table.name not in held:
            columns = ", ".join(f'"{name}" {kind}' for name, kind in wanted)
            connection.execute(f"CREATE TABLE raw.{table.name} ({columns})")
        elif held[table.name] != wanted:
            _widen(connection, table, held[table.name], wanted)


def _widen(
    connection: duckdb.DuckDBPyConnection,
    table: SourceTable,
    held: list[tuple[str, str]],
    wanted: list[tuple[str, str]],
) -> None:
    """Add the columns that the contract has learnt since the raw table was made.

    Rows that are there already say what a file without the column says. Raises ContractError where
    a loaded file had the column, which was not read then, and where anything else is different.
    """
    new = {
        c.name: f'{absent(c)} AS "{c.name}"'
        for c in table.columns
        if not c.required and not c.identifier
    }
    key = ", ".join(f"v.{c}" for c in _quoted(table.raw_key))
    new[SUPERSEDED] = f"CASE WHEN NOT _is_current THEN {_superseded(key)} END AS {SUPERSEDED}"
    added = {name for name, kind in wanted if (name, kind) not in held}
    unread = {
        name
        for (names,) in connection.execute(
            "SELECT unexpected_columns FROM ops.load_files WHERE table_name = ?", [table.name]
        ).fetchall()
        for name in names or ()
    }
    others = [pair for pair in wanted if pair[0] not in added]
    if others != held or added - set(new) or added & unread:
        raise ContractError(
            f"raw.{table.name} was made by another version of the contract; delete the "
            "warehouse, and the landing files will be loaded again"
        )
    columns = ", ".join(new[name] if name in added else f'v."{name}"' for name, _ in wanted)
    # Files are inserted by position, so the order of the columns is that of the contract.
    connection.execute(
        f"CREATE OR REPLACE TABLE raw.{table.name} AS SELECT {columns} FROM raw.{table.name} v"
        " JOIN (SELECT file_id AS _file_id, file, load_sequence FROM ops.load_files)"
        " USING (_file_id)"
    )


def _superseded(key: str) -> str:
    """SQL for the first day on which a version that wins over this one was known; null for none."""
    return (
        f"min({_KNOWN_DATE}) OVER (PARTITION BY {key} ORDER BY {_LATEST_FIRST}"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    )


def _is_empty(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    return connection.execute(f"SELECT 1 FROM raw.{name} LIMIT 1").fetchone() is None


def _quoted(names: list[str] | tuple[str, ...]) -> list[str]:
    return [f'"{name}"' for name in names]


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """An identifier column as text; whole doubles as integers, other ones null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float64(values.type):
        whole = pc.and_(pc.equal(pc.trunc(values), values), pc.less(pc.abs(values), 9e15))
        values = pc.if_else(whole, values, None).cast(pa.int64())
    return values.cast(pa.string())
