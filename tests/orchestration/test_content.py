"""The same content has the same bytes; any other content has others."""

from __future__ import annotations

import datetime
import itertools
import math
from datetime import UTC, date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import D1, THINGS, key, things

from expectations.schema import Column, Table
from orchestration.resources.content import (
    arrow_schema,
    canonical,
    code_version,
    content_hash,
    file_sha256,
)

SCHEMA = arrow_schema(THINGS)

CELLS: dict[str, st.SearchStrategy[object]] = {
    "snapshot_date": st.dates(date(1990, 1, 1), date(2100, 1, 1)),
    "customer_key": st.text(max_size=5),
    "order_count": st.integers(-(2**63), 2**63 - 1),
    "revenue_amount": st.decimals(-(10**12), 10**12, places=4, allow_nan=False),
    "score": st.floats(allow_nan=False) | st.none(),
    "is_known": st.booleans() | st.none(),
    "reason": st.text(max_size=5) | st.none(),
    "last_seen_at": st.none()
    | st.datetimes(
        datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.just(UTC)
    ),
}
ROWS = st.lists(
    st.fixed_dictionaries(CELLS),
    max_size=12,
    unique_by=lambda row: (row["snapshot_date"], row["customer_key"]),
)


def hash_of(rows: list[dict[str, object]]) -> str:
    return content_hash(canonical(pa.Table.from_pylist(rows, schema=SCHEMA), THINGS))


@given(rows=ROWS, data=st.data())
def test_the_order_of_rows_does_not_matter(
    rows: list[dict[str, object]], data: st.DataObject
) -> None:
    assert hash_of(data.draw(st.permutations(rows))) == hash_of(rows)


@given(rows=ROWS.filter(bool), column=st.sampled_from(list(CELLS)), data=st.data())
def test_any_other_cell_is_another_content(
    rows: list[dict[str, object]], column: str, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(rows) - 1))
    value = data.draw(CELLS[column].filter(lambda v: v != rows[number][column]))
    changed = [{**row, column: value} if i == number else row for i, row in enumerate(rows)]
    assert hash_of(changed) != hash_of(rows)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 12), max_size=3))
