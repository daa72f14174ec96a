# ruff: noqa: E501
"""The mart's SQL under measurement, and the query that an analyst would write instead.

What belongs here: SQL, and running it. What does not: clocks, worlds, other engines.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "dbt_project"))

from mart_project import Dbt, Model  # noqa: E402

TIMEZONE = "Europe/Berlin"
INPUTS = ["int_order_lines", "int_orders"]
# What a plain sum over facts gives (sums, counts, distinct counts), and where the mart has it.
MEASURED = {
    "int_customer_engagement": ["engagement_measured"],
    "int_customer_orders": ["orders_measured"],
    "int_customer_products": ["products_measured"],
}
# What it does not give: a maximum, a share. One row per customer and change; spread over the days.
REST = {
    "int_customer_orders": ("largest", "max_order_amount_365d"),
    "int_customer_products": ("mixes", "main_category_share_365d"),
}


Mart = dict[str, Model]


def ending_in(model: Model, select: str) -> str:
    """Return a model's SQL with another final select."""
    sql = model.sql.strip()
    return sql[: sql.rindex("\nselect")] + "\n" + select


def compile_mart() -> tuple[Mart, Mart]:
    """Return the models in dbt's order, as compiled for one day and for many."""
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as folder:
        dbt = Dbt(Path(folder))
        one, many = (
            {m.name: m for m in dbt.compiled(snapshot_dates=days, shop_timezone=TIMEZONE)}
            for days in (["2025-02-01"], ["2025-02-01", "2025-02-02"])
        )
    return one, many


def open_raw(
    path: Path, warehouse: str = ":memory:", **settings: object
) -> duckdb.DuckDBPyConnection:
    """Return a connection to a new warehouse whose raw tables are those of a file."""
    # One thread a query, as in the profile of dbt.
    connection = duckdb.connect(config={"threads": 1, **settings})
    connection.execute(f"ATTACH '{warehouse}' AS warehouse")
    connection.execute(f"ATTACH '{path}' AS facts (READ_ONLY)")
    connection.execute("USE warehouse")
    connection.execute("SET timezone = 'UTC'")
    connection.execute("CREATE SCHEMA raw")
    for (table,) in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'facts'"
    ).fetchall():
        connection.execute(f"CREATE VIEW raw.{table} AS FROM facts.raw.{table}")
    return connection


def build(
    connection: duckdb.DuckDBPyConnection, mart: Mart, days: Sequence[date], names: Iterable[str]
) -> None:
    """Build models by name for these days; staging is views, and costs nothing."""
    spine = " UNION ALL ".join(f"SELECT DATE '{day}' AS snapshot_date" for day in days)
    connection.execute("CREATE SCHEMA IF NOT EXISTS staging")
    connection.execute("CREATE SCHEMA IF NOT EXISTS intermediate")
    connection.execute(f"CREATE OR REPLACE TABLE intermediate.int_snapshot_dates AS {spine}")
    wanted = set(names)
    for model in mart.values():
        if model.is_view:
            connection.execute(f"CREATE OR REPLACE VIEW {model.schema}.{model.name} AS {model.sql}")
        elif model.name in wanted:
            connection.execute(
                f"CREATE OR REPLACE TABLE {model.schema}.{model.name} AS {model.sql}"
            )


