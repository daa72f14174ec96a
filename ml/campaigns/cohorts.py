"""The cohort of a campaign on one day: target -> eligibility -> top N -> randomisation.

What belongs here: the composition, and the reason for each customer who was left out. What does
not: the rules (eligibility.py), the hash (assignment.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pandas as pd

from ml.campaigns.assignment import assign, empty_ledger, is_closed, randomise
from ml.campaigns.definition import Campaign, refuse_changed
from ml.campaigns.eligibility import first_exclusion

COHORT_COLUMNS = [
    "snapshot_date",
    "campaign_id",
    "customer_key",
    "is_eligible",
    "exclusion_reason",
    "arm",
    "propensity",
]


def build_cohort(
    campaign: Campaign,
    status: pd.DataFrame,
    scores: pd.DataFrame,
    segments: pd.DataFrame,
    ledger: pd.DataFrame,
    day: date,
    campaigns: Sequence[Campaign] = (),
    *,
    closed: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """New ledger rows, and the cohort: one row per targeted customer with arm or reason.

    `status`, `scores` and `segments` are the published partitions of `day`; `ledger` holds all
    rows so far; `campaigns` all campaigns of the shop (for the layer). Both frames are empty on a
    day on which the campaign assigns nobody. Reasons, in order: already_assigned (on an earlier
    day), the rules of eligibility, beyond_top_n, global_holdout, outside_layer_share,
    outside_coverage, day_closed (the day had been assigned before this customer qualified). The
    top N are counted before the holdout is taken out, so the held-out are comparable.

    Whoever the ledger enrolled on `day` stands in the cohort with that arm, whatever the data say
    now. Raises CampaignError where the campaign has changed since it started, ValueError where a
    frame is of another day.
    """
    refuse_changed(campaign, ledger)
    for name, frame in (("status", status), ("scores", scores), ("segments", segments)):
        if "snapshot_date" in frame and not _all_on(frame["snapshot_date"], day):
            raise ValueError(f"campaign {campaign.id}: {name} is not the partition of {day}")
    if not campaign.assigns_on(day):
        return empty_ledger(), empty_cohort()

    own = ledger[ledger["campaign_id"] == campaign.id].set_index("customer_key")
    today = own[own["assigned_date"] == day]
    before = own[own["assigned_date"] < day]
    targeted = _targeted(campaign, status, scores, segments)
    reason = first_exclusion(campaign, targeted, day, ledger, campaigns)
    reason[reason.index.isin(before.index)] = "already_assigned"
    _limit_to_top_n(campaign, targeted, reason)

    eligible = list(reason.index[reason.isna()])
    drawn = randomise(campaign, eligible, day).set_index("customer_key")
    reason.loc[drawn.index] = drawn["exclusion_reason"]
    closed = closed or is_closed(campaign, day, ledger)
    new = assign(campaign, eligible, day, ledger, closed=closed)
    enrolled = (
        pd.concat([today, new.set_index("customer_key")])
        if len(today)
        else new.set_index("customer_key")
    )

    # The ledger is the truth: its customers are listed even if the data no longer target them.
    keys = sorted(set(reason.index) | set(enrolled.index))
    cohort = pd.DataFrame({"customer_key": pd.Series(keys, dtype="str")})
    cohort["arm"] = cohort["customer_key"].map(enrolled["arm"]).astype("object")
    cohort["propensity"] = cohort["customer_key"].map(enrolled["propensity"]).astype("float64")
    cohort["is_eligible"] = cohort["arm"].notna()
    cohort["exclusion_reason"] = (
        cohort["customer_key"].map(reason).astype("object").where(~cohort["is_eligible"], None)
    )
    missed = ~cohort["is_eligible"] & cohort["exclusion_reason"].isna()
    cohort.loc[missed, "exclusion_reason"] = "day_closed"
    for column in ("arm", "exclusion_reason"):
        cohort[column] = cohort[column].where(cohort[column].notna(), None)
    cohort["snapshot_date"] = day
    cohort["campaign_id"] = campaign.id
    return new, cohort[COHORT_COLUMNS]


def empty_cohort() -> pd.DataFrame:
    """A cohort without rows, with its columns and types."""
    kinds = dict.fromkeys(COHORT_COLUMNS, "object")
    kinds |= {"is_eligible": "bool", "propensity": "float64"}
    return pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in kinds.items()})


def _targeted(
    campaign: Campaign, status: pd.DataFrame, scores: pd.DataFrame, segments: pd.DataFrame
) -> pd.DataFrame:
    target = campaign.target
    frame = status.merge(
        scores[["customer_key", "churn_probability", "risk_band", "margin_at_risk_amount"]],
        on="customer_key",
        how="left",
        validate="one_to_one",
    ).merge(
        segments[["customer_key", "rfm_segment", "cluster_name"]],
        on="customer_key",
        how="left",
        validate="one_to_one",
    )
    keep = pd.Series(True, index=frame.index)
    for column, allowed in (
        ("lifecycle", target.lifecycles),
        ("rfm_segment", target.rfm_segments),
        ("cluster_name", target.cluster_names),
        ("risk_band", target.risk_bands),
    ):
        if allowed:
            keep &= frame[column].isin(allowed)
    probability = frame["churn_probability"].astype("float64")
    if target.needs_score:
        keep &= probability.notna()
    if target.min_churn_probability is not None:
        keep &= probability >= target.min_churn_probability
    return frame[keep].sort_values("customer_key").reset_index(drop=True)


def _limit_to_top_n(campaign: Campaign, targeted: pd.DataFrame, reason: pd.Series) -> None:
    n = campaign.target.top_n_by_margin_at_risk
    if n is None:
        return
    margin = targeted.set_index("customer_key")["margin_at_risk_amount"].astype("float64")
    left = margin[reason.isna()].rename("margin").reset_index()
    order = left.sort_values(["margin", "customer_key"], ascending=[False, True])
    reason.loc[order["customer_key"].iloc[n:]] = "beyond_top_n"


def _all_on(dates: pd.Series, day: date) -> bool:
    return bool((pd.to_datetime(dates).dt.date == day).all())
