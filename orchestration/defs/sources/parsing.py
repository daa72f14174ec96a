"""From a delivered value to the contract's type, as DuckDB SQL over a chunk of a landing file.

Here belongs what a value must look like, and the words for what is wrong with it. Nothing is ever
guessed: a value that is not exactly of its type is NULL here, and its row goes to quarantine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestration.defs.sources.contract import (
    ARRIVED_AT,
    DUCKDB_TYPES,
    SourceColumn,
    SourceTable,
)

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pyarrow as pa

# ISO 8601, so that no library's idea of a date decides: day first or month first, 'epoch', '1/2/3'.
_OFFSET = r"[+-](?:0\d|1[0-4])(?::?[0-5]\d)?"
_LOCAL = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?"
_ZONED = rf"^{_LOCAL[:-1]} ?(?:[Zz]|{_OFFSET})$"
_TIMESTAMP = rf"^{_LOCAL}$|{_ZONED}"
# The years that every reader of the tables can hold.
_FIRST, _LAST = "1900-01-01", "9999-12-31"
_INTEGER = r"^[+-]?\d{1,18}(?:\.0*)?$"
# At most 14 digits before the point and 4 after it, not counting zeros that change nothing.
_DECIMAL = r"^[+-]?(?:0*\d{1,14}(?:\.\d{0,4}0*)?|\.\d{1,4}0*)$"

_MISFIT = {
    "string": "is not a text",
    "integer": "is not a whole number of 32 bits",
    "decimal": "does not fit DECIMAL(18,4) exactly",
    "timestamp": "is not an ISO 8601 timestamp of the years 1900 to 9999",
}


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def judgements(column: SourceColumn) -> list[str]:
    """WHEN clauses that give 'column: reason' for a row whose value breaks the contract.

    They read the typed value as `x`, and whether anything was delivered as `has x`.
    """
    value = f'"{column.name}"'
    tests = [(f'{value} IS NULL AND "has {column.name}"', _MISFIT[column.type])]
    if column.required:
        tests.append((f"{value} IS NULL", "is missing"))
    if column.allowed:
        allowed = ", ".join(literal(word) for word in column.allowed)
        tests.append((f"{value} NOT IN ({allowed})", f"is not one of {', '.join(column.allowed)}"))
    if column.pattern is not None:
        misfit = f"NOT regexp_full_match({value}, {literal(column.pattern)})"
        tests.append((misfit, f"does not look like {column.pattern}"))
    if column.minimum is not None:
        tests.append((f"{value} < {column.minimum}", f"is below {column.minimum}"))
    if column.maximum is not None:
        tests.append((f"{value} > {column.maximum}", f"is above {column.maximum}"))
    return [f"WHEN {test} THEN {literal(f'{column.name}: {why}')}" for test, why in tests]


def absent(column: SourceColumn) -> str:
    """SQL of the value where nothing was delivered: the default, or NULL."""
    if column.default is not None:
        return literal(column.default)
    return f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"


def parsed(column: SourceColumn, kind: str) -> str:
    """SQL of the typed value; NULL where the delivered one does not fit the type."""
    value = f'"{column.name}"'
    if column.default is not None:
        typed = parsed(replace(column, default=None), kind)
        return f"CASE WHEN {value} IS NULL THEN {absent(column)} ELSE {typed} END"
    if kind == "null":
        return absent(column)
    if column.type == "timestamp":
        return f'"utc {column.name}"'
    if column.type == "string":
        if kind == "double":
            # An id that went through a data frame with gaps: 13085.0 is 13085.
            whole = f"isfinite({value}) AND {value} = trunc({value}) AND abs({value}) < 9e15"
            return f"CASE WHEN {whole} THEN CAST(CAST({value} AS BIGINT) AS VARCHAR) END"
        return f"CAST({value} AS VARCHAR)"
    if column.type == "integer":
        if kind == "text":
            plain = f"regexp_replace({value}, '^\\+|\\.0*$', '', 'g')"
            matches = f"regexp_matches({value}, '{_INTEGER}')"
            return f"CASE WHEN {matches} THEN TRY_CAST({plain} AS INTEGER) END"
        fits = f"{value} = trunc({value})" if kind in ("double", "decimal") else "true"
        finite = f"isfinite({value}) AND " if kind == "double" else ""
        return f"CASE WHEN {finite}{fits} THEN TRY_CAST({value} AS INTEGER) END"
    if kind == "text":
        plain = f"regexp_replace({value}, '^\\+', '')"
        return (
            f"CASE WHEN regexp_matches({value}, '{_DECIMAL}') "
            f"THEN TRY_CAST({plain} AS DECIMAL(18,4)) END"
        )
    if kind == "double":
        # The double nearest to a number of four decimals stands for it; 2**53 / 10**4 = 9.007e11.
        fits = f"abs({value}) < 9e11 AND round({value} * 1e4) / 1e4 = {value}"
        return f"CASE WHEN isfinite({value}) AND {fits} THEN TRY_CAST({value} AS DECIMAL(18,4)) END"
    exact = f"TRY_CAST({value} AS DECIMAL(18,4))"
    return f"CASE WHEN {exact} = {value} THEN {exact} END"


def with_instants(
    connection: duckdb.DuckDBPyConnection,
    chunk: pa.Table,
    table: SourceTable,
    kinds: dict[str, str],
    shop_timezone: str,
) -> pa.Table:
    """Add to `chunk` what follows from its timestamps and the shop's time zone.

    For each delivered timestamp column `x`: `utc x`, in UTC, null where it is not a timestamp; and
    `occurred_date` and `arrived_date`, the shop days of the business time and of `arrived_at`.
    A clock time that occurs twice when summer time ends is the later one, in standard time; one
    that is skipped when it begins is the first moment after the gap.

    pandas does the zone arithmetic: 0.05 s per million rows, DuckDB's ICU 0.4 to 0.8 s.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    def days(name: str | None) -> pa.Array:
        if name is None or name not in utc:
            return pa.nulls(chunk.num_rows, pa.date32())
        local = utc[name].tz_convert(shop_timezone).tz_localize(None)
        return pa.array(local.to_numpy().astype("datetime64[D]"))

    utc = {}
    for column in table.columns:
        if column.type != "timestamp" or column.name not in chunk.column_names:
            continue
        kind, values = kinds[column.name], chunk[column.name]
        if kind == "null":
            continue
        minutes = None
        if kind == "text":
            local, minutes = _clock_times(connection, values)
        else:
            local = values.cast(pa.timestamp("us"), safe=False).to_numpy()
        with np.errstate(invalid="ignore"):
            local = np.where(
                (local >= np.datetime64(_FIRST)) & (local <= np.datetime64(_LAST)),
                local,
                np.datetime64("NaT", "us"),
            )
        index = pd.DatetimeIndex(local)
        if kind == "zoned":
            utc[column.name] = index.tz_localize("UTC")
            continue
        standard = np.zeros(len(index), dtype=bool)
        shop = index.tz_localize(shop_timezone, ambiguous=standard, nonexistent="shift_forward")
        result = shop.tz_convert("UTC")
        if minutes is not None and not np.isnan(minutes).all():
            offset = pd.to_timedelta(np.nan_to_num(minutes), unit="m").as_unit("us")
            result = result.where(np.isnan(minutes), (index - offset).tz_localize("UTC"))
        utc[column.name] = result
    for name, instants in utc.items():
        chunk = chunk.append_column(f"utc {name}", pa.array(instants.tz_localize(None)))
    return chunk.append_column("occurred_date", days(table.event_time)).append_column(
        "arrived_date", days(ARRIVED_AT)
    )


