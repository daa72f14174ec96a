"""Raw tables of any size for measuring the mart: skewed, late in part, the same for the same seed.

What belongs here: making facts fast, straight into a DuckDB file in the loader's shape. What does
not: worlds that are hard on purpose; those are in tests/dbt_project/raw_world.py. Here a later
version of a row keeps its business day, and products are delivered once: the queries that the mart
is compared with are shorter and faster for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "dbt_project"))

from raw_world import COMMON_COLUMNS, RAW_COLUMNS  # noqa: E402

LAST_DAY = date(2025, 3, 31)
PRODUCTS = 5_000
CUSTOMER_DAYS = 730  # how long a customer stays at the shop
EVENTS_PER_VISIT = 2.5
ORDERS_PER_EVENT = 0.15
LINES_PER_ORDER = 2.2
CHUNK = 2_000_000
ROWS_PER_CORRECTION = 50
# What the earlier version of a corrected row had otherwise.
FIRST_DELIVERED = {
    "events": "'view' AS event_type",
    "orders": "discount_amount + 5 AS discount_amount, NULL AS delivered_at",
    "order_items": "quantity + 1 AS quantity, unit_price + 3 AS unit_price",
}
EVENT_TYPES = ["view", "add_to_cart", "search", "login", "email_open", "email_click"]


@dataclass(frozen=True)
class Size:
    """How large a shop is: over `days` days up to LAST_DAY, all of its customers and events."""

    events: int
    customers: int
    days: int = 455

    @property
    def first_day(self) -> date:
        return LAST_DAY - timedelta(days=self.days - 1)


def last_days(count: int) -> list[date]:
    """Return the last days of the history, in order."""
    return [LAST_DAY - timedelta(days=count - 1 - n) for n in range(count)]


def write_world(path: Path, size: Size, seed: int = 7) -> None:
    """Write the raw tables of a shop into a new DuckDB file."""
    rng = np.random.default_rng(seed)
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("CREATE SCHEMA raw")
        for table, columns in RAW_COLUMNS.items():
            declared = ", ".join(f"{n} {kind}" for n, kind in {**columns, **COMMON_COLUMNS}.items())
            connection.execute(f"CREATE TABLE raw.{table} ({declared})")
        owners = _Owners(size, rng)
        _write_products(connection)
        _write_customers(connection, size)
        for frame in _visits(size, owners, rng):
            _write_events(connection, frame, size)
        for orders, lines in _orders(size, owners, rng):
            _write_orders(connection, orders, lines, size)
        for table, was in FIRST_DELIVERED.items():
            _deliver_again(connection, table, was)
        for table in ("events", "orders"):
            _in_order_of_arrival(connection, table)


def _deliver_again(connection: duckdb.DuckDBPyConnection, table: str, was: str) -> None:
    """Give one row in fifty an earlier version, which it superseded one to ten days later."""
    day = "coalesce(arrived_date, occurred_date)"
    if table == "order_items":
        day = "(SELECT min(occurred_date) FROM raw.orders AS o WHERE o.order_id = r.order_id)"
    again = f"{day} + (1 + _line % 10)::INTEGER"
    chosen = f"raw.{table} AS r WHERE hash(_line) % {ROWS_PER_CORRECTION} = 0"
    connection.execute(
        f"""
        CREATE TEMP TABLE early AS
            SELECT * REPLACE ({was}, false AS _is_current, {again} AS _superseded_date)
            FROM {chosen};
        CREATE TEMP TABLE late AS
            SELECT * REPLACE (2 AS _file_id, {again} AS arrived_date) FROM {chosen};
        DELETE FROM {chosen};
        INSERT INTO raw.{table} FROM early;
        INSERT INTO raw.{table} FROM late;
        DROP TABLE early;
        DROP TABLE late;
        """
    )


def _in_order_of_arrival(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Lay a table out as a shop delivers it: day by day."""
    connection.execute(f"ALTER TABLE raw.{table} RENAME TO drawn")
    connection.execute(
        f"CREATE TABLE raw.{table} AS FROM raw.drawn"
        " ORDER BY coalesce(arrived_date, occurred_date), _line"
    )
    connection.execute("DROP TABLE raw.drawn")


