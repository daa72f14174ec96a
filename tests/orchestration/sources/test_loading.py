from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delivering import Shop

from orchestration.defs.sources.contract import ContractError, load_contract
from orchestration.defs.sources.landing import write_landing
from orchestration.defs.sources.loading import (
    AccountingError,
    accounting,
    check_accounting,
    load_landing,
)

ORDERS = "order_id,customer_id,ordered_at"
PRICES = "order_id,line_number,product_id,quantity,unit_price"


def refused(shop: Shop) -> str:
    """The one refusal of a load that takes in everything else."""
    report = shop.load()
    (rejected,) = report.failed
    assert shop.rows("SELECT count(*) FROM raw.customers") == [(1,)]
    return str(rejected)


# What the shop delivers arrives typed and pseudonymous


def test_rows_arrive_typed(shop: Shop) -> None:
    shop.deliver(
        "orders",
        f"{ORDERS},delivered_at,discount_amount,channel,arrived_at\n"
        'o2, ann ,2024-07-01T23:30:00Z,2024-07-04,0.1000,"web, ""app""\n2",2024-07-03T00:10\n',
    )
    shop.load()
    row = shop.rows("SELECT * FROM raw.orders WHERE order_id = 'o2'")[0]
    assert row[1:11] == (
        shop.key("ann"),
        datetime(2024, 7, 1, 23, 30),
        datetime(2024, 7, 3, 23, 0),
        None,
        Decimal("0.1000"),
        None,
        'web, "app"\n2',
        datetime(2024, 7, 2, 23, 10),
        date(2024, 7, 2),
        date(2024, 7, 3),
    )
    assert row[12:] == (2, True, None)


def test_no_identifier_leaves_the_vault(shop: Shop, tmp_path: Path) -> None:
    shop.connection.close()
    path = tmp_path / "warehouse.duckdb"
    shop.connection = duckdb.connect(str(path))
    header = "customer_id,created_at,email,phone,name,birth_year,secret\n"
    good = "".join(
        f"theid{i},2024-01-01,themail{i}@x.y,thephone{i},thename{i},1980,thesecret\n"
        for i in range(300)
    )
    bad = "theid999,2024-01-01,themail999@x.y,thephone999,thename999,old,thesecret\n"
    ragged = "theid998,2024-01-01,thename998,extra\n"
    shop.deliver("customers", header + good + bad + ragged)
    report = shop.load()
    assert not report.failed
    assert shop.rows("SELECT count(*) FROM ops.quarantine") == [(2,)]
    assert shop.rows("SELECT payload FROM ops.quarantine WHERE payload IS NOT NULL") == [
        (
            f'{{"customer_key":"{shop.key("theid999")}","created_at":"2024-01-01",'
            '"birth_year":"old"}',
        )
    ]
    shop.connection.execute("CHECKPOINT")
    shop.connection.close()
    everything = path.read_bytes() + repr(report).encode() + repr(shop.messages).encode()
    for word in (b"theid", b"themail", b"thephone", b"thename", b"thesecret"):
        assert word not in everything
    person = shop.vault.identities([shop.key("theid7")])[shop.key("theid7")]
    assert tuple(person)[1:5] == ("theid7", "thename7", "themail7@x.y", "thephone7")
    # a row that broke the contract leaves no address, but can be looked up
    rejected = shop.vault.identities([shop.key("theid999")])[shop.key("theid999")]
    assert tuple(rejected)[1:5] == ("theid999", None, None, None)


def test_presence_of_addresses(shop: Shop) -> None:
    shop.deliver("customers", "customer_id,created_at,email\nbob,2024-01-01,b@x\ncy,2024-01-01,\n")
    shop.load()
    flags = shop.rows("SELECT has_email, has_phone FROM raw.customers ORDER BY _file_id, _line")
    assert flags == [(False, False), (True, False), (False, False)]


