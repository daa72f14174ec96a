from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestration.defs.sources.contract import SourceTable, load_contract
from orchestration.defs.sources.landing import LandingError, write_landing

ITEMS = load_contract().table("order_items")


def items(**changes: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "cancelled_quantity": [np.nan, 1.0],
        "unit_price": [0.1, 2.675],
        "quantity": [1, 2],
        "product_id": ["p", 'q "x",\nz'],
        "line_number": [1, 2],
        "order_id": ["o1", "o1"],
        "cancelled_at": pd.to_datetime(["NaT", "2024-07-01 10:00"]).tz_localize("Europe/London"),
    }
    return pd.DataFrame(values | changes)


def test_columns_have_the_order_and_types_of_the_contract(tmp_path: Path) -> None:
    path = write_landing(tmp_path, ITEMS, items(), "day")
    assert path == tmp_path / "order_items" / "day.parquet"
    table = pq.read_table(path)
    assert {f.name: str(f.type) for f in table.schema} == {
        "order_id": "string",
        "line_number": "int32",
        "product_id": "string",
        "quantity": "int32",
        "unit_price": "decimal128(18, 4)",
        "cancelled_quantity": "int32",
        "cancelled_at": "timestamp[us, tz=UTC]",
    }
    assert table["unit_price"].to_pylist() == [Decimal("0.1000"), Decimal("2.6750")]
    assert table["cancelled_quantity"].to_pylist() == [None, 1]
    assert str(table["cancelled_at"][1]) == "2024-07-01 09:00:00+00:00"


def test_csv(tmp_path: Path) -> None:
    text = write_landing(tmp_path, ITEMS, items(), "day", "csv").read_text()
    assert text.splitlines()[:2] == [
        '"order_id","line_number","product_id","quantity","unit_price",'
        '"cancelled_quantity","cancelled_at"',
        '"o1","1","p","1","0.1000",,',
    ]
    assert text.endswith('"2","2.6750","1","2024-07-01T09:00:00.000000Z"\n')


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_same_frame_gives_the_same_bytes(tmp_path: Path, kind: Any) -> None:
    one = write_landing(tmp_path / "a", ITEMS, items(), "x", kind).read_bytes()
    shuffled = items()[sorted(items().columns)].set_axis([7, 3])
    assert write_landing(tmp_path / "b", ITEMS, shuffled, "y", kind).read_bytes() == one


def test_it_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_landing(tmp_path, ITEMS, items(), "x")
    write_landing(tmp_path, ITEMS, items().head(1), "x")
    (path,) = (tmp_path / "order_items").iterdir()
    assert pq.read_metadata(path).num_rows == 1


def test_naive_times_stay_clock_times(tmp_path: Path) -> None:
    frame = items(cancelled_at=pd.to_datetime(["NaT", "2024-07-01 10:00"]))
    table = pq.read_table(write_landing(tmp_path, ITEMS, frame, "x"))
    assert str(table.schema.field("cancelled_at").type) == "timestamp[us]"
    assert str(table["cancelled_at"][1]) == "2024-07-01 10:00:00"


def test_large_and_negative_money_is_exact(tmp_path: Path) -> None:
    frame = items(unit_price=[899_999_999_999.9999, -0.0001])
    table = pq.read_table(write_landing(tmp_path, ITEMS, frame, "x"))
    assert table["unit_price"].to_pylist() == [Decimal("899999999999.9999"), Decimal("-0.0001")]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (items().drop(columns="quantity"), "quantity"),
        (items(colour="red"), "not in the contract: colour"),
        (items(unit_price=[0.1, 0.00001]), "unit_price"),
        (items(unit_price=[0.1, np.inf]), "unit_price"),
        (items(unit_price=[Decimal("0.1"), Decimal("0.00001")]), "unit_price"),
        (items(quantity=[1, 1.5]), "quantity"),
        (items(quantity=[1, 2**40]), "quantity"),
        (items(quantity=[1, np.nan]), "quantity.*1 rows are empty"),
        (items(order_id=[1.5, 2.5]), "order_id"),
        (items(cancelled_at=["2024-01-01", "x"]), "cancelled_at"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(LandingError, match=f"order_items.*{words}"):
        write_landing(tmp_path, ITEMS, frame, "x")
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "_x"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(LandingError, match="plain"):
        write_landing(tmp_path, ITEMS, items(), name)


@pytest.mark.parametrize("table", load_contract().tables, ids=lambda t: t.name)
def test_a_day_without_rows_can_be_written(tmp_path: Path, table: SourceTable) -> None:
    frame = pd.DataFrame(columns=list(table.required_columns))
    path = write_landing(tmp_path, table, frame, "x")
    assert pq.read_table(path).num_rows == 0
