"""The same content, the same bytes: canonical Arrow, its hash, and the hash of a file.

What belongs here: casting a frame to a declared schema, the total order, and hashing. What does
not: where the result is written.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

    from expectations.schema import Table


def arrow_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of a published table; only types that every engine reads."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "integer": pa.int64(),
        "decimal": pa.decimal128(18, 4),
        "double": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema([(column.name, types[column.type]) for column in table.columns])


def canonical(frame: pd.DataFrame | pa.Table, table: Table) -> pa.Table:
    """Return `frame` with the declared columns and types, sorted by primary key, in one chunk.

    In pandas a missing number is NaN, so there NaN becomes null. In Arrow the two differ, and a
    NaN stays, as infinities do, so that the audit can see it.

    Raises:
        ValueError: a declared column is missing, an undeclared one is there, or a value does not
            fit the declared type; the message names the column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = arrow_schema(table)
    names = frame.column_names if isinstance(frame, pa.Table) else [str(c) for c in frame.columns]
    missing = [name for name in schema.names if name not in names]
    extra = [name for name in names if name not in schema.names]
    if missing or extra:
        raise ValueError(f"{table.name}: missing columns {missing}, undeclared columns {extra}")
    arrays = []
    for field in schema:
        try:
            if isinstance(frame, pa.Table):
                array = frame.column(field.name).combine_chunks()
                array = array if array.type == field.type else array.cast(field.type)
            else:
                array = _from_pandas(frame[field.name], field.type)
        except (ValueError, TypeError, NotImplementedError) as error:  # of Arrow and of pandas
            raise ValueError(f"{table.name}.{field.name}: {error}") from error
        if pa.types.is_floating(field.type):
            array = pc.if_else(pc.equal(array, 0.0), pa.scalar(0.0, field.type), array)  # no -0.0
        arrays.append(array)
    result = pa.table(arrays, schema=schema)
    if _is_sorted([result.column(name).chunk(0) for name in table.primary_key if len(result)]):
        return result
    order = [(name, "ascending") for name in table.primary_key]
    return result.take(pc.sort_indices(result, sort_keys=order)).combine_chunks()


def _is_sorted(keys: Sequence[pa.Array]) -> bool:
    """Return whether rows ascend by `keys`, of which all but the last are the same in every row.

    Most frames come sorted by the customers of one day, and to move 90 columns costs more than to
    compare one.
    """
    import pyarrow.compute as pc

    if not keys or any(key.null_count for key in keys):
        return False
    *same, last = keys
    is_one_day = all(pc.all(pc.equal(key, key[0])).as_py() for key in same)
    return bool(is_one_day and pc.all(pc.less(last[:-1], last[1:])).as_py())


def _from_pandas(series: pd.Series, type_: pa.DataType) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    if series.empty:  # pandas gives a column without values any type
        return pa.array([], type_)
    if pa.types.is_decimal(type_) and pd.api.types.is_float_dtype(series):
        # The checked cast rounds to 4 places; the unchecked one makes 0 of what does not fit.
        return pa.array(series, type=pa.float64(), from_pandas=True).cast(type_)
    if pa.types.is_integer(type_) and pd.api.types.is_float_dtype(series):
        return pa.array(series.astype("Int64"), type=type_, from_pandas=True)
    if pa.types.is_date(type_) and pd.api.types.is_datetime64_any_dtype(series):
        return pa.array(series.dt.date, type=type_, from_pandas=True)
    array = pa.array(series, from_pandas=True)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array if array.type == type_ else array.cast(type_)


def content_hash(content: pa.Table) -> str:
    """Return a SHA-256 over column names, types, null positions and values.

    `content` is canonical. What lies under a null is not defined by Arrow, so nulls are filled
    before the buffers are read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256(str(content.num_rows).encode())
    for name in content.column_names:
        column = content.column(name)
        digest.update(f"\x1f{name}\x1f{column.type}\x1f".encode())
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        if array.null_count:
            digest.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
            array = pc.fill_null(array, _zero(array.type))
        if pa.types.is_boolean(array.type):
            digest.update(array.to_numpy(zero_copy_only=False).tobytes())
            continue
        digest.update(_values(array))
    return digest.hexdigest()


def _values(array: pa.Array) -> bytes:
    """Return the bytes of the values of a null-free array, without what lies beside them."""
    import numpy as np
    import pyarrow as pa

    if len(array) == 0:
        return b""
    buffers = array.buffers()
    if pa.types.is_string(array.type):
        offsets = np.frombuffer(buffers[1], np.int32)[array.offset : array.offset + len(array) + 1]
        text = buffers[2] if buffers[2] is not None else b""
        return np.diff(offsets).tobytes() + bytes(memoryview(text)[offsets[0] : offsets[-1]])
    width = array.type.bit_width // 8
    start = array.offset * width
    return bytes(memoryview(buffers[1])[start : start + len(array) * width])


def _zero(type_: pa.DataType) -> pa.Scalar:
    import pyarrow as pa

    if pa.types.is_string(type_):
        return pa.scalar("", type_)
    if pa.types.is_boolean(type_):
        return pa.scalar(False, type_)
    if pa.types.is_date32(type_):
        return pa.scalar(0, pa.int32()).cast(type_)
    if pa.types.is_decimal(type_):
        return pa.scalar(Decimal(0), type_)
    return pa.scalar(0, pa.int64()).cast(type_)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@cache
def code_version() -> str:
    """Return a hash over the platform's own source: Python, SQL and YAML, by path and content."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in ("orchestration", "ml", "expectations", "dbt_project"):
        for path in sorted((root / folder).rglob("*")):
            own = path.relative_to(root)
            if path.suffix in {".py", ".sql", ".yml", ".yaml"} and "target" not in own.parts:
                digest.update(str(own).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
