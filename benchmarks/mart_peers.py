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
AGGREGATES = ["int_customer_days", "int_customer_sessions"]
Arm = Callable[[], Callable[[], Any]]

EVENTS = """
    SELECT customer_key, event_type, occurred_date, session_id,
        greatest(occurred_date, coalesce(arrived_date, occurred_date)) AS known_date
    FROM facts.raw.events
"""


def arms(facts: Path, mart: Mart, day: date, threads: int = 2) -> dict[str, Arm]:
    """Return the arms by name: each prepares its facts, and returns what is to be timed.

    What is timed returns the number of customers, and of each column the sum and that of squares.
    Arms with "numbers" are given customers as numbers of 128 bits instead of text: DuckDB as UUID.
    """
    os.environ["POLARS_MAX_THREADS"] = str(threads)  # read when polars is first imported
    ours = partial(_mart, facts, mart, day, threads)
    return {
        "mart, from raw events": lambda: ours(from_days=False),
        "mart, from customer-days": lambda: ours(from_days=True),
        "mart, not written, from raw events": lambda: ours(False, kind="VIEW"),
        "mart, not written, from customer-days": lambda: ours(True, kind="VIEW"),
        "mart, numbers, not written, from raw events": lambda: ours(False, "VIEW", numbers=True),
        "mart, numbers, not written, from customer-days": lambda: ours(True, "VIEW", numbers=True),
        "pandas, from raw events": lambda: _pandas(facts, mart, day, from_days=False),
        "pandas, from customer-days": lambda: _pandas(facts, mart, day, from_days=True),
        "pandas, coded, from raw events": lambda: _pandas(facts, mart, day, False, is_coded=True),
        "pandas, coded, from customer-days": lambda: _pandas(facts, mart, day, True, is_coded=True),
        "polars, from raw events": lambda: _polars(facts, mart, day, from_days=False),
        "polars, from customer-days": lambda: _polars(facts, mart, day, from_days=True),
        "polars, numbers, from raw events": lambda: _polars(facts, mart, day, False, numbers=True),
        "polars, numbers, from customer-days": lambda: _polars(
            facts, mart, day, True, numbers=True
        ),
    }


def _mart(
    facts: Path,
    mart: Mart,
    day: date,
    threads: int,
    from_days: bool,
    kind: str = "TABLE",
    numbers: bool = False,
) -> Callable[[], Any]:
    """The mart's models as tables, as it is used, or as views: one query that keeps nothing."""
    connection = open_raw(facts, threads=threads)
    key = "CAST(customer_key AS UUID)" if numbers else "customer_key"
    connection.execute("DROP VIEW raw.events")
    connection.execute(
        f"CREATE TABLE raw.events AS SELECT * REPLACE ({key} AS customer_key) FROM facts.raw.events"
    )
    build(connection, mart, [day], AGGREGATES if from_days else [])
    names = ["int_customer_engagement"] if from_days else [*AGGREGATES, "int_customer_engagement"]

    def ask() -> Any:
        for name in names:
            connection.execute(f"CREATE OR REPLACE {kind} intermediate.{name} AS {mart[name].sql}")
        return _summary(connection, "intermediate.int_customer_engagement")

    return ask


def _summary(connection: duckdb.DuckDBPyConnection, relation: str) -> tuple[int, ...]:
    sums = ", ".join(f"sum({c}), sum({c} * {c})" for c in COLUMNS)
    row = connection.execute(f"SELECT count(*), {sums} FROM {relation}").fetchone()
    return tuple(map(int, row or ()))


def _answer(frame: Any) -> tuple[int, ...]:
    columns = [frame[c].cast(int) if hasattr(frame[c], "cast") else frame[c] for c in COLUMNS]
    return len(frame), *(int(n) for c in columns for n in (c.sum(), (c * c).sum()))


