"""The warehouse: DuckDB, private to sources and mart, rebuildable from landing files.

What belongs here: opening it, and the one seam to the lake, `export_candidates`. DuckDB admits one
process at a time, readers included, so every asset that opens it shares the pool `warehouse` (limit
1, granularity op) and closes it before it computes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from expectations.schema import Table

POOL = "warehouse"


class Warehouse:
    """One DuckDB file."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self.threads = threads

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file, and close it whatever happens. Extensions are never fetched."""
        import duckdb

        connection = duckdb.connect(
            str(self.path),
            config={
                "threads": self.threads,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        try:
            yield connection
        finally:
            connection.close()

    def export_candidates(self, table: Table, days: Sequence[date]) -> dict[date, pa.Table]:
        """Return the rows of `mart.<table>` of each of `days`: the seam to the lake.

        A day without rows is an empty table of the declared columns, not an absence.
        """
        import pyarrow.compute as pc

        names = ", ".join(table.column_names)
        with self.connect() as connection:
            reader = connection.execute(
                f"select {names} from mart.{table.name} "
                f"where {table.partition_by} between ? and ? "
                f"order by {', '.join(table.primary_key)}",
                [min(days), max(days)],
            ).to_arrow_reader(100_000)
            rows = reader.read_all()
        column = rows.column(table.partition_by)
        # Partitions are sorted and whole, so each is one slice: a filter per day would read
        # days x rows.
        found = pc.value_counts(column).to_pylist() if rows.num_rows else []
        counts = {item["values"]: item["counts"] for item in found}
        exported, offset = {}, 0
        slices: dict[date, pa.Table] = {}
        for day in sorted(counts):
            slices[day] = rows.slice(offset, counts[day])
            offset += counts[day]
        for day in days:
            exported[day] = slices.get(day, rows.slice(0, 0))
        return exported


def generation(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the load sequence of raw: how many landing files have been taken in so far."""
    known = connection.execute(
        "select count(*) from information_schema.tables "
        "where table_schema = 'ops' and table_name = 'load_files'"
    ).fetchone()
    if not known or not known[0]:
        return 0
    row = connection.execute(
        "select coalesce(max(load_sequence), 0) from ops.load_files"
    ).fetchone()
    return int(row[0]) if row else 0
