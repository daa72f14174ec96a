"""The cohort of a campaign on one day: audience -> eligibility -> limits -> randomisation.

What belongs here: the composition, and the reason for each customer who was left out. What does
not: the rules (eligibility.py), the hash (assignment.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date

import numpy as np
import pandas as pd

from ml.campaigns.assignment import (
    coverage_key,
    empty_ledger,
    is_closed,
    ledger_rows,
    randomise,
    uniforms,
)
from ml.campaigns.audience import meets
from ml.campaigns.definition import Campaign, refuse_changed
from ml.campaigns.eligibility import first_exclusion
from ml.campaigns.strata import SOURCES as STRATA_SOURCES
from ml.campaigns.strata import strata
from ml.frames import join_customers

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
    tables: Mapping[str, pd.DataFrame],
    ledger: pd.DataFrame,
    day: date,
    *,
    suppressed: Collection[str] = (),
    closed: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """New ledger rows, and the cohort: one row per customer of the audience with arm or reason.

    `status` (customer_status) and `tables` (more of what is published of customers, by name) are
    partitions of `day`; the fields that the audience asks for and the strata are looked up in this
    order. `ledger` holds all rows so far; `suppressed` the customers whom nobody may contact. Both
    results are empty on a day on which the campaign assigns nobody. Reasons, in order:
    already_assigned (on an earlier day), the rules of eligibility, beyond_limit, beyond_budget,
    global_holdout, outside_layer_share, outside_coverage, day_closed (the day had been assigned
    before this customer qualified). Limits are counted before the holdout is taken out, so the
    held-out are comparable.

    Whoever the ledger enrolled on `day` stands in the cohort with that arm, whatever the data say
    now. Raises CampaignError where the campaign has changed since it started, ValueError where a
    frame is of another day, or no frame has a field.
    """
    refuse_changed(campaign, ledger)
    for name, frame in {"customer_status": status, **tables}.items():
        if "snapshot_date" in frame and not _all_on(frame["snapshot_date"], day):
            raise ValueError(f"campaign {campaign.id}: {name} is not the partition of {day}")
    if not campaign.assigns_on(day):
        return empty_ledger(), empty_cohort()

    own = ledger[ledger["campaign_id"] == campaign.id].set_index("customer_key")
    today = own[own["assigned_date"] == day]
    before = own[own["assigned_date"] < day]
    targeted = _targeted(campaign, status, tables)
    reason = first_exclusion(campaign, targeted, day, ledger, suppressed)
    reason[reason.index.isin(before.index)] = "already_assigned"
    _limit(campaign, targeted, reason, enrolled=len(before))

    eligible = list(reason.index[reason.isna()])
    drawn = randomise(campaign, eligible, day)
    reason.loc[drawn["customer_key"]] = drawn["exclusion_reason"].to_numpy()
    if closed or is_closed(campaign, day, ledger):
        new = empty_ledger()
    else:
        frozen = strata(targeted).set_axis(targeted["customer_key"], axis="index")
        new = ledger_rows(campaign, drawn, day, frozen)
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
    campaign: Campaign, status: pd.DataFrame, tables: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """The status of the audience, beside the fields it asks for, sorted by customer_key."""
    frame = status
    for table in tables.values():
        wanted = [*sorted(campaign.fields), *STRATA_SOURCES]
        new = [name for name in wanted if name in table and name not in frame]
        if new:
            frame = join_customers(frame, table[["customer_key", *new]], how="left")
    if unknown := sorted(campaign.fields - set(frame.columns)):
        raise ValueError(f"campaign {campaign.id}: no published table has {', '.join(unknown)}")
    keep = meets(campaign.audience, frame)
    if campaign.limit is not None:
        keep &= frame[campaign.limit.field].notna()
    return frame[keep].sort_values("customer_key").reset_index(drop=True)


def _limit(campaign: Campaign, targeted: pd.DataFrame, reason: pd.Series, enrolled: int) -> None:
    """Mark who is beyond the limit of the file, then who is beyond what the budget still pays for.

    First come those with the greatest value of the limit's field; without one the hash of the
    coverage decides, which knows nothing of arms.
    """
    limit, affordable = campaign.limit, campaign.affordable_customers
    if limit is None and affordable is None:
        return
    left = targeted[reason.isna().to_numpy()]
    keys = left["customer_key"]
    if limit is not None:
        value = left[limit.field].astype("float64")
    else:
        value = pd.Series(-uniforms(coverage_key(campaign), keys), index=left.index)
    order = keys.iloc[np.lexsort((keys, -value.to_numpy()))]
    if limit is not None:
        reason.loc[order.iloc[limit.customers :]] = "beyond_limit"
        order = order.iloc[: limit.customers]
    if affordable is not None:
        reason.loc[order.iloc[max(0, affordable - enrolled) :]] = "beyond_budget"


def _all_on(dates: pd.Series, day: date) -> bool:
    return bool((pd.to_datetime(dates).dt.date == day).all())
