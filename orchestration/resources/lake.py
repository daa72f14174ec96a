"""The lake: published Delta tables, which the rest of the platform and the world read.

What belongs here: reading (one day, several days, the latest state per key as of a day), the one
commit that replaces partitions, and the insert-only merge of the ledger. What does not: whether a
candidate may be published (`publishing.py`).

Files are found through the Delta log and read with pyarrow: `DeltaTable.to_pyarrow_dataset()` of
deltalake 1.6.6 with pyarrow 25 aborts the interpreter at exit in two of three runs (exit code 134).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from orchestration.resources.catalog import Catalog, Publication
from orchestration.resources.content import arrow_schema, file_sha256
from orchestration.resources.home import file_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa
    from deltalake import DeltaTable, Field
    from deltalake.transaction import AddAction, RemoveAction

    from expectations.schema import Table

# The defaults of 30 and 7 days would expire the history that "versioned" promises.
RETENTION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
METADATA_KEY = "holdfast"


class NotPublishedError(Exception):
    """A partition that is needed is not there, or its newest audit failed."""


class DamagedError(Exception):
    """A published partition that is not in the lake as the Delta log and the catalog say."""


class MixedGenerationError(Exception):
    """Inputs that do not belong together: one was made from an older state of another."""


class Lake:
    """The published tables of one home."""

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self.root = root
        self.catalog = catalog
        self._listed: dict[str, tuple[int, list[tuple[str, str]]]] = {}  # version, its files

    # -- reading ---------------------------------------------------------------------------------

    def days(self, table: Table) -> list[date]:
        """Return the published partitions of `table`, in order."""
        from datetime import date

        self._complete_index(table)
        return [date.fromisoformat(day) for day in self.catalog.publications(table.name)]

    def publication(self, table: Table, day: date) -> Publication | None:
        """Return what stands in partition `day`, or None."""
        self._complete_index(table)
        return self.catalog.publication(table.name, day.isoformat())

    def require(self, table: Table, day: date) -> Publication:
        """Return the publication of `day`.

        Raises:
            NotPublishedError: nothing published, or the newest audit of that partition failed (the
                last good partition stands and can be read, but nothing new is made from it).
        """
        publication = self.publication(table, day)
        audit = self.catalog.latest_audit(table.name, day.isoformat())
        if audit is not None and not audit.passed:
            raise NotPublishedError(
                f"{table.name} of {day}: audit {audit.id} (suite {audit.suite_version}) failed: "
                f"{'; '.join(audit.failures) or 'not every expectation was evaluated'}. "
                "Mend the data, then materialise that day again"
            )
        if publication is None:
            raise NotPublishedError(
                f"{table.name} of {day} is not published; materialise lake/{table.name} for {day}"
            )
        return publication

    def require_together(self, tables: Sequence[Table], day: date) -> dict[str, Publication]:
        """Return the publications of `tables` on `day`, of one generation.

        Raises:
            NotPublishedError: see `require`.
            MixedGenerationError: one of them was made from content of another that has been
                replaced since, or two of them from different loads.
        """
        found = {table.name: self.require(table, day) for table in tables}
        for publication in found.values():
            self._require_inputs(publication)
        roots = {n: p.generation for n, p in found.items() if not p.inputs}
        if len(set(roots.values())) > 1:
            raise MixedGenerationError(
                f"{day}: made from different loads of the raw tables ({roots}); "
                "materialise the mart for that day again"
            )
        return found

    def _require_inputs(self, publication: Publication) -> None:
        """Refuse a publication whose inputs, at any depth, have been replaced or refused since."""
        name, day = publication.table, publication.partition
        for source, digest in publication.inputs.items():
            table, slash, partition = source.partition("/")
            if not slash:
                continue
            standing = self.catalog.publication(table, partition)
            audit = self.catalog.latest_audit(table, partition)
            if standing is None or standing.content_hash != digest:
                raise MixedGenerationError(
                    f"{name} of {day} was made from an older {table}; "
                    f"materialise lake/{name} for {day} again"
                )
            if audit is not None and not audit.passed:
                raise NotPublishedError(
                    f"{name} of {day} stands on {table} of {partition}, whose newest audit "
                    f"({audit.id}) failed: {'; '.join(audit.failures)}"
                )
            self._require_inputs(standing)

    def read(
        self,
        table: Table,
        days: Iterable[date] | None = None,
        columns: list[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Return the rows of some days (default: all), sorted by partition and primary key.

        version: a version of the Delta table (default: the newest), as `versions` tells them.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = arrow_schema(table)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        wanted = None if days is None else {day.isoformat() for day in days}
        parts = []
        for uri, day in self._files(table, version):
            if wanted is not None and day not in wanted:
                continue
            names = [n for n in schema.names if n != table.partition_by]
            try:
                part = pq.ParquetFile(uri).read(columns=names)
            except (OSError, pa.ArrowInvalid) as error:
                raise DamagedError(
                    f"{table.name} of {day}: {uri} cannot be read ({error}); "
                    f"materialise lake/{table.name} for {day} again"
                ) from error
            part = self._with_partition(part, table, day, schema)
            parts.append(part)
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def read_frame(
        self,
        table: Table,
        days: Iterable[date] | None = None,
        columns: list[str] | None = None,
        *,
        money_as_float: bool = False,
    ) -> pd.DataFrame:
        """Return `read` as pandas: dates as `datetime.date`, money as `Decimal`.

        With `money_as_float` money is float64, as models take it: a million Decimals cost a second
        to make and another to take apart.
        """
        content = self.read(table, days, columns)
        return to_pandas(floats_for_money(content) if money_as_float else content)

    def versions(self, table: Table, day: date) -> list[Publication]:
        """Return all that was ever published of a day, oldest first; the last one stands."""
        delta = self._open(table)
        commits = [] if delta is None else sorted(delta.history(), key=lambda c: c["version"])
        published = [one for commit in commits for one in _from_commit(commit)]
        found = [one for one in published if one.partition == day.isoformat()]
        standing = self.publication(table, day)  # of a ledger without rows there is no commit
        return found or ([standing] if standing else [])

    def holds(self, table: Table, day: date, content_hash: str) -> bool:
        """Return whether the rows of `day` can be read and have this hash."""
        from orchestration.resources.content import canonical
        from orchestration.resources.content import content_hash as hash_of

        try:
            return hash_of(canonical(self.read(table, [day]), table)) == content_hash
        except DamagedError:
            return False

    # -- writing ---------------------------------------------------------------------------------

    def replace(self, table: Table, partitions: Mapping[date, tuple[Path, Publication]]) -> int:
        """Replace whole partitions by files, in one commit with the facts of each; index it.

        A file is copied into the table as it is, and what was copied is held against its name: what
        was audited is what is published, byte for byte. Writing the rows a second time took 0.12 s
        a day of demo size.

        Args:
            partitions: per day one Parquet file of the declared columns, called after its
                SHA-256, and its facts. That the partition is a column of the file as well is
                allowed; readers take it from the log.

        Raises:
            ValueError: a file has another SHA-256, other columns or another day, or a column
                changed its type. Then nothing is replaced.
        """
        from deltalake import CommitProperties, Schema

        with file_lock(self.root / f".{table.name}.lock"):
            delta = self._opened(table)
            files: list[AddAction | RemoveAction] = [
                self._take_in(table, day, path) for day, (path, _) in partitions.items()
            ]
            delta.create_write_transaction(
                files,
                mode="overwrite",
                schema=Schema(delta.schema().fields + self._gained(table, delta)),
                partition_by=[table.partition_by],
                partition_filters=[(table.partition_by, "in", [d.isoformat() for d in partitions])],
                commit_properties=CommitProperties(
                    custom_metadata={
                        METADATA_KEY: _to_json([facts for _, facts in partitions.values()])
                    }
                ),
            )
            delta.update_incremental()
            self._listed[table.name] = delta.version(), self._list(table, delta)
            return self._complete_index(table, delta)

    def _take_in(self, table: Table, day: date, path: Path) -> AddAction:
        """Copy a file into the folder of its partition; return what the log has to say of it.

        Delta takes what the log says on trust, so what it says is looked at first.
        """
        import shutil

        import pyarrow.parquet as pq
        from deltalake.transaction import AddAction

        # A file that was lost is put back under another name: Delta knows the old one as removed.
        name = f"{table.partition_by}={day.isoformat()}/{path.stem}-{uuid4().hex[:8]}.parquet"
        target = self.root / table.name / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        file = pq.ParquetFile(target)
        days = file.read(columns=[table.partition_by]).column(0).unique().to_pylist()
        wrong = (
            "is not what it is called after"
            if file_sha256(target) != path.stem
            else "has other columns than declared"
            if not file.schema_arrow.equals(arrow_schema(table))
            else "has rows of another day"
            if set(days) - {day}
            else None
        )
        if wrong:
            target.unlink()
            raise ValueError(f"{table.name} of {day}: {path.name} {wrong}")
        about = target.stat()
        return AddAction(
            path=name,
            size=about.st_size,
            partition_values={table.partition_by: day.isoformat()},
            modification_time=int(about.st_mtime * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": file.metadata.num_rows}),
        )

    def merge_new(self, table: Table, content: pa.Table, facts: Publication) -> int:
        """Insert the rows whose primary key is not there yet; return how many were inserted.

        Of two writers at once one wins and the other retries: an insert-only merge never updates
        and never deletes (two blind appends of the same 1,000 units left 2,001 rows).
        """
        from deltalake import CommitProperties
        from deltalake.exceptions import CommitFailedError

        with file_lock(self.root / f".{table.name}.lock"):
            delta = self._opened(table)
        if content.num_rows == 0:  # a merge of nothing makes no commit, but the day is closed
            self.catalog.index([replace(facts, delta_version=self._complete_index(table))])
            return 0
        match = " and ".join(f"target.{name} = source.{name}" for name in table.primary_key)
        gains_columns = bool(self._gained(table, delta))
        for attempt in range(5):
            try:
                delta = self._opened(table)
                done = (
                    delta.merge(
                        content,
                        match,
                        source_alias="source",
                        target_alias="target",
                        merge_schema=gains_columns,
                        commit_properties=CommitProperties(
                            custom_metadata={METADATA_KEY: _to_json([facts])}
                        ),
                    )
                    .when_not_matched_insert_all()
                    .execute()
                )
                self._complete_index(table)
                return int(done["num_target_rows_inserted"])
            except CommitFailedError:
                if attempt == 4:
                    raise
        raise AssertionError("unreachable")

    # -- inside ----------------------------------------------------------------------------------

    def _open(self, table: Table, version: int | None = None) -> DeltaTable | None:
        path = self.root / table.name
        if not (path / "_delta_log").is_dir():
            return None
        from deltalake import DeltaTable

        return DeltaTable(str(path), version=version)

    def _opened(self, table: Table) -> DeltaTable:
        """Return the table, made if it is not there: hold its lock the first time."""
        from deltalake import DeltaTable

        return self._open(table) or DeltaTable.create(
            str(self.root / table.name),
            arrow_schema(table),
            partition_by=[table.partition_by],
            configuration=RETENTION,
            name=table.name,
        )

    @staticmethod
    def _gained(table: Table, delta: DeltaTable) -> list[Field]:
        """Return the declared columns that the stored table does not have yet.

        A new column is nullable; anything else that changes is a new table.

        Raises:
            ValueError: a column is stored with another type.
        """
        from deltalake import Schema

        stored = {field.name: field for field in delta.schema().fields}
        declared = Schema.from_arrow(arrow_schema(table)).fields
        for field in declared:
            if field.name in stored and stored[field.name].type != field.type:
                raise ValueError(
                    f"{table.name}.{field.name} is declared as {field.type.type}, but stored as "
                    f"{stored[field.name].type.type}: a column that changes its type is a new "
                    "table; give it another name"
                )
        return [field for field in declared if field.name not in stored]

    def _files(self, table: Table, asked: int | None = None) -> list[tuple[str, str]]:
        """Return the files of a version (default: the newest) by partition, in order of those.

        Opening a table costs 4 ms and a day reads 13; a version that is still the newest was read
        before, or written by this process.
        """
        log = self.root / table.name / "_delta_log"
        version, files = self._listed.get(table.name, (-1, []))
        is_newest = (log / f"{version:020d}.json").is_file() and not (
            log / f"{version + 1:020d}.json"
        ).is_file()
        if version == asked or (asked is None and is_newest):
            return files
        delta = self._open(table, asked)
        if delta is None:
            return []
        files = self._list(table, delta)
        if asked is None:
            self._listed[table.name] = delta.version(), files
        return files

    def _list(self, table: Table, delta: DeltaTable) -> list[tuple[str, str]]:
        import pyarrow as pa

        actions = pa.table(delta.get_add_actions(flatten=True))
        days = actions.column(f"partition.{table.partition_by}").to_pylist()
        paths = actions.column("path").to_pylist()
        return sorted(
            (
                (str(self.root / table.name / path), day.isoformat())
                for path, day in zip(paths, days, strict=True)
            ),
            key=lambda pair: pair[1],
        )

    @staticmethod
    def _with_partition(part: pa.Table, table: Table, day: str, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        arrays = []
        for field in schema:
            if field.name == table.partition_by:
                arrays.append(pa.repeat(pa.scalar(day).cast(field.type), part.num_rows))
            elif field.name in part.column_names:
                column = part.column(field.name)
                arrays.append(column if column.type == field.type else column.cast(field.type))
            else:  # a column newer than this partition
                arrays.append(pa.nulls(part.num_rows, field.type))
        return pa.table(arrays, schema=schema)

    def _complete_index(self, table: Table, delta: DeltaTable | None = None) -> int:
        """Bring the index up to the Delta log (one commit, or those a crash left out).

        Whether there is anything to do costs one look for the next commit's file; opening the table
        costs 10 ms, five times a publication.
        """
        log = self.root / table.name / "_delta_log"
        indexed = self.catalog.indexed_version(table.name)
        if indexed >= 0 and not (log / f"{indexed:020d}.json").is_file():
            # The table was deleted, or an older copy restored: what was indexed is not there.
            self.catalog.forget(table.name)
            indexed = -1
        if not (log / f"{indexed + 1:020d}.json").is_file():
            return indexed
        if delta is None:
            delta = self._open(table)
            assert delta is not None
        version = delta.version()
        commits = delta.history(version - indexed)
        for commit in sorted(commits, key=lambda entry: entry["version"]):
            self.catalog.index(_from_commit(commit))
        self.catalog.note_indexed(table.name, version)
        return version


def _from_commit(commit: Mapping[str, Any]) -> list[Publication]:
    """Return what one entry of a table's history says that it published, see `_to_json`."""
    records = json.loads(commit.get(METADATA_KEY) or "[]")
    return [Publication(**facts, delta_version=commit["version"]) for facts in records]


def _to_json(facts: list[Publication]) -> str:
    records = [{k: v for k, v in vars(f).items() if k != "delta_version"} for f in facts]
    return json.dumps(records, sort_keys=True)


def to_pandas(content: pa.Table) -> pd.DataFrame:
    """Convert to pandas the one way that keeps dates and money exact."""
    return content.to_pandas(date_as_object=True, timestamp_as_object=False)


def floats_for_money(content: pa.Table) -> pa.Table:
    """Return `content` with DECIMAL columns as float64."""
    import pyarrow as pa

    for number, field in enumerate(content.schema):
        if pa.types.is_decimal(field.type):
            content = content.set_column(
                number, field.name, content.column(number).cast(pa.float64())
            )
    return content