def _frames(facts: Path, mart: Mart, day: date, from_days: bool) -> list[Any]:
    """Return the facts, or days and sessions of customers as known on the day, in Arrow tables."""
    connection = open_raw(facts)
    if not from_days:
        return [connection.execute(EVENTS).to_arrow_table()]
    build(connection, mart, [day], AGGREGATES)
    return [connection.execute(f"FROM intermediate.{name}").to_arrow_table() for name in AGGREGATES]


def _polars(
    facts: Path, mart: Mart, day: date, from_days: bool, numbers: bool = False
) -> Callable[[], Any]:
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

    frames: list[Any] = [pl.from_arrow(table) for table in _frames(facts, mart, day, from_days)]
    if numbers:
        frames = [f.with_columns(number(pl.col("customer_key"))) for f in frames]
    frame = frames[0].rechunk()
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
        sessions = frames[1].lazy().group_by(key).agg(session_count_30d=pl.len())
        return (
            frame.lazy()
            .group_by(key)
            .agg(
                *(
                    pl.col("event_count").filter(last[n]).sum().alias(f"event_count_{n}d")
                    for n in (7, 30, 60)
                ),
                pl.col("event_count").sum().alias("event_count_90d"),
                (shopped & last[30]).sum().alias("event_day_count_30d"),
                shopped.sum().alias("event_day_count_90d"),
                pl.col("view_count").filter(last[30]).sum().alias("view_count_30d"),
                pl.col("cart_count").filter(last[30]).sum().alias("cart_count_30d"),
                pl.col("email_open_count").sum().alias("email_open_count_90d"),
                pl.col("email_click_count").sum().alias("email_click_count_90d"),
            )
            .join(sessions, on="customer_key", how="left")
            .with_columns(pl.col("session_count_30d").fill_null(0))
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

    frames = [table.to_pandas() for table in _frames(facts, mart, day, from_days)]
    frame = frames[0]
    for name in ("occurred_date", "known_date"):
        frame[name] = frame[name].astype("datetime64[s]")
    # An expert stores kinds as such. Keys that somebody has coded before are a row of their own:
    # sources deliver text, and coding it is most of the work.
    if not from_days:
        frame["event_type"] = frame["event_type"].astype("category")
    if is_coded:
        for name in {"customer_key", "session_id"} & set(frame):
            frame[name] = frame[name].astype("category")
        for other in frames[1:]:
            other["customer_key"] = pd.Categorical(
                other["customer_key"], categories=frame["customer_key"].cat.categories
            )
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
        last = {n: since(frame, n) for n in (7, 30, 60)}
        shopped = frame["event_count"] > 0
        flags = {f"event_count_{n}d": frame["event_count"] * last[n] for n in last}
        flags |= {
            "event_count_90d": frame["event_count"],
            "view_count_30d": frame["view_count"] * last[30],
            "cart_count_30d": frame["cart_count"] * last[30],
            "email_open_count_90d": frame["email_open_count"],
            "email_click_count_90d": frame["email_click_count"],
            "event_day_count_30d": shopped & last[30],
            "event_day_count_90d": shopped,
        }
        codes, keys = coded(frame["customer_key"])
        answer = pd.DataFrame(flags).astype(np.int32).groupby(codes, sort=False).sum()
        sessions = frames[1]["customer_key"]
        found = sessions.cat.codes.to_numpy() if is_coded else keys.get_indexer(sessions)
        counts = np.bincount(found, minlength=len(keys))
        answer["session_count_30d"] = counts[answer.index]
        return answer

    def coded(column: Any) -> tuple[Any, Any]:
        """Return a number for each value, and the values."""
        if is_coded:
            return column.cat.codes.to_numpy(), column.cat.categories
        codes, values = pd.factorize(column)
        return codes, pd.Index(values)

    def distinct(kept: Any, browsing: Any, flags: dict[str, Any]) -> Any:
        codes, _ = coded(kept["customer_key"])
        answer = pd.DataFrame(flags).astype(np.int32).groupby(codes, sort=False).sum()
        rows = pd.DataFrame(
            {
                "customer": codes,
                "day": kept["occurred_date"].to_numpy().astype("datetime64[D]").astype(np.int32),
                "session": coded(kept["session_id"])[0],
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
