"""Treatment within the horizon of a label: which campaign enrolled the customer, in which arm.

What belongs here: joining labels with the ledger. What does not: whether a message was in fact sent
(the labels carry `was_contacted` from the deliveries).
"""

from __future__ import annotations

import pandas as pd

COLUMNS = ["matured_date", "snapshot_date", "customer_key", "campaign_id", "arm", "propensity"]


def label_treatments(labels: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Return `COLUMNS`, one row per label whose customer a campaign enrolled within the horizon.

    labels: customer_key, snapshot_date, matured_date. Counted is the first assignment with
    snapshot_date <= assigned_date < matured_date (of several on one day the first campaign id):
    who is assigned at the end of a day is contacted on the next.
    """
    joined = labels[["customer_key", "snapshot_date", "matured_date"]].merge(
        ledger[["customer_key", "assigned_date", "campaign_id", "arm", "propensity"]],
        on="customer_key",
        how="inner",
    )
    within = (joined["assigned_date"] >= joined["snapshot_date"]) & (
        joined["assigned_date"] < joined["matured_date"]
    )
    first = (
        joined[within]
        .sort_values(["matured_date", "customer_key", "assigned_date", "campaign_id"])
        .drop_duplicates(["matured_date", "customer_key"])
    )
    return first[COLUMNS].reset_index(drop=True)
