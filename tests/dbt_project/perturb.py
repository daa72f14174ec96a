"""Changes to a world that nobody could know of at the end of a day.

Belongs here: one function that drops, changes and adds at random among everything known only after
a day, as late files and later outcomes would, and tells how much it touched.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
from raw_world import BUSINESS_TIME, KEYS, OUTCOMES, World, finish, shop_day

# What only the outcome tells: known with it.
KNOWN_WITH = {
    "cancelled_at": {"order_items": "cancelled_quantity"},
    "closed_at": {"support_tickets": "csat"},
}
NEVER = pd.Timestamp("1900-01-01")


def known_dates(frame: pd.DataFrame) -> pd.Series:
    """Return the day on which each row was known, as midnight."""
    occurred, arrived = frame["occurred_date"], frame["arrived_date"]
    return (
        pd.concat([occurred.fillna(arrived), arrived.fillna(occurred)], axis=1)
        .max(axis=1)
        .fillna(NEVER)
    )


def change_the_future(
    world: World, day: date, seed: int, timezone: str
) -> tuple[World, dict[str, int]]:
    """Return another world that is the same as known at the end of `day`, and rows touched."""
    rng = np.random.default_rng(seed)
    end = pd.Timestamp(day)
    other: World = {}
    touched: dict[str, int] = {}
    for table, before in world.items():
        frame = before.copy()
        later = known_dates(frame) > end
        touched[table] = int(later.sum())

        # Outcomes of known rows that lie ahead: gone, or moved further ahead.
        for column in OUTCOMES.get(table, []):
            ahead = ~later & (shop_day(frame[column], timezone) > end)
            touched[f"{table}.{column}"] = int(ahead.sum())
            moved = frame[column] + pd.to_timedelta(rng.integers(1, 30, len(frame)), unit="D")
            frame[column] = frame[column].where(~ahead, moved.where(rng.random(len(frame)) < 0.5))
            told = KNOWN_WITH.get(column, {}).get(table)
            if told:
                nothing = ahead & frame[column].isna()
                frame.loc[ahead, told] = frame.loc[ahead, told] + 1
                frame.loc[nothing, told] = 0 if table == "order_items" else None

        # Rows known later: other numbers, other customers, another time, or not there at all.
        changed = later & (rng.random(len(frame)) < 0.4)
        for column in ("quantity", "unit_price", "amount", "unit_cost", "discount_amount"):
            if column in frame:
                frame.loc[changed, column] = frame.loc[changed, column] + 7
        if "customer_key" in frame and "customer_key" not in KEYS[table]:
            frame.loc[changed, "customer_key"] = rng.choice(
                world["customers"]["customer_key"].to_numpy(), int(changed.sum())
            )
        for column in ("status", "event_type", "category", "account_type", "country", "rating"):
            if column in frame and changed.any():
                frame.loc[changed, column] = rng.permutation(frame.loc[changed, column].to_numpy())
        time = BUSINESS_TIME.get(table)
        if time and time not in KEYS[table]:
            # A row that arrived later may tell of any time; another stays ahead of the day.
            said = changed & (frame["arrived_date"] > end)
            shift = pd.to_timedelta(rng.integers(-200, 0, len(frame)), unit="D")
            frame[time] = frame[time].where(~said, frame[time] + shift)
        dropped = later & (rng.random(len(frame)) < 0.3)
        frame = frame[~dropped]

        # New keys that nobody has heard of yet.
        fresh = frame[known_dates(frame) > end].sample(frac=0.3, random_state=seed).copy()
        key = KEYS[table][0]
        fresh[key] = "new-" + fresh[key]
        if table == "customers":
            fresh[key] = [f"{i:032x}" for i in range(10**6, 10**6 + len(fresh))]
        frame = pd.concat([frame, fresh], ignore_index=True)

        # The loader marks the winner among the versions that are left.
        frame = frame.sort_values(["_is_current", "_file_id", "_line"], kind="stable")
        frame["_is_current"] = ~frame.duplicated(KEYS[table], keep="last")
        other[table] = frame.reset_index(drop=True)
    lines = {table: frame["_line"].copy() for table, frame in other.items()}
    finish(other, timezone)
    for table, frame in other.items():
        frame["_line"] = lines[table]
    return other, touched
