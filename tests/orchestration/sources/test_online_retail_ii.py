from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestration.defs.sources.contract import ContractError, load_contract
from orchestration.defs.sources.loading import accounting, check_accounting, load_landing
from orchestration.defs.sources.online_retail_ii import (
    SHOP_TIMEZONE,
    ImportReport,
    import_online_retail_ii,
)
from orchestration.resources.vault import Vault

HEADER = ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID"]
COLUMNS = [*HEADER, "Country"]


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportReport, Path]:
    landing = tmp_path_factory.mktemp("real") / "landing"
    return import_online_retail_ii(shared / "data" / "online_retail_ii", landing), landing


def test_it_reproduces_the_known_clean_set(real: tuple[ImportReport, Path]) -> None:
    report, _ = real
    assert report.order_lines == 779_424
    assert report.customers == 5_878
    assert report.orders == 36_969
    assert report.revenue == Decimal("17374786.2680")
    assert report.customers_in_several_countries == 13


def test_every_row_is_in_one_bucket(real: tuple[ImportReport, Path]) -> None:
    report, _ = real
    assert report.rows_in == 525_461 + 541_909 == sum(report.buckets.values())
    assert report.buckets == {
        "overlap": 22_523,
        "duplicate": 11_812,
        "without_customer": 235_151,
        "cancellation_linked": 16_087,
        "cancellation_partly_linked": 132,
        "cancellation_unlinked": 2_171,
        "price_not_positive": 70,
        "order_line": 779_424,
    }


def test_the_loaded_tables_say_the_same(real: tuple[ImportReport, Path], tmp_path: Path) -> None:
    report, landing = real
    connection = duckdb.connect(config={"threads": 2})
    vault = Vault(tmp_path / "vault.sqlite", b"a secret of the tests")
    loaded = load_landing(connection, landing, load_contract(), vault, SHOP_TIMEZONE, 0.0)
    assert not loaded.failed
    check_accounting(accounting(connection))

    def one(query: str) -> tuple[object, ...]:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row

    assert one("SELECT count(*), sum(quantity * unit_price) FROM raw.order_items") == (
        779_424,
        Decimal("17374786.2680"),
    )
    assert one("SELECT count(*), count(DISTINCT customer_key) FROM raw.orders") == (36_969, 5_878)
    assert one(
        "SELECT count(*), count_if(account_type = 'business'), min(occurred_date) FROM"
        " raw.customers"
    )[:2] == (5_878, report.business_customers)
    assert one("SELECT count(*) FROM raw.order_items WHERE unit_price = 0.001") == (18,)
    # what is cancelled: never more than was bought, never before it, whole orders only as a whole
    assert one(
        "SELECT count(*) FROM raw.order_items i JOIN raw.orders o USING (order_id)"
        " WHERE i.cancelled_quantity > i.quantity OR i.cancelled_at < o.ordered_at"
        " OR (i.cancelled_quantity > 0) <> (i.cancelled_at IS NOT NULL)"
    ) == (0,)
    assert one("SELECT sum(cancelled_quantity) FROM raw.order_items") == (report.cancelled_units,)
    assert one(
        "SELECT count(*) FROM (SELECT order_id FROM raw.order_items GROUP BY order_id"
        " HAVING sum(cancelled_quantity) = sum(quantity))"
    ) == (report.cancelled_orders,)
    assert one("SELECT count(cancelled_at) FROM raw.orders") == (report.cancelled_orders,)
    # summer and winter: no invoice was written at night, in London
    assert one(
        "SELECT min(h) >= 6, max(h) <= 20 FROM (SELECT extract(hour FROM ordered_at"
        " AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/London') AS h FROM raw.orders)"
    ) == (True, True)
    # charges are no products
    assert one(
        "SELECT count(*) FROM raw.order_items ANTI JOIN raw.products USING (product_id)"
    ) == (report.charge_lines,)
    assert one("SELECT count(*) FROM raw.products WHERE product_id IN ('POST', 'M', 'D')") == (0,)
    connection.close()


def write(folder: Path, rows: list[tuple[object, ...]], name: str = "a.csv") -> Path:
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / name, index=False)
    return folder


def line(
    invoice: str, code: str, quantity: int, at: str, price: float = 1.0, customer: object = 7
) -> tuple[object, ...]:
    return (invoice, code, " name ", quantity, at, price, customer, "France")


def items(landing: Path) -> pd.DataFrame:
    frame = pq.read_table(landing / "order_items" / "online_retail_ii.parquet").to_pandas()
    return frame.set_index(["order_id", "line_number"])


