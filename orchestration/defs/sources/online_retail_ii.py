"""Importer of Online Retail II (UCI, CC BY 4.0): every invoice line of a UK gift shop, 2009-2011.

Here belongs what is peculiar to that data set, so that nothing after the landing folder needs to
know it. What it decides, in this order, for each row of the two files; every row ends in exactly
one bucket of the report:

1. `overlap`: the row stands in the earlier file, too (the files overlap by nine days).
2. `duplicate`: an identical row stands above it.
3. `without_customer`: no customer id. Stock write-offs, bad debts, sales to unknown people.
4. `cancellation_*`: the invoice number begins with C. Its units are taken off order lines of the
   same customer and product whose order was placed before it: lines of the same price first, then
   lines that can give all of them, then the latest, then the lowest in the order; what one line
   cannot give is taken off the next. `linked`, `partly_linked` or `unlinked` says how much was
   found. A line carries its cancelled units, and the time of its last cancellation: until then
   nothing of it is known, which errs on the side of not knowing. An order is cancelled when all
   units of all its lines are.
5. `adjustment`: any other letter before the invoice number.
6. `quantity_not_positive`, `price_not_positive`: gifts, samples and damage.
7. `order_line`: a line of an order.

Codes that do not begin with five digits (POST, M, BANK CHARGES, ...) are charges: their order lines
are kept, since the customer paid them, but they are no products. A product is called what it is
called most often. A customer is where the latest order went, and was created with the first one. A
buyer is `business` whose median order is worth at least 800 pounds or has at least 500 units
(7 % of customers, 27 % of revenue), otherwise `consumer`.

Clock times are London's; they are written as instants.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.defs.sources.contract import ContractError, load_contract
from orchestration.defs.sources.landing import write_landing

if TYPE_CHECKING:
    import pandas as pd

SHOP_TIMEZONE = "Europe/London"
CURRENCY = "GBP"
FIRST_DAY, LAST_DAY = date(2009, 12, 1), date(2011, 12, 9)
FILE_NAME = "online_retail_ii"

BUSINESS_ORDER_AMOUNT = 800
BUSINESS_ORDER_UNITS = 500

_COLUMNS = {
    "Invoice": "invoice",
    "StockCode": "code",
    "Description": "description",
    "Quantity": "quantity",
    "InvoiceDate": "at",
    "Price": "price",
    "Customer ID": "customer_id",
    "Country": "country",
}
_PRODUCT_CODE = r"\d{5}"


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows, and what was written.

    `buckets` counts every input row once; its values sum to `rows_in`. `revenue` is the sum of
    quantity times unit price over all order lines, before cancellations.
    """

    rows_in: int
    buckets: dict[str, int]
    customers: int
    orders: int
    order_lines: int
    products: int
    revenue: Decimal
    charge_lines: int
    cancelled_units: int
    unlinked_units: int
    cancelled_orders: int
    repeatedly_cancelled_lines: int
    customers_in_several_countries: int
    business_customers: int
    files: tuple[Path, ...] = field(default=())


def import_online_retail_ii(source: Path, landing: Path) -> ImportReport:
    """Turn the two files in `source` (Parquet or CSV, original columns) into landing files.

    Writes customers, products, orders and order_items into `landing`, each as one file, the same
    bytes every time. Takes about ten seconds.

    Raises ContractError where `source` does not hold the data set.
    """
    rows = _read(source)
    bucket = _sort_into_buckets(rows)
    lines = _order_lines(rows[bucket == "order_line"])
    cancellations = rows[bucket == "cancellation"]
    found, repeated = _link(cancellations, lines)
    bucket[cancellations.index] = found["bucket"]

    orders = _orders(lines)
    customers = _customers(lines, orders)
    products = _products(lines)
    contract = load_contract()
    frames = {
        "customers": customers.drop(columns="countries"),
        "products": products,
        "orders": orders[["order_id", "customer_id", "ordered_at", "cancelled_at"]],
        "order_items": lines[
            [
                "order_id",
                "line_number",
                "product_id",
                "quantity",
                "unit_price",
                "cancelled_quantity",
                "cancelled_at",
            ]
        ],
    }
    files = tuple(
        write_landing(landing, contract.table(name), _instants(frame), FILE_NAME)
        for name, frame in frames.items()
    )
    return ImportReport(
        rows_in=len(rows),
        buckets={str(k): int(v) for k, v in bucket.value_counts().sort_index().items()},
        customers=len(customers),
        orders=len(orders),
        order_lines=len(lines),
        products=len(products),
        revenue=Decimal(int((lines["units_of_money"] * lines["quantity"]).sum())) / 10_000,
        charge_lines=int((~lines["product_id"].str.match(_PRODUCT_CODE)).sum()),
        cancelled_units=int(lines["cancelled_quantity"].sum()),
        unlinked_units=int(found["unlinked"].sum()),
        cancelled_orders=int(orders["cancelled_at"].notna().sum()),
        repeatedly_cancelled_lines=repeated,
        customers_in_several_countries=int((customers["countries"] > 1).sum()),
        business_customers=int((customers["account_type"] == "business").sum()),
        files=files,
    )