@pytest.mark.parametrize("id_type", [pa.int64(), pa.float64(), pa.string(), pa.large_string()])
def test_an_id_is_the_same_customer_in_every_form(shop: Shop, id_type: pa.DataType) -> None:
    values: list[Any] = ["13085"] if id_type in (pa.string(), pa.large_string()) else [13085]
    table = pa.table(
        {
            "order_id": pa.array(["o2"]).dictionary_encode(),
            "customer_id": pa.array(values, id_type),
            "ordered_at": pa.array([datetime(2024, 1, 1)], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, shop.landing / "orders" / "p.parquet")
    assert not shop.load().failed
    keys = shop.rows("SELECT customer_key FROM raw.orders WHERE order_id = 'o2'")
    assert keys == [(shop.key("13085"),)]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_what_we_write_is_what_we_read(shop: Shop, kind: Any) -> None:
    table = load_contract().table("support_tickets")
    frame = pd.DataFrame(
        {
            "ticket_id": ["t1", "t2"],
            "customer_id": ["ann", "bob"],
            "opened_at": pd.to_datetime(
                ["2024-03-31 12:00", "2024-12-01 12:00:00.123456"], format="ISO8601"
            ),
            "closed_at": pd.to_datetime(["NaT", "2024-12-02"]).tz_localize("UTC"),
            "text": ['multi\nline, "quoted"', None],
            "csat": [np.nan, 4.5],
        }
    )
    write_landing(shop.landing, table, frame, "x", kind)
    assert not shop.load().failed
    rows = shop.rows("SELECT opened_at, closed_at, text, csat FROM raw.support_tickets ORDER BY 1")
    assert rows == [
        (datetime(2024, 3, 31, 11), None, 'multi\nline, "quoted"', None),
        (
            datetime(2024, 12, 1, 12, 0, 0, 123456),
            datetime(2024, 12, 2),
            None,
            Decimal("4.5000"),
        ),
    ]


# Time


@pytest.mark.parametrize(
    ("text", "utc", "day"),
    [
        ("2024-01-15", "2024-01-15 00:00:00", "2024-01-15"),
        ("2024-07-15", "2024-07-14 23:00:00", "2024-07-15"),
        ("2024-07-15 00:30", "2024-07-14 23:30:00", "2024-07-15"),
        ("2024-07-15T00:30:15.25", "2024-07-14 23:30:15.25", "2024-07-15"),
        ("2024-07-15T23:30:00Z", "2024-07-15 23:30:00", "2024-07-16"),
        ("2024-07-15T23:30:00 +02:00", "2024-07-15 21:30:00", "2024-07-15"),
        ("2024-07-15 10:00-0530", "2024-07-15 15:30:00", "2024-07-15"),
        ("2024-07-15T10:00:00+14", "2024-07-14 20:00:00", "2024-07-14"),
        ("2024-10-27T01:30:00", "2024-10-27 01:30:00", "2024-10-27"),  # twice: the later
        ("2024-03-31T01:30:00", "2024-03-31 01:00:00", "2024-03-31"),  # never: after the gap
        ("9999-12-31", "9999-12-31 00:00:00", "9999-12-31"),
    ],
)
def test_a_time_without_a_zone_is_shop_time(shop: Shop, text: str, utc: str, day: str) -> None:
    shop.deliver("orders", f"{ORDERS}\no2,ann,{text}\n")
    assert not shop.load().failed
    (row,) = shop.rows(
        "SELECT ordered_at = CAST(? AS TIMESTAMP), CAST(occurred_date AS VARCHAR) FROM raw.orders"
        " WHERE order_id = 'o2'".replace("?", f"'{utc}'")
    )
    assert row == (True, day)


def test_a_parquet_time_without_a_zone_is_shop_time(shop: Shop) -> None:
    moment = datetime(2024, 7, 15, 0, 30)
    for name, kind in (
        ("naive", pa.timestamp("ms")),
        ("zoned", pa.timestamp("us", tz="America/New_York")),
        ("day", pa.date32()),
    ):
        table = {"order_id": [name], "customer_id": ["ann"], "ordered_at": pa.array([moment], kind)}
        pq.write_table(pa.table(table), shop.landing / "orders" / f"{name}.parquet")
    assert not shop.load().failed
    found = dict(shop.rows("SELECT order_id, ordered_at FROM raw.orders"))
    assert found["naive"] == datetime(2024, 7, 14, 23, 30)
    assert found["zoned"] == moment
    assert found["day"] == datetime(2024, 7, 14, 23, 0)


def test_an_unknown_time_zone_is_refused(shop: Shop) -> None:
    with pytest.raises(ContractError, match="Europe/Londom"):
        shop.load(zone="Europe/Londom")


# Rows that break the contract


@pytest.mark.parametrize(
    ("table", "header", "row", "column", "reason"),
    [
        ("orders", ORDERS, "o2,,2024-01-01", "customer_id", "is missing"),
        ("orders", ORDERS, ",ann,2024-01-01", "order_id", "is missing"),
        ("orders", ORDERS, "o2,ann,", "ordered_at", "is missing"),
        ("orders", ORDERS, "o2,ann,01/02/2024", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann,2024-02-30", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann,2024-01-01 25:00", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann,infinity", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann,epoch", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann,0001-01-01", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann,2024-01-01-05", "ordered_at", "is not an ISO 8601"),
        ("orders", ORDERS, "o2,ann", None, "has 2 fields where the header has 3"),
        ("orders", ORDERS, "o2,ann,2024-01-01,x", None, "has 4 fields where the header has 3"),
        ("order_items", PRICES, "o1,2,p,1,nan", "unit_price", "does not fit DECIMAL"),
        ("order_items", PRICES, "o1,2,p,1,1e3", "unit_price", "does not fit DECIMAL"),
        ("order_items", PRICES, "o1,2,p,1,0.00001", "unit_price", "does not fit DECIMAL"),
        ("order_items", PRICES, 'o1,2,p,1,"1,25"', "unit_price", "does not fit DECIMAL"),
        ("order_items", PRICES, "o1,2,p,1,100000000000000", "unit_price", "does not fit DECIMAL"),
        ("order_items", PRICES, "o1,2,p,1,-0.01", "unit_price", "is below 0"),
        ("order_items", PRICES, "o1,2,p,1.5,1", "quantity", "is not a whole number"),
        ("order_items", PRICES, "o1,2,p,1_0,1", "quantity", "is not a whole number"),
        ("order_items", PRICES, "o1,2,p,3000000000,1", "quantity", "is not a whole number"),
        ("order_items", PRICES, "o1,2,p,0,1", "quantity", "is below 1"),
        (
            "consents",
            "customer_id,channel,status,changed_at",
            "ann,pigeon,granted,2024-01-01",
            "channel",
            "is not one of email",
        ),
        (
            "consents",
            "customer_id,channel,purpose,status,changed_at",
            "ann,email,news|letter,revoked,2024-01-01",
            "purpose",
            "does not look like",
        ),
        (
            "reviews",
            "review_id,customer_id,product_id,rating,created_at",
            "r1,ann,p1,6,2024-01-01",
            "rating",
            "is above 5",
        ),
    ],
)
def test_a_bad_row_goes_to_quarantine(
    shop: Shop, table: str, header: str, row: str, column: str | None, reason: str
) -> None:
    shop.deliver(table, f"{header}\n\n{row}\n")
    assert not shop.load(bad=1).failed
    ((file, line, found, why),) = shop.rows(
        "SELECT file, line, column_name, reason FROM ops.quarantine JOIN ops.load_files"
        " USING (file_id)"
    )
    assert (file, line, found) == (f"{table}/1.csv", 3, column)
    assert why.startswith(reason)


CONSENT = "customer_id,channel,status,changed_at"


@pytest.mark.parametrize(
    "text",
    [
        f"{CONSENT}\nann,email,granted,2024-01-01\n",
        f"{CONSENT},purpose\nann,email,granted,2024-01-01,\n",
        f"{CONSENT},purpose\nann,email,granted,2024-01-01,marketing\n",
    ],
)
def test_a_consent_without_a_purpose_is_to_marketing(shop: Shop, text: str) -> None:
    shop.deliver("consents", text)
    assert not shop.load().failed
    assert shop.rows("SELECT purpose FROM raw.consents") == [("marketing",)]


def test_an_empty_column_of_parquet_says_the_default(shop: Shop) -> None:
    row = {"customer_id": ["ann"], "channel": ["email"], "status": ["granted"]}
    times = {"changed_at": pd.to_datetime(["2024-01-01"]), "purpose": [None]}
    folder = shop.landing / "consents"
    folder.mkdir()
    pq.write_table(pa.table(row | times), folder / "1.parquet")
    assert not shop.load().failed
    assert shop.rows("SELECT purpose FROM raw.consents") == [("marketing",)]


def test_purposes_decided_at_one_instant_are_kept_apart(shop: Shop) -> None:
    at = "2024-01-01T10:00:00"
    shop.deliver(
        "consents",
        f"{CONSENT},purpose\nann,email,revoked,{at},marketing\nann,email,granted,{at},service\n",
    )
    assert not shop.load().failed
    rows = shop.rows("SELECT purpose, status, _is_current FROM raw.consents ORDER BY 1")
    assert rows == [("marketing", "revoked", True), ("service", "granted", True)]


def test_a_warehouse_learns_the_columns_that_the_contract_has_learnt(shop: Shop) -> None:
    """One that was filled before consents had a purpose, and deliveries an arm."""
    sent = "campaign_id,customer_id,channel,sent_at\nc1,ann,email,2024-01-03\n"
    shop.deliver("consents", f"{CONSENT}\nann,email,granted,2024-01-01\n")
    shop.deliver("deliveries", sent)
    shop.load()
    fresh = {name: shop.raw(name) for name in ("consents", "deliveries")}
    shop.connection.execute("ALTER TABLE raw.consents DROP COLUMN purpose")
    shop.connection.execute("ALTER TABLE raw.deliveries DROP COLUMN arm")
    # The consent is withdrawn, in a file of the old form, and another purpose comes with a new one.
    shop.deliver("consents", f"{CONSENT}\nann,email,revoked,2024-01-02\n", "2.csv")
    report = shop.load()
    assert not report.failed
    assert [file.file for file in report.files if file.rows_in] == ["consents/2.csv"]
    pd.testing.assert_frame_equal(shop.raw("deliveries"), fresh["deliveries"])
    rows = shop.rows("SELECT purpose, status FROM raw.consents ORDER BY changed_at")
    assert rows == [("marketing", "granted"), ("marketing", "revoked")]
    assert "purpose" in fresh["consents"]


def test_a_warehouse_that_left_the_new_column_unread_is_refused(shop: Shop) -> None:
    """A grant for a survey, of which the purpose was not read, would become one for marketing."""
    shop.deliver("consents", f"{CONSENT}\nann,email,granted,2024-01-01\n")
    shop.load()
    shop.connection.execute("ALTER TABLE raw.consents DROP COLUMN purpose")
    shop.connection.execute(
        "UPDATE ops.load_files SET unexpected_columns = ['purpose'] WHERE table_name = 'consents'"
    )
    with pytest.raises(ContractError, match="another version of the contract"):
        shop.load()


def test_a_warehouse_of_another_contract_is_refused(shop: Shop) -> None:
    shop.load()
    shop.connection.execute("ALTER TABLE raw.orders DROP COLUMN ordered_at")
    with pytest.raises(ContractError, match="another version of the contract"):
        shop.load()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", "1.5"),
        ("+007.2500000", "7.25"),
        (".5", "0.5"),
        ("3.", "3"),
        ("99999999999999.9999", "99999999999999.9999"),
    ],
)
def test_decimals_are_exact(shop: Shop, text: str, value: str) -> None:
    shop.deliver("order_items", f"{PRICES}\no1,+2,p,3.0,{text}\n")
    assert not shop.load().failed
    rows = shop.rows("SELECT unit_price, quantity FROM raw.order_items WHERE line_number = 2")
    assert rows == [(Decimal(value), 3)]


