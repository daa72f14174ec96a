"""One day of engagement, as DuckDB, polars and pandas work it out, from facts in their own memory.

What belongs here: the same answer in three engines, each as one would write it for that engine.
What does not: clocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
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
MAIL = ["email_open", "email_click"]
Arm = Callable[[], Callable[[], Any]]

EVENTS = """
    SELECT customer_key, event_type, occurred_date, session_id, arrived_date, _superseded_date
    FROM facts.raw.events
"""


def arms(facts: Path, mart: Mart, day: date, threads: int) -> dict[str, Arm]:
    """Return the arms by name: each prepares its facts, and returns what is to be timed.

    What is timed returns the number of customers, and of each column the sum and that of squares.
    Arms with "numbers" are given customers as numbers of 128 bits instead of text: DuckDB as UUID.
    """
    os.environ["POLARS_MAX_THREADS"] = str(threads)  # read when polars is first imported
    ours = partial(_mart, facts, mart, day, threads)
    return {
        "mart": lambda: ours("TABLE"),
        "mart, not written": lambda: ours("VIEW"),
        "polars": lambda: _polars(facts, day),
        "polars, days as bits": lambda: _polars(facts, day, is_bits=True),
        "pandas": lambda: _pandas(facts, day),
        "pandas, keys coded beforehand": lambda: _pandas(facts, day, is_coded=True),
        "mart, not written, numbers": lambda: ours("VIEW", numbers=True),
        "polars, numbers": lambda: _polars(facts, day, numbers=True),
    }


def _mart(
    facts: Path, mart: Mart, day: date, threads: int, kind: str, numbers: bool = False
) -> Callable[[], Any]:
    """The mart's model as a table, as it is used, or as a view: one query that keeps nothing."""
    connection = open_raw(facts, threads=threads)
    key = "CAST(customer_key AS UUID)" if numbers else "customer_key"
    connection.execute("DROP VIEW raw.events")
    connection.execute(
        f"CREATE TABLE raw.events AS SELECT * REPLACE ({key} AS customer_key) FROM facts.raw.events"
    )
    build(connection, mart, [day], [])
    name = "int_customer_engagement"

    def ask() -> Any:
        connection.execute(f"CREATE OR REPLACE {kind} intermediate.{name} AS {mart[name].sql}")
        return _summary(connection, f"intermediate.{name}")

    return ask


def _summary(connection: duckdb.DuckDBPyConnection, relation: str) -> tuple[int, ...]:
    sums = ", ".join(f"sum({c}), sum({c} * {c})" for c in COLUMNS)
    row = connection.execute(f"SELECT count(*), {sums} FROM {relation}").fetchone()
    return tuple(map(int, row or ()))


def _answer(frame: Any) -> tuple[int, ...]:
    columns = [frame[c].cast(int) if hasattr(frame[c], "cast") else frame[c] for c in COLUMNS]
    return len(frame), *(int(n) for c in columns for n in (c.sum(), (c * c).sum()))


def _events(facts: Path) -> Any:
    """Return the events in an Arrow table."""
    return open_raw(facts).execute(EVENTS).to_arrow_table()


def _polars(
    facts: Path, day: date, is_bits: bool = False, numbers: bool = False
) -> Callable[[], Any]:
    """Lazily, as one writes it; or with the mart's own trick, days as bits of two numbers."""
    import polars as pl

    def number(digits: Any) -> Any:
        """32 hexadecimal digits as one number."""
        high, low = (
            digits.str.slice(start, 16)
            .str.decode("hex")
            .bin.reinterpret(dtype=kind, endianness="big")
            for start, kind in ((0, pl.Int64), (16, pl.UInt64))
        )
        return high.cast(pl.Int128) * pl.lit(2**64, dtype=pl.Int128) + low.cast(pl.Int128)

    frame: Any = pl.from_arrow(_events(facts))
    if numbers:
        frame = frame.with_columns(
            number(pl.col("customer_key")), pl.col("event_type").cast(pl.Categorical)
        )
    frame = frame.rechunk()
    key, occurred, today = pl.col("customer_key"), pl.col("occurred_date"), pl.lit(day)
    arrived, superseded = pl.col("arrived_date"), pl.col("_superseded_date")
    last = {n: occurred > day - timedelta(days=n) for n in (7, 30, 60)}
    browsing, kind = ~pl.col("is_mail"), pl.col("event_type")

    def day_counts() -> list[Any]:
        if not is_bits:
            return [
                occurred.filter(browsing & last[30]).n_unique().alias("event_day_count_30d"),
                occurred.filter(browsing).n_unique().alias("event_day_count_90d"),
            ]
        bit, near = pl.col("bit"), pl.col("age") < 45
        low, high = (bit.filter(browsing & half).bitwise_or() for half in (near, ~near))
        in_30_days = low & pl.lit(2**30 - 1, dtype=pl.Int64)
        return [
            in_30_days.bitwise_count_ones().fill_null(0).alias("event_day_count_30d"),
            (low.bitwise_count_ones().fill_null(0) + high.bitwise_count_ones().fill_null(0)).alias(
                "event_day_count_90d"
            ),
        ]

    def ask() -> Any:
        kept = (
            frame.lazy()
            .filter(
                occurred > day - timedelta(days=90),
                occurred <= today,
                arrived.is_null() | (arrived <= today),
                superseded.is_null() | (superseded > today),
            )
            .with_columns(is_mail=kind.is_in(MAIL))
        )
        if is_bits:
            kept = kept.with_columns(
                age=pl.lit(day).cast(pl.Int32) - occurred.cast(pl.Int32)
            ).with_columns(bit=pl.lit(2, dtype=pl.Int64).pow(pl.col("age") % 45))
        query = kept.group_by(key).agg(
            *((browsing & last[n]).sum().alias(f"event_count_{n}d") for n in (7, 30, 60)),
            browsing.sum().alias("event_count_90d"),
            *day_counts(),
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
        return _answer(query.collect())

    return ask


def _pandas(facts: Path, day: date, is_coded: bool = False) -> Callable[[], Any]:
    import numpy as np
    import pandas as pd

    frame = _events(facts).to_pandas()
    for name in ("occurred_date", "arrived_date", "_superseded_date"):
        frame[name] = frame[name].astype("datetime64[s]")
    # Texts that somebody has coded before are a row of their own: sources deliver text, and coding
    # it is most of the work.
    if is_coded:
        for name in ("customer_key", "session_id", "event_type"):
            frame[name] = frame[name].astype("category")
    now = pd.Timestamp(day)

    def since(rows: Any, days: int) -> Any:
        return rows["occurred_date"] > now - pd.Timedelta(days=days)

    def answer() -> Any:
        kept = frame[
            since(frame, 90)
            & (frame["occurred_date"] <= now)
            & ~(frame["arrived_date"] > now)
            & ~(frame["_superseded_date"] <= now)
        ]
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

    def coded(column: Any) -> Any:
        """Return a number for each value."""
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

    def ask() -> Any:
        return _answer(answer())

    return ask
