"""Every table of the contract may be delivered again: the same rows, and a later version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from orchestration.defs.sources.contract import ARRIVED_AT, load_contract
from orchestration.defs.sources.landing import write_landing

if TYPE_CHECKING:
    from delivering import Shop

    from orchestration.defs.sources.contract import SourceTable

TABLES = load_contract().tables


def _rows(table: SourceTable, country: int) -> pd.DataFrame:
    """Two rows with a value in every column; `country` varies what no key holds."""
    columns: dict[str, list[object]] = {}
    for column in table.columns:
        if column.name == ARRIVED_AT:
            continue
        if column.type == "timestamp":
            day = country if column.outcome else 0
            values = [pd.Timestamp(2024, 1, n + day, tz="UTC") for n in (1, 2)]
        elif column.type == "string":
            values = list(column.allowed[:1] * 2) or [f"a{n}" for n in (1, 2)]
        else:
            changes = column.name not in table.primary_key and column.maximum is None
            values = [n + country * changes for n in (1, 2)] if changes else [1, 2]
            if column.name == "birth_year":
                values = [1980, 1981]
        columns[column.name] = values
    return pd.DataFrame(columns)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_delivered_again(shop: Shop, table: SourceTable) -> None:
    for name, version in (("1", 0), ("2", 0), ("3", 1)):
        frame = _rows(table, version)
        if name == "2":
            frame = frame.iloc[:1]
        write_landing(shop.landing, table, frame, name)
        report = shop.load()
        assert not report.failed
    rows = 2 + table.required  # the shop of the fixture has one row of each required table
    assert shop.rows(f"SELECT count(*) FROM raw.{table.name} WHERE _is_current") == [(rows,)]