def test_doubles_are_exact_or_quarantined(shop: Shop) -> None:
    prices = [0.1, 2.675, 1e9 + 0.0001, np.nan, np.inf, -np.inf, 0.00001, 1e15]
    n = len(prices)
    table = pa.table(
        {
            "order_id": ["o1"] * n,
            "line_number": list(range(2, n + 2)),
            "product_id": ["p"] * n,
            "quantity": pa.array([1.0] * n),
            "unit_price": pa.array(prices, pa.float64()),
        }
    )
    pq.write_table(table, shop.landing / "order_items" / "p.parquet")
    assert not shop.load(bad=1).failed
    rows = shop.rows("SELECT unit_price FROM raw.order_items WHERE line_number > 1 ORDER BY _line")
    assert [r[0] for r in rows] == [Decimal("0.1"), Decimal("2.675"), Decimal("1000000000.0001")]
    assert shop.rows("SELECT line FROM ops.quarantine ORDER BY 1") == [(i,) for i in range(4, 9)]


def test_lines_are_those_of_the_file(shop: Shop) -> None:
    rows = [f'o{i},ann,2024-01-02,"a\nb"' for i in range(2, 300)]
    rows.insert(200, "bad,ann,never,")
    shop.deliver("orders", f"{ORDERS},channel\n" + "\n".join(rows) + "\n")
    shop.load()
    # 200 rows of two lines each stand between the header and the bad one
    assert shop.rows("SELECT line FROM ops.quarantine") == [(402,)]
    assert shop.rows("SELECT max(_line) FROM raw.orders WHERE _file_id = 3") == [(597,)]


