"""Treatment within the horizon of a label: which campaign enrolled the customer, in which arm.

What belongs here: joining labels with the ledger. What does not: whether a message was in fact sent
(the labels carry `was_contacted` from the deliveries).
"""

from __future__ import annotations

import pandas as pd

COLUMNS = ("treated_campaign_id", "treated_arm", "treatment_propensity")


def treatment(labels: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Return `COLUMNS` for each row of `labels`, in its order; null where nobody enrolled them.

    labels: customer_key, snapshot_date, matured_date. Counted is the first assignment with
    snapshot_date <= assigned_date < matured_date (of several on one day the first campaign id):
    who is assigned at the end of a day is contacted on the next.
    """
    rows = labels[["customer_key", "snapshot_date", "matured_date"]].assign(row=range(len(labels)))
    columns = ["customer_key", "assigned_date", "campaign_id", "arm", "propensity"]
    joined = rows.merge(ledger[columns], on="customer_key", how="inner")
    within = (joined["assigned_date"] >= joined["snapshot_date"]) & (
        joined["assigned_date"] < joined["matured_date"]
    )
    first = (
        joined[within]
        .sort_values(["row", "assigned_date", "campaign_id"], kind="stable")
        .drop_duplicates("row")
        .set_index("row")
    )
    found = first[["campaign_id", "arm", "propensity"]].reindex(range(len(labels)))
    found.columns = pd.Index(COLUMNS)
    return found
