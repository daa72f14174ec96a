"""A small shop for the tests of value: customers by the story of the models, and what is known."""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd

from ml.customer_value import STATUS_FEATURES
from ml.value_training import ValueSettings, days_needed

FIRST, LAST = date(2024, 1, 1), date(2025, 6, 30)
SETTINGS = ValueSettings(
    n_origins=2, n_value_origins=3, min_rows=100, min_purchases=20, min_repeaters=20, n_resamples=50
)


@cache
def orders(customers: int = 700, seed: int = 5) -> pd.DataFrame:
    """Return customer_key, day (a number from FIRST), amount and category of every order."""
    random = np.random.default_rng(seed)
    rows = []
    last = (LAST - FIRST).days + 60  # prospects of the last day buy later
    for number in range(customers):
        rate, leaves = random.gamma(1.2, 1 / 30), random.beta(0.5, 5.0)
        amount, favourite = random.gamma(4.0) * 10, random.random()
        day = int(random.integers(0, 600))
        while day <= last:
            category = "tea" if random.random() < favourite else "coffee|beans"
            rows.append((f"{number:032x}", day, random.gamma(5.0) / 5 * amount, category))
            if random.random() < leaves:
                break
            day += max(1, round(random.exponential(1 / rate)))
    return pd.DataFrame(rows, columns=["customer_key", "day", "amount", "category"])


def status(day: date, customers: int = 700, seed: int = 5) -> pd.DataFrame:
    """Return `customer_status` of a day: everybody who joins by then, prospects among them."""
    bought = orders(customers, seed)
    now = (day - FIRST).days
    known = bought[bought["day"] <= now].assign(age=lambda f: now - f["day"])
    keys = pd.Index(sorted(bought.loc[bought["day"] <= now + 60, "customer_key"].unique()))
    groups = known.groupby("customer_key")
    ages = known.drop_duplicates(["customer_key", "day"]).groupby("customer_key")["age"]
    first, last, days = (ages.agg(one).reindex(keys) for one in ("max", "min", "size"))
    frame = pd.DataFrame(
        {
            "snapshot_date": day,
            "customer_key": keys,
            "lifecycle": np.where(
                last.isna(), "prospect", np.where(last < 180, "active", "dormant")
            ),
            "days_since_first_order": first.to_numpy(),
            "days_since_last_order": last.to_numpy(),
            "gap_mean_days": ((first - last) / (days - 1).where(days > 1)).to_numpy(),
            "order_count_lifetime": groups.size().reindex(keys).fillna(0).to_numpy(),
            "revenue_amount_lifetime": groups["amount"].sum().reindex(keys).fillna(0).to_numpy(),
        }
    )
    for window in (30, 90, 365):
        inside = known[known["age"] < window].groupby("customer_key")["amount"]
        frame[f"order_count_{window}d"] = inside.size().reindex(keys).fillna(0).to_numpy()
        frame[f"revenue_amount_{window}d"] = inside.sum().reindex(keys).fillna(0).to_numpy()
    for window in (7, 30):
        inside = known[known["age"] < window].groupby("customer_key")["category"]
        joined = inside.agg(lambda c: "|".join(sorted({one.replace("|", "/") for one in c})))
        frame[f"categories_{window}d"] = joined.reindex(keys).astype(object).to_numpy()
    year = known[known["age"] < 365].groupby(["customer_key", "category"]).size().unstack()
    year = year.reindex(keys).fillna(0)
    most = year.max(axis=1)
    frame["main_category"] = np.where(most > 0, year.idxmax(axis=1), None)
    frame["main_category_share_365d"] = np.where(most > 0, most / year.sum(axis=1), np.nan)
    frame["margin_amount_365d"] = frame["revenue_amount_365d"] * 0.3
    frame["is_margin_known"] = True
    nothing = {
        name: np.nan if name.startswith("days_since") else 0.0
        for name in STATUS_FEATURES
        if name not in frame
    }
    return frame.assign(**nothing)


@cache
def history(customers: int = 700, seed: int = 5) -> pd.DataFrame:
    """Return `customer_status` of all days that a training as of LAST asks for."""
    days = days_needed(LAST, FIRST + timedelta(days=90))
    return pd.concat([status(day, customers, seed) for day in days], ignore_index=True)