def checksum(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[object, ...]:
    """Run a query to its last row without keeping any: the count, and the sum of every number."""
    described = connection.execute(f"DESCRIBE {sql}").fetchall()
    sums = [f"sum({row[0]})" for row in described if not row[1].startswith(("VARCHAR", "DATE"))]
    found = connection.execute(f"SELECT count(*), {', '.join(sums)} FROM ({sql})").fetchone()
    return found or ()


def measured(mart: Mart) -> dict[str, str]:
    """Return the queries of what adds up, by the CTE that holds it."""
    return {
        cte: ending_in(mart[name], f"select * from {cte}")
        for name, ctes in MEASURED.items()
        for cte in ctes
    }


def rest(mart: Mart) -> dict[str, str]:
    """Return the queries of what does not add up, spread over the requested days."""
    return {
        column: ending_in(
            mart[name],
            f"select spine.snapshot_date, {cte}.customer_key, {cte}.{column}"
            f" from intermediate.int_snapshot_dates as spine inner join {cte}"
            f" on {cte}.from_date <= spine.snapshot_date"
            f" and {cte}.until_date > spine.snapshot_date",
        )
        for name, (cte, column) in REST.items()
    }


_IN_WINDOW = "order_id IN (SELECT order_id FROM known_orders)"


def _as_known(table: str, key: str, rows: str) -> str:
    """A CTE `known_<table>`: raw rows as they were known at the end of the day.

    Of several versions of a row the last one known counts. `rows` says which rows are wanted, and is
    asked before that, which is faster, and right as no version here has another business day.
    """
    return f"""
known_{table} AS (
    SELECT *
    FROM raw.{table} AS {table}
    WHERE {rows} AND coalesce(greatest(occurred_date, arrived_date) <= $day, true)
    QUALIFY row_number() OVER (
        PARTITION BY {key} ORDER BY _is_current DESC, _file_id DESC, _line DESC
    ) = 1
)"""


def told(query: str) -> str:
    """The same query, told which versions were superseded when, as the loader tells the mart."""
    return re.sub(
        r"QUALIFY row_number\(\).*?= 1",
        "AND coalesce(_superseded_date > $day, true)",
        query.replace(_IN_WINDOW, "true"),  # which spares windows, and costs where there are none
        flags=re.DOTALL,
    )


def _shop_day(column: str) -> str:
    return f"CAST(timezone('{TIMEZONE}', timezone('UTC', {column})) AS date)"


IS_BROWSING = "event_type NOT IN ('email_open', 'email_click')"

EVENTS_QUERY = f"""
WITH {_as_known("events", "event_id", "occurred_date > $day - 90")}
SELECT
    customer_key,
    {", ".join(f"count(*) FILTER (occurred_date > $day - {n} AND {IS_BROWSING}) AS event_count_{n}d" for n in (7, 30, 60, 90))},
    {", ".join(f"count(DISTINCT occurred_date) FILTER (occurred_date > $day - {n} AND {IS_BROWSING}) AS event_day_count_{n}d" for n in (30, 90))},
    count(*) FILTER (occurred_date > $day - 30 AND event_type = 'view') AS view_count_30d,
    count(*) FILTER (occurred_date > $day - 30 AND event_type = 'add_to_cart') AS cart_count_30d,
    count(*) FILTER (event_type = 'email_open') AS email_open_count_90d,
    count(*) FILTER (event_type = 'email_click') AS email_click_count_90d,
    count(DISTINCT session_id) FILTER (occurred_date > $day - 30 AND {IS_BROWSING}) AS session_count_30d
FROM known_events
GROUP BY customer_key
"""

# Lines and orders of the last year, as they stood at the end of the day.
ORDERS_CTES = f"""
{_as_known("orders", "order_id", "occurred_date > $day - 365")},
{_as_known("order_items", "order_id, line_number", _IN_WINDOW)},
lines AS (
    SELECT
        orders.order_id,
        orders.customer_key,
        orders.occurred_date AS ordered_date,
        {_shop_day("orders.delivered_at")} AS delivered_date,
        coalesce({_shop_day("orders.cancelled_at")} <= $day, false) AS is_cancelled,
        coalesce(orders.discount_amount, 0) AS discount_amount,
        items.product_id,
        products.product_id IS NOT NULL AS is_in_catalogue,
        products.category,
        items.quantity,
        items.unit_price,
        products.unit_cost,
        items.quantity - CASE
            WHEN {_shop_day("orders.cancelled_at")} <= $day THEN items.quantity
            WHEN {_shop_day("items.cancelled_at")} <= $day THEN items.cancelled_quantity
            ELSE 0
        END AS net_quantity
    FROM known_orders AS orders
    JOIN known_order_items AS items ON orders.order_id = items.order_id
    LEFT JOIN raw.products ON items.product_id = products.product_id
),
orders AS (
    SELECT
        *,
        is_cancelled OR item_count = 0 AS is_gone,
        gross_amount - net_amount AS cancelled_amount,
        CASE WHEN is_cancelled OR item_count = 0 THEN 0 ELSE least(discount, net_amount) END AS discount_amount,
        net_amount - CASE WHEN is_cancelled OR item_count = 0 THEN 0 ELSE least(discount, net_amount) END AS revenue_amount,
        CASE
            WHEN is_cancelled OR item_count = 0 THEN 0
            WHEN costed_line_count = line_count THEN net_amount - least(discount, net_amount) - cost_amount
        END AS margin_amount,
        delivered_date - ordered_date AS delivery_days
    FROM (
        SELECT
            order_id,
            customer_key,
            ordered_date,
            CASE WHEN delivered_date <= $day THEN delivered_date END AS delivered_date,
            is_cancelled,
            discount_amount AS discount,
            count(*) AS line_count,
            count(CASE WHEN net_quantity = 0 THEN 0 ELSE unit_cost END) AS costed_line_count,
            sum(net_quantity) AS item_count,
            sum(quantity * unit_price) AS gross_amount,
            sum(net_quantity * unit_price) AS net_amount,
            sum(net_quantity * unit_cost) AS cost_amount
        FROM lines
        GROUP BY ALL
    )
)
"""

_VALID = "NOT is_gone"
_DELIVERED = "delivered_date > $day - 180 AND NOT is_gone"
_LAST_YEAR = "ordered_date <= $day - 275"

ORDERS_QUERY = f"""
WITH {ORDERS_CTES}
SELECT
    customer_key,
    {", ".join(f"count(*) FILTER (ordered_date > $day - {n} AND {_VALID}) AS order_count_{n}d" for n in (30, 90, 180, 365))},
    count(DISTINCT ordered_date) FILTER ({_VALID}) AS order_day_count_365d,
    count(*) FILTER ({_VALID} AND discount_amount > 0) AS discounted_order_count_365d,
    count(*) FILTER (is_gone) AS cancelled_order_count_365d,
    count(*) FILTER ({_LAST_YEAR} AND {_VALID}) AS order_count_same_weeks_last_year,
    coalesce(sum(revenue_amount) FILTER ({_LAST_YEAR}), 0) AS revenue_amount_same_weeks_last_year,
    {", ".join(f"coalesce(sum(revenue_amount) FILTER (ordered_date > $day - {n}), 0) AS revenue_amount_{n}d" for n in (30, 90, 180, 365))},
    coalesce(sum(margin_amount), 0) AS known_margin_amount_365d,
    count(*) FILTER (margin_amount IS NULL) AS unknown_margin_order_count_365d,
    sum(net_amount) AS net_amount_365d,
    coalesce(sum(item_count) FILTER ({_VALID}), 0) AS item_count_365d,
    sum(discount_amount) AS discount_amount_365d,
    sum(cancelled_amount) AS cancelled_amount_365d,
    count(*) FILTER ({_DELIVERED}) AS delivered_count_180d,
    coalesce(sum(delivery_days) FILTER ({_DELIVERED}), 0) AS delivery_sum_days_180d,
    count(*) FILTER ({_DELIVERED} AND delivery_days > 7) AS late_delivery_count_180d,
    count(delivered_date) AS told_delivery_count_365d,
    count(*) FILTER (ordered_date > $day - 180 AND ordered_date <= $day - 15 AND delivered_date IS NULL AND {_VALID})
        AS overdue_order_count_180d
FROM orders
GROUP BY customer_key
"""

PRODUCTS_QUERY = f"""
WITH {ORDERS_CTES}
SELECT
    customer_key,
    count(DISTINCT product_id) FILTER (is_in_catalogue) AS product_count_365d,
    count(DISTINCT category) AS category_count_365d
FROM lines
WHERE net_quantity > 0
GROUP BY customer_key
"""

LARGEST_QUERY = f"""
WITH {ORDERS_CTES}
SELECT customer_key, max(revenue_amount) AS max_order_amount_365d
FROM orders
WHERE {_VALID}
GROUP BY customer_key
"""

SHARES_QUERY = f"""
WITH {ORDERS_CTES}
SELECT customer_key, max(items) / sum(items) AS main_category_share_365d
FROM (
    SELECT customer_key, category, sum(net_quantity) AS items
    FROM lines
    WHERE net_quantity > 0 AND category IS NOT NULL
    GROUP BY customer_key, category
)
GROUP BY customer_key
"""

# By the model that each answers for, on one day.
REFERENCE = {
    "int_customer_engagement": EVENTS_QUERY,
    "int_customer_orders": ORDERS_QUERY,
    "int_customer_products": PRODUCTS_QUERY,
}
REFERENCE_REST = {"largest": LARGEST_QUERY, "shares": SHARES_QUERY}


def on_day(query: str, day: date) -> str:
    """Return a reference query for one day."""
    return query.replace("$day", f"DATE '{day}'")


def unequal(
    connection: duckdb.DuckDBPyConnection, model: str, query: str, day: date
) -> tuple[int, int]:
    """Compare a model with a query, but for rows of zeros: rows, and how many differ."""
    names = [row[0] for row in connection.execute(f"DESCRIBE {query}").fetchall()]
    some = " OR ".join(f"{name} <> 0" for name in names if name != "customer_key")
    mine = (
        f"SELECT {', '.join(names)} FROM intermediate.{model}"
        f" WHERE snapshot_date = DATE '{day}' AND ({some})"
    )
    theirs = f"SELECT * FROM ({query}) WHERE {some}"
    row = connection.execute(
        f"SELECT (SELECT count(*) FROM ({mine})),"
        f" (SELECT count(*) FROM (({mine}) EXCEPT ALL ({theirs})))"
        f" + (SELECT count(*) FROM (({theirs}) EXCEPT ALL ({mine})))"
    ).fetchone()
    return (row[0], row[1]) if row else (0, 0)
