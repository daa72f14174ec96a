"""What became of the messages of campaigns: sent, bounced, opened, clicked, per assigned customer.

What belongs here: the shop's messages beside the ledger. What does not: orders and money
(outcomes.py), the verdict on stages that lost customers (results.py).
"""

from __future__ import annotations

import pandas as pd

COLUMNS = [
    "snapshot_date",
    "campaign_id",
    "customer_key",
    "channel",
    "sent_at",
    "sent_date",
    "arm",
    "is_control",
    "assigned_date",
    "is_bounced",
    "is_opened",
    "is_clicked",
    "cost_amount",
]
# A message that the tool gave up on did not reach the customer either.
LOST = ("bounced", "failed")


def assigned_deliveries(deliveries: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Return `COLUMNS`: the messages of campaigns in the ledger, each with its customer's arm.

    deliveries: `lake/deliveries` of one day, messages of which something became known on it, in
    their state at its end. A message to somebody who is not assigned has no arm: it should not have
    been sent, no more than one to the control.
    """
    own = deliveries[deliveries["campaign_id"].isin(ledger["campaign_id"].unique())]
    arms = ledger[["campaign_id", "customer_key", "arm", "is_control", "assigned_date"]]
    frame = own.merge(arms, on=["campaign_id", "customer_key"], how="left", validate="many_to_one")
    frame["is_bounced"] = frame["status"].isin(LOST)
    frame["is_opened"] = frame["opened_at"].notna()
    frame["is_clicked"] = frame["clicked_at"].notna()
    for column in ("arm", "is_control", "assigned_date"):
        frame[column] = frame[column].astype("object").where(frame[column].notna(), None)
    return frame[COLUMNS]


def as_messages(deliveries: pd.DataFrame) -> pd.DataFrame:
    """Published deliveries as `outcomes.unit_outcomes` takes them: each message as last known."""
    key = ["campaign_id", "customer_key", "channel", "sent_at"]
    last = deliveries.sort_values([*key, "snapshot_date"], kind="stable")
    last = last.drop_duplicates(key, keep="last").reset_index(drop=True)
    return last.assign(bounced_at=last["sent_at"].where(last["status"].isin(LOST)))