def test_too_many_bad_rows_refuse_the_file(shop: Shop) -> None:
    good = "".join(f"g{i},ann,2024-01-03\n" for i in range(98))
    shop.deliver("orders", f"{ORDERS}\n{good}b1,ann,x\nb2,ann,y\n")
    message = refused(shop)
    assert "orders/1.csv: 2 of 100 rows break the contract, more than 1.00%" in message
    assert "ordered_at is not an ISO 8601 timestamp" in message
    assert "first in line 100" in message
    assert shop.rows("SELECT count(*) FROM raw.orders") == [(1,)]
    assert shop.rows("SELECT count(*) FROM ops.quarantine") == [(0,)]
    # the same file loads once the shop decides to accept that
    assert not shop.load(bad=0.02).failed
    assert shop.rows("SELECT count(*) FROM raw.orders") == [(99,)]
    assert shop.rows("SELECT count(*) FROM ops.load_files WHERE status = 'failed'") == [(0,)]


# Files that cannot be read


def test_an_empty_file(shop: Shop) -> None:
    shop.deliver("orders", "")
    assert "orders/1.csv: the file is empty (0 bytes)" in refused(shop)


def test_a_header_without_rows_is_legal(shop: Shop) -> None:
    shop.deliver("orders", f"{ORDERS}\n")
    report = shop.load()
    assert not report.failed
    assert ("orders/1.csv", 0) in [(f.file, f.rows_in) for f in report.files]


def test_a_truncated_parquet_file(shop: Shop) -> None:
    table = load_contract().table("orders")
    frame = pd.DataFrame(
        {"order_id": ["o2"], "customer_id": ["ann"], "ordered_at": pd.to_datetime(["2024-01-01"])}
    )
    path = write_landing(shop.landing, table, frame, "x")
    path.write_bytes(path.read_bytes()[:-20])
    assert "orders/x.parquet: not a whole Parquet file" in refused(shop)


