"""The list of customers to talk to today: by margin at risk, with a play and a channel.

What belongs here: who may be on the list, and its order. What does not: probabilities and margins
(they come with the scores), what to do (plays.py), randomisation (campaigns/).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from ml.frames import is_among, join_customers
from ml.plays import Plays, suggest
from ml.reasons import PASSED_OVER

COLUMNS = [
    "snapshot_date",
    "customer_key",
    "priority",
    "churn_probability",
    "expected_margin_amount",
    "margin_at_risk_amount",
    "main_reason",
    "suggested_play",
    "contact_channel",
    "days_on_list",
    "is_new",
    "last_contact_date",
    "account_type",
    "rfm_segment",
]
TOP_MARGIN_QUANTILE = 0.95
# Of customer_status, beside consents.
STATUS_COLUMNS = ("account_type", "days_since_last_order", "last_contact_date")
# What the rules may ask for that no published table has.
OWN_FIELDS = {"is_top_margin": "boolean"}


def at_risk_list(
    scores: pd.DataFrame,
    status: pd.DataFrame,
    segments: pd.DataFrame,
    previous_list: pd.DataFrame | None,
    plays: Plays,
    *,
    capacity: int = 500,
    cooldown_days: int = 7,
    risk_bands: Sequence[str] = ("high", "medium"),
    features: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The at-risk list of one day, at most `capacity` rows, ordered by priority (1 = first).

    `scores`, `status`, `segments` are published partitions of one day D; `previous_list` is the
    last list published before D; `features` has what else the rules of `plays` ask for.

    On the list: customers in one of `risk_bands`, with margin at risk above zero, for whom `plays`
    has a play on a channel that they consent to, and whom nobody contacted in the last
    `cooldown_days` days. Order: margin at risk, then probability (both falling), then customer_key.
    A rule may ask for any column of these frames, and for `is_top_margin`: an expected margin in
    the top 5 % of all scored.

    `days_on_list` counts from the day on which the customer came on the list, 1 for the first;
    a customer who was not on the previous list is new. Raises ValueError where the frames are not
    of one day, or the previous list is not earlier.
    """
    day = _day(scores, status, segments)
    if missing := int((~is_among(scores["customer_key"], status["customer_key"])).sum()):
        raise ValueError(f"{missing} scored customers of {day} are not in customer_status")
    margin = scores["expected_margin_amount"].astype("float64")
    # A quantile that occurs, so that equal margins are treated alike.
    top_margin = (
        np.quantile(margin, TOP_MARGIN_QUANTILE, method="inverted_cdf") if len(margin) else np.inf
    )
    at_risk = scores["margin_at_risk_amount"].astype("float64")
    asked = scores["risk_band"].isin(list(risk_bands)) & (at_risk > 0)
    frame = join_customers(
        scores.assign(is_top_margin=(margin >= top_margin) & (margin > 0), at_risk=at_risk)[asked],
        status[[name for name in status if name == "customer_key" or name not in scores]],
    )
    contacted = pd.to_datetime(frame["last_contact_date"])
    resting = contacted > pd.Timestamp(day - timedelta(days=cooldown_days))
    frame = frame[~resting].sort_values(
        ["at_risk", "churn_probability", "customer_key"], ascending=[False, False, True]
    )
    beside = [table for table in (segments, features) if table is not None]
    frame = _first_with_a_play(frame, beside, plays, capacity)
    frame["snapshot_date"] = day
    frame["priority"] = np.arange(1, len(frame) + 1, dtype=np.int64)
    told = frame["reason_1"].where(~frame["reason_1"].fillna("").isin(["", PASSED_OVER]))
    silent = [f"no order for {int(days)} days" for days in frame["days_since_last_order"]]
    frame["main_reason"] = (
        frame["reason"].fillna(told).fillna(pd.Series(silent, dtype="object")).astype("object")
    )
    days = _days_before(frame["customer_key"], previous_list, day)
    frame["is_new"] = days.eq(0)
    frame["days_on_list"] = days + 1
    return frame[COLUMNS]


def _first_with_a_play(
    ranked: pd.DataFrame, beside: Sequence[pd.DataFrame], plays: Plays, capacity: int
) -> pd.DataFrame:
    """Return the first `capacity` customers that have a play, with it and what `beside` knows.

    Looked for from the top: most of a shop may be at risk, and nobody asks for a play for all.
    """
    found: list[pd.DataFrame] = []
    at_once = max(4 * capacity, 1)
    for start in range(0, max(len(ranked), 1), at_once):
        part = ranked.iloc[start : start + at_once]
        for table in beside:
            new = [name for name in table if name == "customer_key" or name not in part]
            part = join_customers(part, table[new], how="left")
        suggested = suggest(plays, part)
        found.append(part.join(suggested)[suggested["suggested_play"].notna()])
        if sum(map(len, found)) >= capacity:
            break
    return pd.concat(found).head(capacity).reset_index(drop=True)


def _days_before(keys: pd.Series, previous: pd.DataFrame | None, day: date) -> pd.Series:
    """Days each customer has been on the list before `day`; 0 for the new."""
    if previous is None or previous.empty:
        return pd.Series(0, index=keys.index, dtype="int64")
    before = _day(previous)
    if before >= day:
        raise ValueError(f"the previous list is of {before}, which is not before {day}")
    since = previous.set_index("customer_key")["days_on_list"].astype("int64")
    days = since + ((day - before).days - 1)
    return keys.map(days).fillna(0).astype("int64")


def _day(*frames: pd.DataFrame) -> date:
    days = {
        value.date() if isinstance(value, datetime) else value
        for frame in frames
        if "snapshot_date" in frame
        for value in frame["snapshot_date"].unique()
    }
    if len(days) != 1:
        raise ValueError(f"partitions of one day are needed, got {sorted(map(str, days))}")
    return days.pop()
