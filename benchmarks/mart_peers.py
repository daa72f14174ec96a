"""One day of engagement, as DuckDB, polars and pandas work it out, from facts in their own memory.

What belongs here: the same answer in three engines, each as one would write it for that engine.
What does not: clocks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
from mart_sql import Mart, build, open_raw

COLUMNS = [
    *(f"event_count_{n}d" for n in (7, 30, 60, 90)),
    "event_day_count_30d",
    "event_day_count_90d",
    "view_count_30d",
    "cart_count_30d",
    "email_open_count_90d",
    "email_click_count_90d",
    "session_count_30d",
]
DAY_COUNTS = ["event_count", "view_count", "cart_count", "email_open_count", "email_click_count"]
MAIL = ["email_open", "email_click"]
Arm = Callable[[], Callable[[], Any]]

EVENTS = """
    SELECT customer_key, event_type, occurred_date, session_id,
        greatest(occurred_date, coalesce(arrived_date, occurred_date)) AS known_date
    FROM facts.raw.events
"""


def skipped() -> list[str]:
    """Return what cannot be measured here, and why."""
    return [] if _has_polars() else ["polars is not installed: pip install polars"]


def _has_polars() -> bool:
    return importlib.util.find_spec("polars") is not None


def arms(facts: Path, mart: Mart, day: date) -> dict[str, Arm]:
    """Return the arms by name: each prepares its facts, and returns what is to be timed.

    What is timed returns the number of customers, and of each column the sum and that of squares.
    """
    found: dict[str, Arm] = {
        "mart, from raw events": lambda: _mart(facts, mart, day, from_days=False),
        "mart, from customer-days": lambda: _mart(facts, mart, day, from_days=True),
        "pandas, from raw events": lambda: _pandas(facts, mart, day, from_days=False),
        "pandas, from customer-days": lambda: _pandas(facts, mart, day, from_days=True),
        "pandas, coded, from raw events": lambda: _pandas(facts, mart, day, False, is_coded=True),
        "pandas, coded, from customer-days": lambda: _pandas(facts, mart, day, True, is_coded=True),
    }
    if _has_polars():
        found["polars, from raw events"] = lambda: _polars(facts, mart, day, from_days=False)
        found["polars, from customer-days"] = lambda: _polars(facts, mart, day, from_days=True)
    return found


def _mart(facts: Path, mart: Mart, day: date, from_days: bool) -> Callable[[], Any]:
    connection = open_raw(facts)
    connection.execute("DROP VIEW raw.events")
    connection.execute("CREATE TABLE raw.events AS FROM facts.raw.events")
    build(connection, mart, [day], ["int_customer_days"])
    model, days = mart["int_customer_engagement"], mart["int_customer_days"]

    def ask() -> Any:
        if not from_days:
            connection.execute(f"CREATE OR REPLACE TABLE intermediate.{days.name} AS {days.sql}")
        connection.execute(f"CREATE OR REPLACE TABLE intermediate.{model.name} AS {model.sql}")
        return _summary(connection, f"intermediate.{model.name}")

    return ask


def _summary(connection: duckdb.DuckDBPyConnection, relation: str) -> tuple[int, ...]:
    sums = ", ".join(f"sum({c}), sum({c} * {c})" for c in COLUMNS)
    row = connection.execute(f"SELECT count(*), {sums} FROM {relation}").fetchone()
    return tuple(map(int, row or ()))


def _answer(frame: Any) -> tuple[int, ...]:
    columns = [frame[c].cast(int) if hasattr(frame[c], "cast") else frame[c] for c in COLUMNS]
    return len(frame), *(int(n) for c in columns for n in (c.sum(), (c * c).sum()))


def _frame(facts: Path, mart: Mart, day: date, from_days: bool) -> Any:
    """Return the facts, or customer-days up to the day, as an Arrow table."""
    connection = open_raw(facts)
    if not from_days:
        return connection.execute(EVENTS).to_arrow_table()
    build(connection, mart, [day], ["int_customer_days"])
    return connection.execute("FROM intermediate.int_customer_days").to_arrow_table()


def _polars(facts: Path, mart: Mart, day: date, from_days: bool) -> Callable[[], Any]:
    import polars as pl

    frame: Any = pl.from_arrow(_frame(facts, mart, day, from_days)).rechunk()
    key, occurred = pl.col("customer_key"), pl.col("occurred_date")
    last = {n: occurred > day - timedelta(days=n) for n in (7, 30, 60)}
    if not from_days:
        # An expert stores kinds as such.
        frame = frame.with_columns(pl.col("event_type").cast(pl.Categorical))

    def from_raw() -> Any:
        browsing, kind = ~pl.col("is_mail"), pl.col("event_type")
        return (
            frame.lazy()
            .filter(occurred > day - timedelta(days=90), pl.col("known_date") <= pl.lit(day))
            .with_columns(is_mail=kind.is_in(MAIL))
            .group_by(key)
            .agg(
                *((browsing & last[n]).sum().alias(f"event_count_{n}d") for n in (7, 30, 60)),
                browsing.sum().alias("event_count_90d"),
                occurred.filter(browsing & last[30]).n_unique().alias("event_day_count_30d"),
                occurred.filter(browsing).n_unique().alias("event_day_count_90d"),
                ((kind == "view") & last[30]).sum().alias("view_count_30d"),
                ((kind == "add_to_cart") & last[30]).sum().alias("cart_count_30d"),
                (kind == "email_open").sum().alias("email_open_count_90d"),
                (kind == "email_click").sum().alias("email_click_count_90d"),
                pl.col("session_id")
                .filter(browsing & last[30])
                .drop_nulls()
                .n_unique()
                .alias("session_count_30d"),
            )
        )

    def from_customer_days() -> Any:
        shopped = pl.col("event_count") > 0
        return (
            frame.lazy()
            .filter(pl.col("superseded_date") > pl.lit(day))
            .group_by(key)
            .agg(
                *(
                    pl.col("event_count").filter(last[n]).sum().alias(f"event_count_{n}d")
                    for n in (7, 30, 60)
                ),
                pl.col("event_count").sum().alias("event_count_90d"),
                occurred.filter(shopped & last[30]).n_unique().alias("event_day_count_30d"),
                occurred.filter(shopped).n_unique().alias("event_day_count_90d"),
                pl.col("view_count").filter(last[30]).sum().alias("view_count_30d"),
                pl.col("cart_count").filter(last[30]).sum().alias("cart_count_30d"),
                pl.col("email_open_count").sum().alias("email_open_count_90d"),
                pl.col("email_click_count").sum().alias("email_click_count_90d"),
                pl.col("session_id")
                .filter(shopped & last[30])
                .drop_nulls()
                .n_unique()
                .alias("session_count_30d"),
            )
        )

    query = from_customer_days if from_days else from_raw

    def ask() -> Any:
        answer = query().collect()
        return _answer(answer)

    return ask


def _pandas(
    facts: Path, mart: Mart, day: date, from_days: bool, is_coded: bool = False
) -> Callable[[], Any]:
    import numpy as np
    import pandas as pd

    frame = _frame(facts, mart, day, from_days).to_pandas()
    for name in ("occurred_date", "known_date", "superseded_date"):
        if name in frame:
            frame[name] = frame[name].astype("datetime64[s]")
    # An expert stores kinds as such. Keys that somebody has coded before are a row of their own:
    # sources deliver text, and coding it is most of the work.
    for name in ("event_type", *(("customer_key", "session_id") if is_coded else ())):
        if name in frame:
            frame[name] = frame[name].astype("category")
    now = pd.Timestamp(day)

    def since(rows: Any, days: int) -> Any:
        return rows["occurred_date"] > now - pd.Timedelta(days=days)

    def from_raw() -> Any:
        kept = frame[since(frame, 90) & (frame["known_date"] <= now)]
        kind = kept["event_type"]
        browsing = ~kind.isin(MAIL)
        last = {n: since(kept, n) for n in (7, 30, 60)}
        flags = {f"event_count_{n}d": browsing & last[n] for n in last}
        flags |= {
            "event_count_90d": browsing,
            "view_count_30d": (kind == "view") & last[30],
            "cart_count_30d": (kind == "add_to_cart") & last[30],
            "email_open_count_90d": kind == "email_open",
            "email_click_count_90d": kind == "email_click",
        }
        return distinct(kept, browsing, flags)

    def from_customer_days() -> Any:
        kept = frame[frame["superseded_date"] > now]
        last = {n: since(kept, n) for n in (7, 30, 60)}
        flags = {f"event_count_{n}d": kept["event_count"] * last[n] for n in last}
        flags |= {
            "event_count_90d": kept["event_count"],
            "view_count_30d": kept["view_count"] * last[30],
            "cart_count_30d": kept["cart_count"] * last[30],
            "email_open_count_90d": kept["email_open_count"],
            "email_click_count_90d": kept["email_click_count"],
        }
        return distinct(kept, kept["event_count"] > 0, flags)

    def coded(column: Any) -> Any:
        return column.cat.codes.to_numpy() if is_coded else pd.factorize(column)[0]

    def distinct(kept: Any, browsing: Any, flags: dict[str, Any]) -> Any:
        codes = coded(kept["customer_key"])
        answer = pd.DataFrame(flags).astype(np.int32).groupby(codes, sort=False).sum()
        rows = pd.DataFrame(
            {
                "customer": codes,
                "day": kept["occurred_date"].to_numpy().astype("datetime64[D]").astype(np.int32),
                "session": coded(kept["session_id"]),
            }
        )[browsing.to_numpy()]
        recent = since(kept, 30).to_numpy()[browsing.to_numpy()]
        for name, chosen, columns in (
            ("event_day_count_90d", rows, ["customer", "day"]),
            ("event_day_count_30d", rows[recent], ["customer", "day"]),
            (
                "session_count_30d",
                rows[recent & (rows["session"] >= 0).to_numpy()],
                ["customer", "session"],
            ),
        ):
            counts = chosen.drop_duplicates(columns).groupby("customer", sort=False).size()
            answer[name] = counts.reindex(answer.index, fill_value=0)
        return answer

    query = from_customer_days if from_days else from_raw

    def ask() -> Any:
        answer = query()
        return _answer(answer)

    return ask
