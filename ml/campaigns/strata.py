"""Strata of an experiment: what an analysis may balance on, frozen when a customer is assigned.

What belongs here: the strata and how they are read off the published columns of one day. What does
not: drawing (assignment.py): a stratum changes nobody's arm, since ranking within strata flipped
48 % of arms when 5 % of customers changed stratum.
"""

from __future__ import annotations

import pandas as pd

COLUMNS = ("account_type", "value_tier")
SOURCES = ("account_type", "monetary_score")  # published columns that they are made of
UNKNOWN = "unknown"
# Scores 1..5 of RFM's monetary value: who spends most, the middle, the rest.
_TIERS = {1: "low", 2: "low", 3: "middle", 4: "middle", 5: "high"}


def strata(customers: pd.DataFrame) -> pd.DataFrame:
    """Return account_type and value_tier of each row, indexed like `customers`, never null.

    account_type: consumer, or business (wholesale); value_tier: low, middle or high by
    `monetary_score` of customer_segments. What the day does not know is `unknown`.
    """
    account = customers["account_type"].astype("object")
    if "monetary_score" in customers:
        score = customers["monetary_score"].astype("float64")
        tier = score.map(_TIERS).astype("object")
    else:
        tier = pd.Series(None, index=customers.index, dtype="object")
    return pd.DataFrame(
        {"account_type": account.fillna(UNKNOWN), "value_tier": tier.fillna(UNKNOWN)},
        index=customers.index,
    )