def test_chunks_and_slices_do_not_matter(rows: list[dict[str, object]], cuts: list[int]) -> None:
    whole = canonical(pa.Table.from_pylist(rows, schema=SCHEMA), THINGS)
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    pieces = [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    chunked = pa.concat_tables(pieces) if pieces else whole
    assert content_hash(chunked) == content_hash(whole)
    padded = pa.concat_tables([whole, whole, whole]).combine_chunks().slice(len(rows), len(rows))
    assert content_hash(padded) == content_hash(whole)


@given(rows=ROWS)
@settings(max_examples=25)
def test_parquet_gives_back_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    content = canonical(pa.Table.from_pylist(rows, schema=SCHEMA), THINGS)
    path = tmp_path_factory.mktemp("parquet") / "content.parquet"
    pq.write_table(content, path, row_group_size=3)
    assert content_hash(pq.ParquetFile(path).read()) == content_hash(content)


def test_what_lies_under_a_null_does_not_matter() -> None:
    def with_hidden(hidden: int) -> pa.Array:
        values = pa.array([7, hidden, 9], pa.int64())
        validity = pa.py_buffer(bytes([0b101]))
        return pa.Array.from_buffers(pa.int64(), 3, [validity, values.buffers()[1]])

    one, two = with_hidden(1), with_hidden(2)
    assert one.to_pylist() == two.to_pylist() == [7, None, 9]
    assert content_hash(pa.table({"n": one})) == content_hash(pa.table({"n": two}))


def test_null_nan_zero_and_empty_are_four_things() -> None:
    def single(value: object, type_: pa.DataType) -> str:
        return content_hash(pa.table({"value": pa.array([value], type_)}))

    hashes = [
        single(None, pa.float64()),
        single(math.nan, pa.float64()),
        single(0.0, pa.float64()),
        single(math.inf, pa.float64()),
        single(None, pa.string()),
        single("", pa.string()),
        single("0", pa.string()),
        single("nan", pa.string()),
        single(None, pa.int64()),
        single(0, pa.int64()),
        single(None, pa.bool_()),
        single(False, pa.bool_()),
    ]
    assert len(set(hashes)) == len(hashes)


def test_no_two_cuts_of_a_text_are_alike() -> None:
    def texts(*values: str | None) -> str:
        return content_hash(pa.table({"text": pa.array(values, pa.string())}))

    seen = [texts("ab", "c"), texts("a", "bc"), texts("abc", ""), texts("", "abc"), texts("abc")]
    assert len({*seen, texts("abc", None), texts(None, "abc")}) == len(seen) + 2


def test_names_and_types_are_content() -> None:
    column = pa.array([1, 2], pa.int64())
    tables = [
        pa.table({"a": column}),
        pa.table({"b": column}),
        pa.table({"a": column.cast(pa.int32())}),
        pa.table({"a": column.cast(pa.float64())}),
        pa.table({"a": column, "b": column}),
    ]
    assert len({content_hash(table) for table in tables}) == len(tables)


@given(rows=st.integers(0, 30), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_pandas_and_arrow_say_the_same(rows: int, seed: int) -> None:
    frame = things(D1, rows)
    shuffled = frame.sample(frac=1, random_state=seed)[list(reversed(frame.columns))]
    arrow = pa.Table.from_pylist(frame.to_dict("records"), schema=SCHEMA) if rows < 2 else None
    content = canonical(shuffled, THINGS)
    assert content.schema == SCHEMA
    assert content.column("customer_key").to_pylist() == [key(n) for n in range(rows)]
    assert all(column.num_chunks <= 1 for column in content.columns)
    assert content_hash(content) == content_hash(canonical(frame, THINGS))
    if arrow is not None:
        assert content_hash(content) == content_hash(canonical(arrow, THINGS))


def test_a_missing_number_of_pandas_is_null_and_a_nan_of_arrow_stays() -> None:
    table = Table("t", 1, ("score",), (Column("score", "double", nullable=True),), "")
    from_pandas = canonical(pd.DataFrame({"score": [np.nan, 1.0]}), table)
    from_arrow = canonical(pa.table({"score": [math.nan, 1.0]}), table)
    assert from_pandas.column("score").null_count == 1
    assert from_arrow.column("score").null_count == 0


def test_there_is_one_zero() -> None:
    table = Table("t", 1, ("score",), (Column("score", "double", nullable=True),), "")
    minus, plus = (canonical(pd.DataFrame({"score": [zero]}), table) for zero in (-0.0, 0.0))
    assert content_hash(minus) == content_hash(plus)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("order_count", [3.0], 3),
        ("order_count", pd.array([3], "Int64"), 3),
        ("revenue_amount", [0.1 + 0.2], Decimal("0.3000")),
        ("revenue_amount", [Decimal("1.5")], Decimal("1.5000")),
        ("snapshot_date", [pd.Timestamp("2024-03-01")], D1),
        (
            "last_seen_at",
            [pd.Timestamp("2024-03-01 13:00", tz="Europe/Berlin")],
            datetime.datetime(2024, 3, 1, 12, tzinfo=UTC),
        ),
        ("is_known", [None], None),
        ("reason", [None], None),
    ],
)
def test_what_fits_is_cast(column: str, value: object, expected: object) -> None:
    content = canonical(things(D1, 1).assign(**{column: value}), THINGS)
    assert content.column(column).to_pylist() == [expected]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("order_count", [1.5]),
        ("order_count", ["many"]),
        ("revenue_amount", [Decimal("0.00001")]),
        ("revenue_amount", [math.inf]),
        ("revenue_amount", [1e15]),
        ("snapshot_date", ["yesterday"]),
        ("last_seen_at", ["noon"]),
        ("is_known", ["perhaps"]),
        ("score", ["high"]),
    ],
)
def test_what_does_not_fit_is_refused_by_column(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"things\.{column}"):
        canonical(things(D1, 1).assign(**{column: value}), THINGS)


def test_columns_that_are_missing_or_undeclared_are_named() -> None:
    frame = things(D1).drop(columns="score").assign(email="ann@example.test")
    with pytest.raises(ValueError, match=r"missing columns \['score'\].*undeclared.*\['email'\]"):
        canonical(frame, THINGS)


def test_the_hash_of_a_file_is_of_its_bytes(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "file"
    path.write_bytes(b"abc")
    assert file_sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")


def test_the_code_version_is_of_this_code() -> None:
    assert len(code_version()) == 12
    assert code_version() == code_version()