def test_a_cancellation_prefers_price_then_one_line_then_the_latest(tmp_path: Path) -> None:
    rows = [
        line("1", "10001", 5, "2010-01-01 10:00:00"),
        line("2", "10001", 9, "2010-01-02 10:00:00"),
        line("3", "10001", 5, "2010-01-03 10:00:00"),
        line("4", "10001", 99, "2010-01-04 10:00:00", price=2.0),
        line("5", "10001", 99, "2010-01-05 10:00:00", customer=8),
        line("6", "10002", 99, "2010-01-05 10:00:00"),
        line("C7", "10001", -6, "2010-01-06 10:00:00"),  # only order 2 holds six at that price
        line("C8", "10001", -2, "2010-01-07 10:00:00"),  # order 3 is the latest
        line("C9", "10001", -4, "2010-01-08 10:00:00"),  # order 1 holds four, order 3 only three
        line("9", "10001", 99, "2010-01-09 10:00:00"),  # after them all
    ]
    report = import_online_retail_ii(write(tmp_path / "in", rows), tmp_path / "landing")
    found = items(tmp_path / "landing")["cancelled_quantity"].droplevel(1).to_dict()
    assert found == {"1": 4, "2": 6, "3": 2, "4": 0, "5": 0, "6": 0, "9": 0}
    assert report.buckets == {"order_line": 7, "cancellation_linked": 3}


def test_a_cancellation_spreads_and_may_exceed_what_was_bought(tmp_path: Path) -> None:
    rows = [
        line("1", "10001", 5, "2010-01-01 10:00:00"),
        line("1", "10003", 1, "2010-01-01 10:00:00"),
        line("2", "10001", 4, "2010-07-02 10:00:00", price=3.0),
        line("C3", "10001", -12, "2010-07-03 10:00:00"),
        line("C4", "10002", -1, "2010-07-03 10:00:00"),
        line("C5", "D", -1, "2010-07-03 10:00:00"),
    ]
    report = import_online_retail_ii(write(tmp_path / "in", rows), tmp_path / "landing")
    assert report.buckets == {
        "order_line": 3,
        "cancellation_partly_linked": 1,
        "cancellation_unlinked": 2,
    }
    assert (report.cancelled_units, report.unlinked_units) == (9, 3 + 1 + 1)
    orders = pq.read_table(tmp_path / "landing/orders/online_retail_ii.parquet").to_pandas()
    # order 1 keeps a line; in summer, ten o'clock in London is nine
    assert orders["cancelled_at"].isna().tolist() == [True, False]
    assert str(orders["cancelled_at"][1]) == "2010-07-03 09:00:00+00:00"


def test_rows_that_are_no_order_lines(tmp_path: Path) -> None:
    rows = [
        line("1", "10001", 5, "2010-01-01 10:00:00"),
        line("1", "10001", 5, "2010-01-01 10:00:00"),
        line("2", "10001", 5, "2010-01-01 10:00:00", customer=None),
        line("3", "10001", 5, "2010-01-01 10:00:00", price=0),
        line("4", "10001", -5, "2010-01-01 10:00:00"),
        line("A5", "B", 1, "2010-01-01 10:00:00"),
        line("6", "POST", 1, "2010-01-01 10:00:00"),
    ]
    write(tmp_path / "in", rows, "a.csv")
    again = [line("1", "10001", 5, "2010-01-01 10:00:00")] * 3
    report = import_online_retail_ii(write(tmp_path / "in", again, "b.csv"), tmp_path / "landing")
    # two copies of the first row stand in both files; the third of the second file is a duplicate
    assert report.buckets == {
        "order_line": 2,
        "overlap": 2,
        "duplicate": 2,
        "without_customer": 1,
        "price_not_positive": 1,
        "quantity_not_positive": 1,
        "adjustment": 1,
    }
    assert (report.products, report.charge_lines) == (1, 1)
    assert not (tmp_path / "landing" / "events").exists()


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [line(str(i), "10001", i % 9 + 1, "2010-01-01 10:00:00") for i in range(99)]
    source = write(tmp_path / "in", rows)
    one = import_online_retail_ii(source, tmp_path / "one").files
    two = import_online_retail_ii(source, tmp_path / "two").files
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no \.parquet or \.csv"):
        import_online_retail_ii(tmp_path, tmp_path / "landing")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ContractError, match=r"x\.csv is not Online Retail II"):
        import_online_retail_ii(tmp_path, tmp_path / "landing")