def test_a_flipped_bit_in_a_parquet_file(shop: Shop) -> None:
    table = load_contract().table("orders")
    frame = pd.DataFrame(
        {
            "order_id": [f"o{i}" for i in range(1000)],
            "customer_id": "ann",
            "ordered_at": pd.Timestamp("2024-01-01"),
        }
    )
    path = write_landing(shop.landing, table, frame, "x")
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(bytes(content))
    assert "orders/x.parquet: not a whole Parquet file" in refused(shop)


def test_a_renamed_column(shop: Shop) -> None:
    shop.deliver("orders", "order_id,customer_id,order_at,colour\no2,ann,2024-01-01,red\n")
    message = refused(shop)
    assert "required columns are missing: ordered_at (is it 'order_at'?)" in message
    assert "not in the contract: order_at, colour" in message


def test_a_file_without_header_does_not_print_a_customer(shop: Shop) -> None:
    shop.deliver("customers", "ann,2024-01-01,ann@x.y\n")
    message = refused(shop)
    assert "has it a header?" in message
    assert "ann" not in message


def test_other_separators(shop: Shop) -> None:
    shop.deliver("orders", "order_id;customer_id;ordered_at\no2;ann;2024-01-01\n")
    assert "separated by commas" in refused(shop)


def test_a_column_twice(shop: Shop) -> None:
    shop.deliver("orders", f"{ORDERS},channel,channel\no2,ann,2024-01-01,a,b\n")
    assert "more than one column is called channel" in refused(shop)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (f"{ORDERS}\no2,Zoë,2024-01-01\n".encode("latin-1"), "byte 37 (line 2)"),
        (f"{ORDERS}\n".encode("utf-16"), "byte 0 (line 1)"),
        (
            f"{ORDERS}\n".encode() + b"o,ann,2024-01-01\n" * 9000 + b"\xff",
            f"byte {len(ORDERS) + 1 + 17 * 9000}",
        ),
    ],
)
def test_a_wrong_encoding(shop: Shop, content: bytes, where: str) -> None:
    shop.deliver("orders", content)
    message = refused(shop)
    assert message.startswith("orders/1.csv: ")
    assert where in message
    assert "UTF-8" in message


def test_a_byte_order_mark_is_no_wrong_encoding(shop: Shop) -> None:
    shop.deliver("orders", f"{ORDERS}\no2,Zoë,2024-01-01\n".encode("utf-8-sig"))
    assert not shop.load().failed
    assert shop.rows("SELECT customer_key FROM raw.orders WHERE order_id = 'o2'") == [
        (shop.key("Zoë"),)
    ]


def test_a_quote_that_never_ends(shop: Shop) -> None:
    shop.deliver("orders", f'{ORDERS}\no2,ann,"2024-01-01\no3,ann,2024-01-01\n')
    assert "line 3: not valid CSV" in refused(shop)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("ordered_at", pa.array([1]), "ordered_at is int64; the contract says timestamp"),
        ("order_id", pa.array([[1]]), "order_id is list"),
        ("discount_amount", pa.array([1.1], pa.float32()), "discount_amount is float"),
    ],
)
def test_a_parquet_column_of_another_type(
    shop: Shop, column: str, values: pa.Array, words: str
) -> None:
    table = {"order_id": ["o2"], "customer_id": ["ann"], "ordered_at": [datetime(2024, 1, 1)]}
    pq.write_table(pa.table(table | {column: values}), shop.landing / "orders" / "p.parquet")
    assert words in refused(shop)


def test_other_files(shop: Shop) -> None:
    shop.deliver("orders", "x", "orders.xlsx")
    shop.deliver("orders", "x", ".orders.csv.tmp")
    shop.deliver("orders", "x", "_SUCCESS")
    assert refused(shop) == "orders/orders.xlsx: neither .csv nor .parquet"


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(source)


def _pipe(source: Path, target: Path) -> None:
    os.mkfifo(target)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_symlink, "symbolic link"),
        (lambda source, target: os.link(source, target), "hard links"),
        (_pipe, "not a regular file"),
    ],
)
def test_only_files_of_their_own_are_read(
    shop: Shop, tmp_path: Path, make: Callable[[Path, Path], None], words: str
) -> None:
    source = tmp_path / "elsewhere.csv"
    source.write_text(f"{ORDERS}\no2,ann,2024-01-01\n")
    make(source, shop.landing / "orders" / "x.csv")
    assert words in refused(shop)


def test_a_linked_folder_is_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.csv").write_text(f"{ORDERS}\n")
    (shop.landing / "returns").symlink_to(tmp_path / "elsewhere")
    (shop.landing / "orders" / "2024").symlink_to(tmp_path / "elsewhere")
    assert {f.file for f in shop.load().failed} == {"returns", "orders/2024"}


# Tables


