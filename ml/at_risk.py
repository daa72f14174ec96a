"""The list of customers to talk to today: by margin at risk, with a play and a channel.

What belongs here: who may be on the list, its order, the rule that suggests a play. What does not:
probabilities and margins (they come with the scores), randomisation (campaigns/).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from ml.frames import join_customers

CHANNELS = ("email", "sms", "phone", "post")
# In order of preference. A service message in writing is better than none when the customer does
# not want to be called; a personal call is a call or nothing.
PLAY_CHANNELS = {
    "service_call": ("phone", "email", "sms", "post"),
    "personal_call": ("phone",),
    "coupon": ("email", "sms", "post"),
    "reminder": ("email", "sms", "post"),
}
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
# What decides a play and its channel.
_PLAYED_BY = [
    "open_ticket_count",
    "low_rating_count_90d",
    "undelivered_order_count",
    "account_type",
    "is_top_margin",
    "is_discount_sensitive",
    "reason_1",
    "days_since_last_order",
    *(f"has_{channel}_consent" for channel in CHANNELS),
]
TOP_MARGIN_QUANTILE = 0.95
DISCOUNT_SENSITIVE_RATE = 0.5


def at_risk_list(
    scores: pd.DataFrame,
    status: pd.DataFrame,
    segments: pd.DataFrame,
    previous_list: pd.DataFrame | None,
    *,
    capacity: int = 500,
    cooldown_days: int = 7,
    risk_bands: Sequence[str] = ("high", "medium"),
    features: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The at-risk list of one day, at most `capacity` rows, ordered by priority (1 = first).

    `scores`, `status`, `segments` are published partitions of one day D; `previous_list` is the
    last list published before D; `features` (customer_features of D) tells who buys on discount,
    and without it no coupon is suggested.

    On the list: customers in one of `risk_bands`, with margin at risk above zero, who consent to
    some channel, and whom nobody contacted in the last `cooldown_days` days. Order: margin at risk,
    then probability (both falling), then customer_key.

    Suggested play, the first that applies and has a permitted channel:
      1. service_call: a ticket is open, a rating of two stars or less in 90 days, or an order
         undelivered;
      2. personal_call: a business account, or an expected margin in the top 5 % of all scored;
      3. coupon: half of the customer's orders in a year were discounted;
      4. reminder; by phone (personal_call) where the customer permits nothing else.

    `days_on_list` counts from the day on which the customer came on the list, 1 for the first;
    a customer who was not on the previous list is new. Raises ValueError where the frames are not
    of one day, or the previous list is not earlier.
    """
    day = _day(scores, status, segments)
    known = join_customers(scores[["customer_key"]], status[["customer_key"]])
    if missing := len(scores) - len(known):
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
        status.drop(columns="snapshot_date", errors="ignore"),
    )
    frame = join_customers(frame, segments[["customer_key", "rfm_segment"]], how="left")
    frame["is_discount_sensitive"] = _discount_sensitive(frame["customer_key"], features)

    consents = [f"has_{channel}_consent" for channel in CHANNELS]
    # Unknown consent is no consent.
    frame[consents] = frame[consents].fillna(False).astype(bool)
    contacted = pd.to_datetime(frame["last_contact_date"])
    resting = contacted > pd.Timestamp(day - timedelta(days=cooldown_days))
    frame = (
        frame[frame[consents].any(axis=1) & ~resting]
        .sort_values(
            ["at_risk", "churn_probability", "customer_key"], ascending=[False, False, True]
        )
        .head(capacity)
        .reset_index(drop=True)
    )
    frame["snapshot_date"] = day
    frame["priority"] = np.arange(1, len(frame) + 1, dtype=np.int64)
    plays = [_play(row) for row in frame[_PLAYED_BY].to_dict("records")]
    frame["suggested_play"] = pd.Series([play for play, _, _ in plays], dtype="object")
    frame["contact_channel"] = pd.Series([channel for _, channel, _ in plays], dtype="object")
    frame["main_reason"] = pd.Series([reason for _, _, reason in plays], dtype="object")
    days = _days_before(frame["customer_key"], previous_list, day)
    frame["is_new"] = days.eq(0)
    frame["days_on_list"] = days + 1
    return frame[COLUMNS]


def _play(row: dict) -> tuple[str, str, str]:
    """(play, channel, reason) of one customer."""
    trouble = _trouble(row)
    wanted = []
    if trouble:
        wanted.append("service_call")
    if row["account_type"] == "business" or row["is_top_margin"]:
        wanted.append("personal_call")
    if row["is_discount_sensitive"]:
        wanted.append("coupon")
    reason = trouble or row["reason_1"]
    if not isinstance(reason, str) or not reason:
        reason = f"no order for {int(row['days_since_last_order'])} days"
    for play in (*wanted, "reminder", "personal_call"):
        for channel in PLAY_CHANNELS[play]:
            if row[f"has_{channel}_consent"]:
                return play, channel, reason
    raise AssertionError("a customer without a permitted channel came on the list")


def _trouble(row: dict) -> str | None:
    for column, words in (
        ("open_ticket_count", "support ticket open"),
        ("low_rating_count_90d", "low rating given"),
        ("undelivered_order_count", "order not delivered"),
    ):
        if pd.notna(row[column]) and row[column] > 0:
            return words
    return None


def _discount_sensitive(keys: pd.Series, features: pd.DataFrame | None) -> pd.Series:
    if features is None:
        return pd.Series(False, index=keys.index)
    rate = features.set_index("customer_key")["discounted_order_rate_365d"].astype("float64")
    return keys.map(rate).ge(DISCOUNT_SENSITIVE_RATE)


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
