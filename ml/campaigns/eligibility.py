"""Who may take part at all: rules on what was known at the end of the day, before randomisation.

What belongs here: the rules, their order, the first reason. What does not: the target (cohorts.py)
and anything that knows an arm. The same rules hold for control and treatment, which is what keeps
the arms comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import get_args

import numpy as np
import pandas as pd

from ml.campaigns.definition import Campaign, Rule

RULES: tuple[Rule, ...] = get_args(Rule)


def first_exclusion(
    campaign: Campaign,
    status: pd.DataFrame,
    day: date,
    ledger: pd.DataFrame,
    campaigns: Sequence[Campaign] = (),
) -> pd.Series:
    """The first rule that excludes each customer, or null; indexed by customer_key.

    `status` is customer_status of `day`. Order of the rules: no_consent, business_account,
    complaint (a ticket open, or opened in 30 days), low_rating (two stars or less in 90 days),
    undelivered_order, open_return (a return in 30 days), recent_order (an order in the last
    `recent_order_days` days), contact_cap, in_other_campaign (a campaign of the same layer whose
    outcome window is still open for the customer). Unknown consent is no consent.
    """
    fired: dict[Rule, pd.Series] = {
        "no_consent": ~has_consent(campaign.channel, status),
        "business_account": status["account_type"].eq("business"),
        "complaint": _count(status, "open_ticket_count") + _count(status, "ticket_count_30d") > 0,
        "low_rating": _count(status, "low_rating_count_90d") > 0,
        "undelivered_order": _count(status, "undelivered_order_count") > 0,
        "open_return": _count(status, "return_count_30d") > 0,
        "recent_order": status["days_since_last_order"].astype("float64")
        < campaign.eligibility.recent_order_days,
        "contact_cap": (_count(status, "contact_count_7d") >= campaign.eligibility.max_contacts_7d)
        | (_count(status, "contact_count_30d") >= campaign.eligibility.max_contacts_30d),
        "in_other_campaign": status["customer_key"].isin(
            in_layer(campaign, day, ledger, campaigns)
        ),
    }
    applied = [rule for rule in RULES if campaign.eligibility.applies(rule)]
    masks = [fired[rule].fillna(False).to_numpy(dtype=bool) for rule in applied]
    reason = np.select(masks, applied, default="") if len(status) else np.array([], dtype=str)
    named = pd.Series(reason, index=status["customer_key"], dtype="object", name="exclusion_reason")
    return named.where(named != "", None)


def has_consent(channel: str, status: pd.DataFrame) -> pd.Series:
    """Whether each row's customer may be contacted on the channel; unknown means no."""
    return status[f"has_{channel}_consent"].fillna(False).astype(bool)


def in_layer(
    campaign: Campaign, day: date, ledger: pd.DataFrame, campaigns: Sequence[Campaign]
) -> set[str]:
    """Customers whom another campaign of the same layer holds on `day`, control included.

    Of two campaigns that start on one day the one with the smaller id goes first, so a rerun sees
    what the first run saw: rows of later days, and of the same day's later campaigns, do not count.
    """
    held: set[str] = set()
    for other in campaigns:
        if other.id == campaign.id or other.layer.name != campaign.layer.name:
            continue
        rows = ledger[ledger["campaign_id"] == other.id]
        earlier = rows["assigned_date"] < day
        if other.id < campaign.id:
            earlier |= rows["assigned_date"] == day
        # Window (assigned, assigned + w]: a customer is free again after its last day.
        still_open = rows["assigned_date"] >= day - timedelta(days=other.outcome.window_days)
        held.update(rows.loc[earlier & still_open, "customer_key"])
    return held


def _count(status: pd.DataFrame, column: str) -> pd.Series:
    return status[column].astype("float64").fillna(0)