def test_a_missing_optional_table_is_empty(shop: Shop) -> None:
    report = shop.load()
    assert "events" in report.empty_tables
    assert shop.rows("SELECT count(*) FROM raw.events") == [(0,)]


def test_a_missing_required_table(shop: Shop) -> None:
    (shop.landing / "orders").rename(shop.landing / "order")
    with pytest.raises(ContractError, match=r"missing: orders \(is it 'order'\?\)"):
        shop.load()


def test_required_tables_may_have_been_delivered_before(shop: Shop) -> None:
    shop.load()
    (shop.landing / "orders" / "0.csv").unlink()
    assert shop.load().files == ()


def test_a_missing_landing_folder(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="nowhere does not exist"):
        load_landing(
            shop.connection, tmp_path / "nowhere", load_contract(), shop.vault, "Europe/London"
        )


def test_raw_tables_of_another_contract(shop: Shop) -> None:
    shop.load()
    shop.connection.execute("ALTER TABLE raw.orders ADD COLUMN colour VARCHAR")
    with pytest.raises(ContractError, match=r"raw\.orders.*another version"):
        shop.load()


def test_unknown_columns_and_folders_are_reported_and_not_loaded(shop: Shop) -> None:
    shop.deliver("orders", f"{ORDERS},colour\no2,ann,2024-01-01,red\n")
    shop.deliver("weather", "x\n")
    report = shop.load()
    assert report.unexpected_folders == ("weather",)
    assert [f.unexpected_columns for f in report.files if f.file == "orders/1.csv"] == [("colour",)]
    assert shop.rows("SELECT unexpected_columns FROM ops.load_files WHERE file = 'orders/1.csv'")[
        0
    ] == (["colour"],)


# Deliveries


def test_each_file_is_loaded_once(shop: Shop) -> None:
    assert len(shop.load().files) == 3
    assert shop.load().files == ()


def test_the_same_bytes_under_another_name_are_skipped(shop: Shop) -> None:
    shop.load()
    shop.deliver("orders", (shop.landing / "orders" / "0.csv").read_bytes(), "again.csv")
    (file,) = shop.load().files
    assert (file.file, file.status) == ("orders/again.csv", "skipped")
    assert shop.rows("SELECT count(*) FROM raw.orders") == [(1,)]
    assert shop.load().files == ()


def test_the_latest_version_wins(shop: Shop) -> None:
    shop.deliver("orders", f"{ORDERS},channel\no1,ann,2024-01-02T10:00:00,app\n", "2.csv")
    shop.deliver("orders", f"{ORDERS},channel\no1,ann,2024-01-02T10:00:00,shop\n", "1.csv")
    shop.load()
    rows = shop.rows("SELECT channel, _is_current FROM raw.orders ORDER BY _is_current, channel")
    assert rows == [("shop", False), (None, False), ("app", True)]


def test_arrival_decides_before_the_name(shop: Shop) -> None:
    header = f"{ORDERS},channel,arrived_at\no1,ann,2024-01-02T10:00:00"
    shop.deliver("orders", f"{header},late,2024-03-01\n", "a.csv")
    shop.deliver("orders", f"{header},early,2024-02-01\n", "b.csv")
    shop.deliver("orders", f"{header},unsaid,\n", "c.csv")
    shop.load()
    assert shop.rows("SELECT channel FROM raw.orders WHERE _is_current") == [("late",)]


@pytest.mark.parametrize("order", list(itertools.permutations(["late", "early", "unsaid"])))
def test_a_version_is_superseded_when_a_later_one_is_known(
    shop: Shop, order: tuple[str, ...]
) -> None:
    """Whatever is loaded first: an order of loading that showed would tell of the future."""
    for channel in order:
        _deliver_version(shop, channel)
        shop.load()
    rows = shop.rows("SELECT channel, _superseded_date FROM raw.orders WHERE channel IS NOT NULL")
    assert dict(rows) == {"unsaid": date(2024, 2, 1), "early": date(2024, 3, 1), "late": None}


def test_a_warehouse_learns_when_versions_were_superseded(shop: Shop) -> None:
    """One that was filled before the loader said so."""
    for channel in ("unsaid", "late", "early"):
        _deliver_version(shop, channel)
        shop.load()
    fresh = shop.raw("orders")
    assert fresh["_superseded_date"].notna().any()
    for table in load_contract().tables:
        shop.connection.execute(f"ALTER TABLE raw.{table.name} DROP COLUMN _superseded_date")
    shop.load()
    pd.testing.assert_frame_equal(shop.raw("orders"), fresh)


def _deliver_version(shop: Shop, channel: str) -> None:
    """Deliver an order again, by a channel that tells when it arrives."""
    arrived = {"late": "2024-03-01", "early": "2024-02-01", "unsaid": ""}[channel]
    header = f"{ORDERS},channel,arrived_at"
    shop.deliver(
        "orders", f"{header}\no1,ann,2024-01-02T10:00:00,{channel},{arrived}\n", f"{channel}.csv"
    )


