"""From a delivered value to the contract's type, as DuckDB SQL over a chunk of a landing file.

Here belongs what a value must look like, and the words for what is wrong with it. Nothing is ever
guessed: a value that is not exactly of its type is NULL here, and its row goes to quarantine.
"""

from __future__ import annotations

from orchestration.defs.sources.contract import DUCKDB_TYPES, SourceColumn

# ISO 8601, so that no library's idea of a date decides: day first or month first, 'epoch', '1/2/3'.
_OFFSET = r"[+-](?:0\d|1[0-4])(?::?[0-5]\d)?"
_LOCAL = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?"
_TIMESTAMP = rf"^{_LOCAL}$|^{_LOCAL[:-1]} ?(?:[Zz]|{_OFFSET})$"
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
    """WHEN clauses that give 'column: reason' for a row whose value breaks the contract."""
    value, delivered = f'"{column.name}"', f'"in {column.name}"'
    tests = [(f"{value} IS NULL AND {delivered} IS NOT NULL", _MISFIT[column.type])]
    if column.required:
        tests.append((f"{value} IS NULL", "is missing"))
    if column.allowed:
        allowed = ", ".join(literal(word) for word in column.allowed)
        tests.append((f"{value} NOT IN ({allowed})", f"is not one of {', '.join(column.allowed)}"))
    if column.minimum is not None:
        tests.append((f"{value} < {column.minimum}", f"is below {column.minimum}"))
    if column.maximum is not None:
        tests.append((f"{value} > {column.maximum}", f"is above {column.maximum}"))
    return [f"WHEN {test} THEN {literal(f'{column.name}: {why}')}" for test, why in tests]


def parsed(column: SourceColumn, kind: str, zone: str) -> str:
    """SQL of the typed value; NULL where the delivered one does not fit the type."""
    value = f'"{column.name}"'
    if kind == "null":
        return f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"
    if column.type == "timestamp":
        return _timestamp(value, kind, zone)
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


def _timestamp(value: str, kind: str, zone: str) -> str:
    to_utc = f"AT TIME ZONE {zone} AT TIME ZONE 'UTC'"
    if kind == "zoned":
        instant = f"{value} AT TIME ZONE 'UTC'"
    elif kind in ("naive", "date"):
        instant = f"CAST({value} AS TIMESTAMP) {to_utc}"
    else:
        local = f"TRY_CAST(regexp_extract({value}, '^{_LOCAL}') AS TIMESTAMP)"
        offset = f"regexp_extract({value}, '{_OFFSET}$')"
        # +HH, +HHMM or +HH:MM, as minutes
        digits = f"replace({offset}, ':', '')"
        minutes = (
            f"(CAST({digits}[2:3] AS INTEGER) * 60 +"
            f" CAST(coalesce(nullif({digits}[4:5], ''), '0') AS INTEGER))"
            f" * CASE WHEN {digits}[1] = '-' THEN -1 ELSE 1 END"
        )
        instant = (
            f"CASE WHEN NOT regexp_matches({value}, '{_TIMESTAMP}') THEN NULL"
            f" WHEN regexp_matches({value}, '[Zz]$') THEN {local}"
            f" WHEN length({value}) > 10 AND regexp_matches({value}, '{_OFFSET}$')"
            f" THEN {local} - to_minutes({minutes})"
            f" ELSE {local} {to_utc} END"
        )
    # Also keeps out the infinities, which DuckDB sorts outside these years.
    return (
        f"CASE WHEN {instant} BETWEEN TIMESTAMP '1900-01-01' AND"
        f" TIMESTAMP '9999-12-31 23:59:59.999999' THEN {instant} END"
    )