class _Owners:
    """Who does what when: a few customers do much, and each is a customer for a while only."""

    def __init__(self, size: Size, rng: np.random.Generator) -> None:
        joined = rng.uniform(-CUSTOMER_DAYS, size.days, size.customers)
        self.start = np.clip(joined, 0, None)
        self.length = np.clip(joined + CUSTOMER_DAYS, None, size.days) - self.start
        weight = (rng.gamma(0.8, 1.0, size.customers) + 0.05) * self.length
        self._cumulated = np.cumsum(weight) / weight.sum()
        self._rng = rng

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return customers' numbers and days of the history, counted from 0."""
        owner = np.searchsorted(self._cumulated, self._rng.random(count)).clip(
            0, len(self._cumulated) - 1
        )
        day = np.floor(self.start[owner] + self._rng.random(count) * self.length[owner])
        return owner.astype(np.int32), day.astype(np.int32)


def _seconds(rng: np.random.Generator, count: int) -> np.ndarray:
    """Seconds of the day at which UTC and the shop have the same date."""
    return rng.integers(6 * 3600, 21 * 3600, count).astype(np.int32)


def _late(rng: np.random.Generator, count: int) -> np.ndarray:
    """By how many days a fact arrives late: one in twenty does."""
    return np.where(rng.random(count) < 0.05, rng.integers(1, 11, count), 0).astype(np.int32)


def _visits(size: Size, owners: _Owners, rng: np.random.Generator) -> Iterator[pd.DataFrame]:
    made = visit = 0
    while made < size.events:
        count = min(int(CHUNK / EVENTS_PER_VISIT), size.events - made)
        owner, day = owners.draw(count)
        events = 1 + rng.poisson(EVENTS_PER_VISIT - 1, count)
        row = np.repeat(np.arange(count), events)[: size.events - made]
        yield pd.DataFrame(
            {
                "event": np.arange(made, made + len(row)),
                "owner": owner[row],
                "day": day[row],
                "second": _seconds(rng, count)[row] + rng.integers(0, 3000, len(row)),
                "visit": (visit + row),
                "has_session": (rng.random(count) < 0.95)[row],
                "late": _late(rng, count)[row],
                "kind": rng.choice(6, len(row), p=[0.6, 0.12, 0.1, 0.06, 0.08, 0.04]),
            }
        )
        made += len(row)
        visit += count