def test_a_value_that_returns_is_current_again(shop: Shop) -> None:
    for name, channel in (("1", "web"), ("2", "app"), ("3", "web")):
        text = f"{ORDERS},channel\no1,ann,2024-01-02T10:00:00,{channel}\n"
        shop.deliver("orders", text, f"{name}.csv")
        shop.load()
    assert shop.rows("SELECT channel FROM raw.orders WHERE _is_current") == [("web",)]


def test_a_file_rewritten_under_its_name_is_a_new_delivery(shop: Shop) -> None:
    texts = [f"{ORDERS},channel\no1,ann,2024-01-02T10:00:00,{c}\n" for c in ("web", "app", "web")]
    for text in texts:
        shop.deliver("orders", text)
        shop.load()
    assert shop.rows("SELECT channel FROM raw.orders WHERE _is_current") == [("web",)]


def test_identical_rows_are_dropped_and_counted(shop: Shop) -> None:
    shop.deliver("orders", f"{ORDERS}\no2,ann,2024-01-05\no2,ann,2024-01-05\no3,ann,2024-01-06\n")
    shop.deliver("order_items", f"{PRICES}\no2,1,p,1,1\no2,1,p,1,1.0\no9,1,p,1,1\no9,1,p,1,1\n")
    shop.load()
    frame = accounting(shop.connection)
    counts = ["rows_in", "loaded", "quarantined", "duplicates", "superseded"]
    day = date(2024, 1, 5)
    orders = frame[frame["file"] == "orders/1.csv"]
    assert list(orders["business_date"]) == [day, date(2024, 1, 6)]
    assert orders[counts].to_numpy().tolist() == [[2, 1, 0, 1, 0], [1, 1, 0, 0, 0]]
    # lines have the day of their order; o9 has none
    lines = frame[frame["file"] == "order_items/1.csv"]
    assert list(lines["business_date"]) == [None, day]
    assert lines[counts].to_numpy().tolist() == [[2, 1, 0, 1, 0], [2, 1, 0, 1, 0]]


def test_the_vault_follows_the_versions(shop: Shop) -> None:
    header = "customer_id,created_at,email\nann,2024-01-01,"
    shop.deliver("customers", f"{header}new@x\n", "2.csv")
    shop.load()
    shop.deliver("customers", f"{header}old@x\n", "1.csv")
    shop.load()
    key = shop.key("ann")
    assert shop.vault.identities([key])[key].email == "new@x"


# Stale days


def restated(shop: Shop, name: str) -> date | None:
    (file,) = [f for f in shop.load().files if f.file == name]
    ((stored,),) = shop.rows(
        f"SELECT restated_from_date FROM ops.load_files WHERE file = '{name}'"
        " ORDER BY file_id DESC LIMIT 1"
    )
    assert stored == file.restated_from_date
    return stored


def test_rows_restate_from_the_day_on_which_they_are_known(shop: Shop) -> None:
    """A file may land late with an arrival on a day that is published already."""
    header = f"{ORDERS},arrived_at\n"
    shop.deliver("orders", f"{header}o8,ann,2024-01-03,2024-05-01\no9,ann,2024-02-03,\n")
    assert restated(shop, "orders/1.csv") == date(2024, 2, 3)
    shop.deliver("orders", f"{header}o7,ann,2024-01-03,2024-05-01\n", "2.csv")
    assert restated(shop, "orders/2.csv") == date(2024, 5, 1)
    shop.deliver("orders", f"{header}o6,ann,2024-06-03,2024-05-01\n", "3.csv")
    assert restated(shop, "orders/3.csv") == date(2024, 6, 3)
    # what is delivered again without change restates nothing
    shop.deliver("orders", f"{header}o7,ann,2024-01-03,2024-05-01\n\n", "4.csv")
    assert restated(shop, "orders/4.csv") is None


def test_an_outcome_that_arrives_late_restates_from_its_arrival(shop: Shop) -> None:
    header = f"{ORDERS},cancelled_at,arrived_at\n"
    shop.deliver("orders", f"{header}o50,ann,2024-03-01,,2024-03-02\n", "1.csv")
    shop.load()
    shop.deliver("orders", f"{header}o50,ann,2024-03-01,2024-03-20,2024-03-22\n", "2.csv")
    assert restated(shop, "orders/2.csv") == date(2024, 3, 22)


def test_lines_restate_the_day_of_their_order(shop: Shop) -> None:
    shop.load()
    shop.deliver("order_items", f"{PRICES}\no1,2,p2,1,1\n")
    assert restated(shop, "order_items/1.csv") == date(2024, 1, 2)


