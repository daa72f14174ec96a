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
    "sent_arm",
    "is_other_arm",
]
# A message that the tool gave up on did not reach the customer either.
LOST = ("bounced", "failed")


def assigned_deliveries(deliveries: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Return `COLUMNS`: the messages of campaigns in the ledger, each with its customer's arm.

    deliveries: `lake/deliveries` of one day, messages of which something became known on it, in
    their state at its end. A message to somebody who is not assigned has no arm: it should not have
    been sent, no more than one to the control. Where the tool says whose message it was (`arm` of
    the deliveries, here sent_arm), is_other_arm tells whether that was the arm that was drawn; a
    name that is no arm of the campaign is another one. It is null where the tool does not say.
    """
    own = deliveries[deliveries["campaign_id"].isin(ledger["campaign_id"].unique())]
    own = own.rename(columns={"arm": "sent_arm"})
    arms = ledger[["campaign_id", "customer_key", "arm", "is_control", "assigned_date"]]
    frame = own.merge(arms, on=["campaign_id", "customer_key"], how="left", validate="many_to_one")
    frame["is_bounced"] = frame["status"].isin(LOST)
    frame["is_opened"] = frame["opened_at"].notna()
    frame["is_clicked"] = frame["clicked_at"].notna()
    is_known = frame["sent_arm"].notna() & frame["arm"].notna()
    frame["is_other_arm"] = (
        frame["sent_arm"].ne(frame["arm"]).astype("object").where(is_known, None)
    )
    for column in ("arm", "is_control", "assigned_date", "sent_arm"):
        frame[column] = frame[column].astype("object").where(frame[column].notna(), None)
    return frame[COLUMNS]


def as_messages(deliveries: pd.DataFrame) -> pd.DataFrame:
    """Published deliveries as `outcomes.unit_outcomes` takes them: each message as last known."""
    key = ["campaign_id", "customer_key", "channel", "sent_at"]
    last = deliveries.sort_values([*key, "snapshot_date"], kind="stable")
    last = last.drop_duplicates(key, keep="last").reset_index(drop=True)
    return last.assign(bounced_at=last["sent_at"].where(last["status"].isin(LOST)))