def _read(source: Path) -> pd.DataFrame:
    """All rows in the order of the files, with `file` (0, 1, ...)."""
    import pandas as pd
    import pyarrow as pa

    paths = sorted(p for p in source.glob("*") if p.suffix in (".parquet", ".csv"))
    if not paths:
        raise ContractError(f"no .parquet or .csv file in {source}")
    frames = []
    for number, path in enumerate(paths):
        try:
            frame = _read_file(path)
        except (pa.ArrowException, OSError, KeyError) as error:
            detail = str(error).splitlines()[0][:200]
            raise ContractError(f"{path.name} is not Online Retail II: {detail}") from None
        frames.append(frame.assign(file=number))
    return pd.concat(frames, ignore_index=True)


def _read_file(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    types = {
        "Invoice": pa.string(),
        "StockCode": pa.string(),
        "Description": pa.string(),
        "Quantity": pa.int64(),
        "InvoiceDate": pa.timestamp("us"),
        "Price": pa.float64(),
        "Customer ID": pa.float64(),  # Excel wrote 13085.0
        "Country": pa.string(),
    }
    if path.suffix == ".csv":
        convert = csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            strings_can_be_null=True,
            null_values=[""],
            timestamp_parsers=["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"],
        )
        parse = csv.ParseOptions(newlines_in_values=True)
        table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    else:
        table = pq.read_table(path, columns=list(types)).select(list(types))
        table = table.cast(pa.schema(types))
    frame = table.rename_columns(list(_COLUMNS.values())).to_pandas()
    frame["customer_id"] = frame["customer_id"].astype("Int64")
    # Prices have at most four decimals (18 rows have more than two): whole units are exact.
    frame["units_of_money"] = (frame["price"] * 10_000).round().astype("int64")
    return frame


def _sort_into_buckets(rows: pd.DataFrame) -> pd.Series:
    """Name the bucket of each row; cancellations are told apart later."""
    import numpy as np
    import pandas as pd

    # Identical rows as numbers; the n-th copy in one file is the n-th copy in the other.
    same = rows.groupby([*_COLUMNS.values()], dropna=False, sort=False).ngroup()
    copy = rows.groupby([same, rows["file"]], sort=False).cumcount()
    overlap = pd.DataFrame({"same": same, "copy": copy}).duplicated()
    duplicate = same.duplicated()
    letter = rows["invoice"].str[:1]
    conditions = [
        (overlap, "overlap"),
        (duplicate, "duplicate"),
        (rows["customer_id"].isna(), "without_customer"),
        (letter == "C", "cancellation"),
        (~letter.str.isdigit(), "adjustment"),
        (rows["quantity"] <= 0, "quantity_not_positive"),
        (rows["units_of_money"] <= 0, "price_not_positive"),
    ]
    names = np.select(
        [condition.to_numpy(dtype=bool) for condition, _ in conditions],
        [name for _, name in conditions],
        "order_line",
    )
    return pd.Series(names, index=rows.index, dtype=object)