def test_a_full_dump_restates_only_what_changed(shop: Shop) -> None:
    days = [f"o{i},ann,2024-02-{i:02}," for i in range(10, 20)]
    header = f"{ORDERS},channel\n"
    shop.deliver("orders", header + "\n".join(days) + "\n", "1.csv")
    shop.load()
    days[5] += "web"
    shop.deliver("orders", header + "\n".join([*days, "o20,ann,2024-02-20,"]) + "\n", "2.csv")
    assert restated(shop, "orders/2.csv") == date(2024, 2, 15)


def test_an_outcome_restates_from_its_own_day(shop: Shop) -> None:
    header = f"{ORDERS},cancelled_at,delivered_at\n"
    shop.deliver("orders", f"{header}o30,ann,2024-03-01,,\no31,ann,2024-03-01,,\n", "1.csv")
    shop.load()
    shop.deliver("orders", f"{header}o30,ann,2024-03-01,2024-03-20,\n", "2.csv")
    assert restated(shop, "orders/2.csv") == date(2024, 3, 20)
    # a first outcome stays, a second is added
    shop.deliver("orders", f"{header}o30,ann,2024-03-01,2024-03-20,2024-03-25\n", "3.csv")
    assert restated(shop, "orders/3.csv") == date(2024, 3, 25)


def test_an_outcome_that_changes_restates_from_the_order(shop: Shop) -> None:
    header = f"{ORDERS},cancelled_at\n"
    shop.deliver("orders", f"{header}o40,ann,2024-03-01,2024-03-20\n", "1.csv")
    shop.load()
    shop.deliver("orders", f"{header}o40,ann,2024-03-01,2024-03-10\n", "2.csv")
    assert restated(shop, "orders/2.csv") == date(2024, 3, 1)


def test_a_warehouse_that_is_made_again_goes_on_counting(shop: Shop) -> None:
    """From 1 on, what it loads would look older than the days that were published before."""
    shop.load(after=7)
    count = "SELECT min(load_sequence), max(load_sequence) FROM ops.load_files"
    assert shop.rows(count) == [(8, 10)]
    shop.deliver("orders", f"{ORDERS}\no60,ann,2024-03-01\n", "2.csv")
    shop.load(after=10)
    assert shop.rows(count) == [(8, 11)]
    shop.deliver("orders", f"{ORDERS}\no61,ann,2024-03-01\n", "3.csv")
    shop.load(after=3)  # its own count is ahead
    assert shop.rows(count) == [(8, 12)]


# Whole files only


class StopError(Exception):
    pass


class Fragile:
    """A connection that breaks at the n-th statement."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, breaks_at: int) -> None:
        self._connection = connection
        self._left = breaks_at

    def execute(self, *args: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise StopError
        return self._connection.execute(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_a_crash_leaves_whole_files_only(shop: Shop, tmp_path: Path) -> None:
    path = str(tmp_path / "warehouse.duckdb")
    rows = "".join(f"o{i % 60},ann,2024-01-02T10:00:0{i % 7}\n" for i in range(200))
    shop.deliver("orders", f"{ORDERS}\n{rows}bad,ann,x\n")
    reference = Shop(shop.landing.parent / "reference")
    for table in ("customers", "orders", "order_items"):
        for path in (shop.landing / table).iterdir():
            reference.deliver(table, path.read_bytes(), path.name)
    reference.load()
    crashes = 0
    for breaks_at in range(1, 200, 3):
        shop.connection.close()
        shop.connection = duckdb.connect(path)
        fragile: Any = Fragile(shop.connection, breaks_at)
        try:
            load_landing(fragile, shop.landing, load_contract(), shop.vault, "Europe/London")
        except StopError:
            crashes += 1
            shop.connection.close()  # and with it the open transaction
            shop.connection = duckdb.connect(path)
        else:
            break
        tables = shop.rows("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'raw'")
        if tables == [(len(load_contract().tables),)]:
            check_accounting(accounting(shop.connection))
    assert crashes > 10
    for table in ("customers", "orders", "order_items"):
        pd.testing.assert_frame_equal(shop.raw(table), reference.raw(table))


# Accounting


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM raw.orders WHERE order_id = 'o2'",
        "UPDATE raw.orders SET occurred_date = '2024-03-03' WHERE order_id = 'o2'",
        "INSERT INTO raw.order_items FROM raw.order_items",
        "DELETE FROM ops.quarantine",
        "DELETE FROM ops.duplicates",
        "UPDATE ops.load_files SET rows_in = rows_in + 1 WHERE file = 'order_items/0.csv'",
    ],
)
def test_a_row_that_went_missing_is_noticed(shop: Shop, damage: str) -> None:
    shop.deliver(
        "orders", f"{ORDERS}\no2,ann,2024-01-05\no3,ann,2024-01-05\no3,ann,2024-01-05\n,,\n"
    )
    shop.load(bad=1)
    shop.connection.execute(damage)
    with pytest.raises(AccountingError, match=r"/[01]\.csv, .*rows in"):
        check_accounting(accounting(shop.connection))
