"""Writing landing files: the one function by which importers and the simulator deliver data.

Reading and judging what a shop delivered belongs in loading.py; this module refuses to write what
the contract could not hold, because its callers are our own code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestration.defs.sources.contract import SourceColumn, SourceTable

if TYPE_CHECKING:
    from datetime import date

    import pandas as pd
    import pyarrow as pa

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")


class LandingError(ValueError):
    """A frame does not fit the contract and was not written."""


def write_landing(
    folder: Path,
    table: SourceTable,
    frame: pd.DataFrame | pa.Table,
    name: str,
    format: Literal["parquet", "csv"] = "parquet",
) -> Path:
    """Write `frame` as `<folder>/<table>/<name>.<format>` and return that path.

    `folder` is the landing folder of a home. Columns are written in the order of the contract, with
    its types; columns of the contract that the frame lacks are left out where they are optional.
    Row order is kept: sort first. Timestamps without a zone are shop time, with one they are
    written in UTC. Floats in a decimal column must have at most four decimals.

    The same frame gives the same bytes. The file appears whole or not at all, and replaces an older
    one of that name.

    Raises LandingError, naming table and column, where the frame does not fit the contract.
    """
    if not _NAME.fullmatch(name):
        raise LandingError(f"{name!r} is not a plain file name")
    arrow = arrow_table(table, frame)
    target = folder / table.name
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}.{format}"
    # Loaders pass over names that begin with a dot.
    temporary = target / f".{name}.{format}.{os.getpid()}.tmp"
    try:
        if format == "parquet":
            _write_parquet(arrow, temporary)
        elif format == "csv":
            _write_csv(arrow, temporary)
        else:
            raise LandingError(f"{format!r} is neither parquet nor csv")
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def arrow_table(table: SourceTable, frame: pd.DataFrame | pa.Table) -> pa.Table:
    """`frame` as an Arrow table of the contract's types; raises LandingError where it cannot be."""
    import pyarrow as pa

    columns: Any = frame.column_names if isinstance(frame, pa.Table) else frame.columns
    names = [str(name) for name in columns]
    if missing := [name for name in table.required_columns if name not in names]:
        raise LandingError(f"{table.name}: required columns are missing: {', '.join(missing)}")
    if unknown := [name for name in names if name not in table.column_names]:
        raise LandingError(f"{table.name}: not in the contract: {', '.join(unknown)}")
    arrays, fields = [], []
    for column in table.columns:
        if column.name not in names:
            continue
        try:
            array = _array(column, frame[column.name])
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            # The library's message may quote a value, which may be a customer's.
            raise LandingError(
                f"{table.name}.{column.name}: a value does not fit the type {column.type} "
                f"({type(error).__name__})"
            ) from None
        if column.required and array.null_count:
            raise LandingError(f"{table.name}.{column.name}: {array.null_count} rows are empty")
        arrays.append(array)
        fields.append(pa.field(column.name, array.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _array(column: SourceColumn, values: Any) -> pa.Array:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        array = values.combine_chunks()
    else:
        array = pa.array(values, from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if column.type == "decimal" and pa.types.is_integer(array.type):
        array = array.cast(pa.float64())  # Arrow refuses int64 as decimal(18, 4) unseen
    if column.type == "decimal" and pa.types.is_floating(array.type):
        return _decimal_of_float(array)
    if column.type == "string" and not (
        pa.types.is_string(array.type)
        or pa.types.is_large_string(array.type)
        or pa.types.is_string_view(array.type)
        or pa.types.is_integer(array.type)
        or pa.types.is_null(array.type)
    ):
        raise TypeError("not a text")
    if column.type == "timestamp":
        if not (pa.types.is_timestamp(array.type) or pa.types.is_null(array.type)):
            raise TypeError("not a timestamp")
        zone = "UTC" if getattr(array.type, "tz", None) else None
        return array.cast(pa.timestamp("us", tz=zone))
    types = {"string": pa.string(), "integer": pa.int32(), "decimal": pa.decimal128(18, 4)}
    return array.cast(types[column.type])


def _decimal_of_float(array: pa.Array) -> pa.Array:
    """Doubles that stand for four decimals or fewer, as exact decimals; ValueError for others."""
    import numpy as np
    import pyarrow as pa

    missing = array.is_null().to_numpy(zero_copy_only=False)
    values = np.where(missing, 0.0, array.fill_null(0.0).to_numpy(zero_copy_only=False))
    # Below 2**53 / 10**4 a double tells four decimals apart.
    if not np.isfinite(values).all() or (np.abs(values) >= 9e11).any():
        raise ValueError("not finite, or too large")
    units = np.round(values * 1e4).astype(np.int64)
    if (units / 1e4 != values).any():
        raise ValueError("more than four decimals")
    # A decimal128 is a 16-byte two's complement integer, low half first.
    halves = np.empty((len(units), 2), dtype=np.int64)
    halves[:, 0] = units
    halves[:, 1] = units >> 63
    bits = pa.py_buffer(np.packbits(~missing, bitorder="little").tobytes())
    return pa.Array.from_buffers(
        pa.decimal128(18, 4), len(units), [bits, pa.py_buffer(halves.tobytes())]
    )


def _write_parquet(arrow: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    # Page checksums: without them a flipped bit reads as another value (one in four did).
    pq.write_table(
        arrow, path, compression="zstd", row_group_size=262_144, write_page_checksum=True
    )


def _write_csv(arrow: pa.Table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    texts = []
    for values in arrow.columns:
        if pa.types.is_timestamp(values.type):
            suffix = "Z" if values.type.tz else ""
            plain = values.cast(pa.timestamp("us"))
            values = pc.strftime(plain, format=f"%Y-%m-%dT%H:%M:%S{suffix}")
        texts.append(values.cast(pa.string()))
    table = pa.Table.from_arrays(texts, names=arrow.column_names)
    csv.write_csv(table, path, csv.WriteOptions(quoting_style="needed"))


def delivered_days(folder: Path) -> tuple[date, date]:
    """Return the first and last day of the orders in a folder of files in the source contract.

    Raises:
        LandingError: there are no orders, or their times cannot be read.
    """
    import duckdb

    files = sorted(p for p in (folder / "orders").rglob("*") if p.suffix in (".csv", ".parquet"))
    if not files:
        raise LandingError(f"{folder}: no files in orders/; see the source contract in README.md")
    days: list[date] = []
    with duckdb.connect() as connection:
        for path in files:
            read = (
                "read_parquet(?)" if path.suffix == ".parquet" else "read_csv(?, all_varchar=true)"
            )
            query = (
                "SELECT min(d), max(d) FROM (SELECT "
                f"try_cast(left(cast(ordered_at AS VARCHAR), 10) AS DATE) AS d FROM {read})"
            )
            try:
                row = connection.execute(query, [str(path)]).fetchone()
            except duckdb.Error as error:
                raise LandingError(f"{path}: ordered_at cannot be read ({error})") from None
            days += [day for day in row or () if day is not None]
    if not days:
        raise LandingError(f"{folder}/orders: no order with a readable ordered_at")
    return min(days), max(days)