def _order_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Lines of orders, numbered as they stand in the files, by order and line."""
    import pandas as pd

    lines = pd.DataFrame(
        {
            "order_id": rows["invoice"],
            "line_number": rows.groupby("invoice", sort=False).cumcount() + 1,
            "product_id": rows["code"],
            "quantity": rows["quantity"],
            "unit_price": rows["price"],
            "units_of_money": rows["units_of_money"],
            "customer_id": rows["customer_id"].astype(str),
            # 64 invoices were written over two minutes.
            "ordered_at": rows.groupby("invoice", sort=False)["at"].transform("min"),
            "name": rows["description"].str.strip(),
            "country": rows["country"],
        }
    )
    return lines.sort_values(["order_id", "line_number"], ignore_index=True)


def _link(cancellations: pd.DataFrame, lines: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Take cancelled units off `lines`, which gains cancelled_quantity and cancelled_at.

    Returns per cancellation its bucket and the units for which no line was found, and the number
    of lines that were cancelled more than once.
    """
    import numpy as np
    import pandas as pd

    wanted = set(zip(cancellations["customer_id"].astype(str), cancellations["code"], strict=True))
    pairs = pd.MultiIndex.from_frame(lines[["customer_id", "product_id"]])
    candidates = lines[pairs.isin(wanted)]
    by_pair: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, customer_id, code in zip(
        candidates.index, candidates["customer_id"], candidates["product_id"], strict=True
    ):
        by_pair[customer_id, code].append(place)

    quantity = lines["quantity"].to_numpy()
    money = lines["units_of_money"].to_numpy()
    ordered = lines["ordered_at"].to_numpy()
    cancelled = np.zeros(len(lines), dtype=np.int64)
    times = np.zeros(len(lines), dtype=np.int64)
    cancelled_at = np.full(len(lines), np.datetime64("NaT"), dtype="datetime64[us]")
    buckets: dict[int, tuple[str, int]] = {}
    # In the order of time: an earlier cancellation has the first claim.
    claims = cancellations.sort_values(["at", "invoice"], kind="stable")
    for index, customer_id, code, units, price, at in zip(
        claims.index.tolist(),
        claims["customer_id"].astype(str).tolist(),
        claims["code"].tolist(),
        (-claims["quantity"]).tolist(),
        claims["units_of_money"].tolist(),
        claims["at"].to_numpy(),
        strict=True,
    ):
        left = units
        places = [
            place
            for place in by_pair.get((customer_id, code), ())
            if ordered[place] <= at and cancelled[place] < quantity[place]
        ]
        ranked = sorted(
            (
                money[place] != price,
                quantity[place] - cancelled[place] < units,
                -ordered[place].astype("int64"),
                place,
            )
            for place in places
        )
        for *_, place in ranked:
            if left <= 0:
                break
            taken = min(left, quantity[place] - cancelled[place])
            cancelled[place] += taken
            times[place] += 1
            cancelled_at[place] = at
            left -= taken
        kind = "unlinked" if left == units else "partly_linked" if left else "linked"
        buckets[index] = (f"cancellation_{kind}", max(left, 0))
    lines["cancelled_quantity"] = cancelled
    lines["cancelled_at"] = cancelled_at
    found = pd.DataFrame.from_dict(buckets, orient="index", columns=["bucket", "unlinked"])
    return found.reindex(cancellations.index), int((times > 1).sum())


def _orders(lines: pd.DataFrame) -> pd.DataFrame:
    """One row per order, with what customers are judged by: amount and units."""
    frame = lines.assign(
        amount=lines["units_of_money"] * lines["quantity"] / 10_000,
        is_kept=lines["cancelled_quantity"] < lines["quantity"],
    )
    orders = frame.groupby("order_id", sort=True, as_index=False).agg(
        customer_id=("customer_id", "first"),
        country=("country", "first"),
        ordered_at=("ordered_at", "first"),
        cancelled_at=("cancelled_at", "max"),
        amount=("amount", "sum"),
        units=("quantity", "sum"),
        is_kept=("is_kept", "any"),
    )
    orders["cancelled_at"] = orders["cancelled_at"].mask(orders["is_kept"])
    return orders


def _customers(lines: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    customers = (
        orders.sort_values(["ordered_at", "order_id"])
        .groupby("customer_id", sort=True)
        .agg(
            created_at=("ordered_at", "first"),
            country=("country", "last"),
            amount=("amount", "median"),
            units=("units", "median"),
            countries=("country", "nunique"),
        )
        .reset_index()
    )
    is_business = (customers["amount"] >= BUSINESS_ORDER_AMOUNT) | (
        customers["units"] >= BUSINESS_ORDER_UNITS
    )
    customers["account_type"] = is_business.map({True: "business", False: "consumer"})
    return customers.drop(columns=["amount", "units"])


def _products(lines: pd.DataFrame) -> pd.DataFrame:
    """One row per product code, called what it is called most often; ties by alphabet."""
    names = lines[lines["product_id"].str.match(_PRODUCT_CODE)]
    counts = names.groupby(["product_id", "name"], as_index=False).size()
    counts = counts.sort_values(["product_id", "size", "name"], ascending=[True, False, True])
    return counts.drop_duplicates("product_id")[["product_id", "name"]].reset_index(drop=True)


def _instants(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with London clock times as instants; the shop wrote no invoice at night."""
    frame = frame.copy()
    for name in frame.columns:
        if name.endswith("_at"):
            local = frame[name].dt.tz_localize(SHOP_TIMEZONE, ambiguous="raise")
            frame[name] = local.dt.tz_convert("UTC")
    return frame