def _clock_times(
    connection: duckdb.DuckDBPyConnection, values: pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray]:
    """Clock time of each text (NaT where it is none) and its offset in minutes (NaN: none said)."""
    import pyarrow as pa

    digits = f"replace(regexp_extract(x, '{_OFFSET}$'), ':', '')"  # +HH or +HHMM
    minutes = (
        f"(CAST({digits}[2:3] AS DOUBLE) * 60 +"
        f" CAST(coalesce(nullif({digits}[4:5], ''), '0') AS DOUBLE))"
        f" * CASE WHEN {digits}[1] = '-' THEN -1 ELSE 1 END"
    )
    connection.register("_texts", pa.table({"x": values}))
    found = connection.execute(
        f"""SELECT
            CASE WHEN regexp_matches(x, '{_TIMESTAMP}')
                THEN TRY_CAST(regexp_extract(x, '^{_LOCAL}') AS TIMESTAMP) END AS clock_time,
            CASE WHEN NOT regexp_matches(x, '{_ZONED}') THEN NULL
                WHEN regexp_matches(x, '[Zz]$') THEN 0 ELSE {minutes} END AS minutes
        FROM _texts"""
    ).df()
    connection.unregister("_texts")
    return (
        found["clock_time"].to_numpy().astype("datetime64[us]"),
        found["minutes"].to_numpy(dtype=float),
    )
