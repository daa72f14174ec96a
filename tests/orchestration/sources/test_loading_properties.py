"""Whatever is delivered, however often and in whatever order: the same tables, and no row lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from delivering import Shop
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.defs.sources.loading import accounting

ORDERS = st.tuples(
    st.sampled_from(["o1", "o2", "o3", ""]),
    st.sampled_from(["ann", "bob"]),
    st.sampled_from(["2024-01-01", "2024-01-02T12:00", "never"]),
    st.sampled_from(["web", "app"]),
    st.sampled_from(["", "", "2024-02-01", "2024-02-02"]),
)
ITEMS = st.tuples(
    st.sampled_from(["o1", "o2", "o9"]),
    st.sampled_from(["1", "2", "x"]),
    st.sampled_from(["p1", "p2"]),
    st.sampled_from(["1", "2"]),
    st.just("1.50"),
)
CUSTOMERS = st.tuples(
    st.sampled_from(["ann", "bob"]),
    st.just("2024-01-01"),
    st.sampled_from(["", "a@x", "b@x"]),
)
TABLES = {
    "orders": ("order_id,customer_id,ordered_at,channel,arrived_at", ORDERS),
    "order_items": ("order_id,line_number,product_id,quantity,unit_price", ITEMS),
    "customers": ("customer_id,created_at,email", CUSTOMERS),
}


@st.composite
def deliveries(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    """Files as (table, name, text): some with the same rows, some with the same bytes."""
    files: list[tuple[str, str, str]] = []
    for table, (header, row) in TABLES.items():
        # Few different contents under many names: bytes that are delivered again are common.
        contents = draw(st.lists(st.lists(row, min_size=1, max_size=4), min_size=1, max_size=3))
        for number in range(draw(st.integers(1, 4))):
            rows = draw(st.sampled_from(contents))
            text = "".join(",".join(fields) + "\n" for fields in rows)
            files.append((table, f"{number}.csv", f"{header}\n{text}"))
    return files


def outcome(folder: Path, batches: list[list[tuple[str, str, str]]]) -> dict[str, Any]:
    shop = Shop(folder)
    rows_in = 0
    # A required table that never came is an error: an empty file of each comes first.
    for table, (header, _) in TABLES.items():
        shop.deliver(table, header + "\n", "-.csv")
    for batch in batches:
        for table, name, text in batch:
            shop.deliver(table, text, name)
        report = shop.load(bad=1)  # checks the accounting
        assert not report.failed
        rows_in += report.rows_in
    assert accounting(shop.connection)["rows_in"].sum() == rows_in
    keys = [shop.key(name) for name in ("ann", "bob")]
    result: dict[str, Any] = {table: shop.raw(table) for table in TABLES}
    result["vault"] = {k: tuple(v)[:5] for k, v in shop.vault.identities(keys).items()}
    for table in ("customers", "orders", "order_items"):
        key = {"customers": "customer_key", "orders": "order_id"}.get(
            table, "order_id, line_number"
        )
        assert (
            shop.rows(f"SELECT 1 FROM raw.{table} GROUP BY {key} HAVING count_if(_is_current) <> 1")
            == []
        )
    shop.connection.close()
    return result


@settings(max_examples=6, deadline=None)
@given(files=deliveries(), data=st.data())
def test_the_order_of_loading_does_not_show(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[str, str, str]],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("shops")
    at_once = outcome(folder / "once", [files])
    shuffled = data.draw(st.permutations(files))
    one_by_one = outcome(folder / "shuffled", [[file] for file in shuffled])
    for name, expected in at_once.items():
        if isinstance(expected, pd.DataFrame):
            pd.testing.assert_frame_equal(one_by_one[name], expected)
        else:
            assert one_by_one[name] == expected