def _orders(
    size: Size, owners: _Owners, rng: np.random.Generator
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    made, wanted = 0, int(size.events * ORDERS_PER_EVENT)
    while made < wanted:
        count = min(CHUNK, wanted - made)
        owner, day = owners.draw(count)
        second = _seconds(rng, count)
        orders = pd.DataFrame(
            {
                "number": np.arange(made, made + count),
                "owner": owner,
                "day": day,
                "second": second,
                "late": _late(rng, count),
                "delivery_days": np.where(rng.random(count) < 0.9, rng.integers(1, 15, count), -1),
                "cancel_days": np.where(rng.random(count) < 0.05, rng.integers(0, 30, count), -1),
                "discount": np.where(rng.random(count) < 0.3, rng.integers(1, 2000, count), 0),
            }
        )
        lines = 1 + rng.poisson(LINES_PER_ORDER - 1, count)
        row = np.repeat(np.arange(count), lines)
        quantity = rng.integers(1, 5, len(row))
        yield (
            orders,
            pd.DataFrame(
                {
                    "number": made + row,
                    "line": np.arange(len(row)) - np.repeat(np.cumsum(lines) - lines, lines) + 1,
                    "day": day[row],
                    "second": second[row],
                    "product": np.floor(PRODUCTS * rng.random(len(row)) ** 2).astype(np.int32),
                    "quantity": quantity,
                    "price": rng.integers(200, 6000, len(row)),
                    "cancelled": np.where(
                        rng.random(len(row)) < 0.04, rng.integers(1, quantity + 1), 0
                    ),
                    "cancel_days": rng.integers(0, 40, len(row)),
                }
            ),
        )
        made += count


def _insert(connection: duckdb.DuckDBPyConnection, table: str, **columns: str) -> None:
    """Insert from `frame`; what is not named is null."""
    columns |= {"_file_id": "1", "_is_current": "true"}
    connection.execute(
        f"INSERT INTO raw.{table} BY NAME SELECT "
        + ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
        + " FROM frame"
    )


def _write_products(connection: duckdb.DuckDBPyConnection) -> None:
    # One in fifty is not in the catalogue, and one in thirty has no category.
    frame = pd.DataFrame({"product": np.arange(PRODUCTS)})
    frame = frame[frame["product"] % 50 != 49]
    connection.register("frame", frame)
    _insert(
        connection,
        "products",
        product_id="'p' || product",
        category="CASE WHEN product % 30 != 7 THEN 'c' || (product % 12) END",
        unit_cost="CASE WHEN product % 40 != 3 THEN 1 + product % 20 END",
        _line="product",
    )


def _write_customers(connection: duckdb.DuckDBPyConnection, size: Size) -> None:
    frame = pd.DataFrame({"owner": np.arange(size.customers)})
    connection.register("frame", frame)
    day = f"DATE '{size.first_day}'"
    _insert(
        connection,
        "customers",
        customer_key="md5(owner::VARCHAR)",
        created_at=f"{day}::TIMESTAMP",
        occurred_date=day,
        has_email="true",
        has_phone="owner % 2 = 0",
        _line="owner",
    )


def _write_events(connection: duckdb.DuckDBPyConnection, frame: pd.DataFrame, size: Size) -> None:
    connection.register("frame", frame)
    day = f"(DATE '{size.first_day}' + day)"
    instant = f"({day}::TIMESTAMP + to_seconds(second))"
    _insert(
        connection,
        "events",
        event_id="'e' || event",
        customer_key="md5(owner::VARCHAR)",
        event_type=f"{EVENT_TYPES}[kind + 1]",
        occurred_at=instant,
        session_id="CASE WHEN has_session THEN 's' || visit END",
        occurred_date=day,
        arrived_at=f"CASE WHEN late > 0 THEN {instant} + to_days(late) END",
        arrived_date=f"CASE WHEN late > 0 THEN {day} + late END",
        _line="event",
    )


def _write_orders(
    connection: duckdb.DuckDBPyConnection, orders: pd.DataFrame, lines: pd.DataFrame, size: Size
) -> None:
    day = f"(DATE '{size.first_day}' + day)"
    instant = f"({day}::TIMESTAMP + to_seconds(second))"
    connection.register("frame", orders)
    _insert(
        connection,
        "orders",
        order_id="'o' || number",
        customer_key="md5(owner::VARCHAR)",
        ordered_at=instant,
        delivered_at=f"CASE WHEN delivery_days > 0 THEN {instant} + to_days(delivery_days) END",
        cancelled_at=f"CASE WHEN cancel_days >= 0 THEN {instant} + to_days(cancel_days) END",
        discount_amount="discount / 100.0",
        shipping_amount="4.9",
        channel="'web'",
        occurred_date=day,
        arrived_at=f"CASE WHEN late > 0 THEN {instant} + to_days(late) END",
        arrived_date=f"CASE WHEN late > 0 THEN {day} + late END",
        _line="number",
    )
    connection.register("frame", lines)
    _insert(
        connection,
        "order_items",
        order_id="'o' || number",
        line_number="line",
        product_id="'p' || product",
        quantity="quantity",
        unit_price="price / 100.0",
        cancelled_quantity="cancelled",
        cancelled_at=f"CASE WHEN cancelled > 0 THEN {instant} + to_days(cancel_days) END",
        _line="number * 100 + line",
    )
