"""The cohort of a campaign on one day: audience -> eligibility -> limits -> randomisation.

What belongs here: the composition, and the reason for each customer who was left out. What does
not: the rules (eligibility.py), the hash (assignment.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.campaigns.assignment import (
    allocation,
    arms_by_weight,
    coverage_key,
    empty_ledger,
    is_closed,
    ledger_rows,
    randomise,
    uniforms,
)
from ml.campaigns.audience import meets
from ml.campaigns.definition import BANDIT_SEGMENT, Campaign, refuse_changed
from ml.campaigns.eligibility import first_exclusion
from ml.campaigns.strata import SOURCES as STRATA_SOURCES
from ml.campaigns.strata import strata
from ml.frames import is_among, join_customers

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
    policy: pd.DataFrame | None = None,
    registered: Campaign | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """New ledger rows, and the cohort: one row per customer of the audience with arm or reason.

    `status` (customer_status) and `tables` (more of what is published of customers, by name) are
    partitions of `day`; the fields that the audience asks for and the strata are looked up in this
    order. `ledger` holds all rows so far; `suppressed` the customers whom nobody may contact;
    `policy` is that of a bandit, in force on `day` (ml/policy.py). Both results are empty on a day
    on which the campaign assigns nobody. Reasons, in order: already_assigned (on an earlier day),
    the rules of eligibility, beyond_limit, beyond_budget,
    global_holdout, outside_layer_share, outside_coverage, day_closed (the day had been assigned
    before this customer qualified), underpowered (the campaign was refused, see `refuse`). Limits
    are counted before the holdout is taken out, so the held-out are comparable.

    Whoever the ledger enrolled on `day` stands in the cohort with that arm, whatever the data say
    now. Raises CampaignError where the campaign has changed since it started (`registered`: as it
    was then), ValueError where a frame is of another day, or no frame has a field.
    """
    refuse_changed(campaign, ledger, registered)
    for name, frame in {"customer_status": status, **tables}.items():
        if "snapshot_date" in frame and not _all_on(frame["snapshot_date"], day):
            raise ValueError(f"campaign {campaign.id}: {name} is not the partition of {day}")
    if not campaign.assigns_on(day):
        return empty_ledger(), empty_cohort()

    own = ledger[ledger["campaign_id"] == campaign.id]
    today = own[own["assigned_date"] == day]
    before = own[own["assigned_date"] < day]
    targeted = _targeted(campaign, status, tables)
    keys = targeted["customer_key"]
    excluded = first_exclusion(campaign, targeted, day, ledger, suppressed)
    reason = excluded.to_numpy(dtype=object, copy=True)
    reason[is_among(keys, before["customer_key"])] = "already_assigned"
    _limit(campaign, targeted, reason, enrolled=len(before))

    is_eligible = pd.isna(reason)
    allocated = None
    if campaign.bandit is not None:
        if policy is None:
            raise ValueError(f"campaign {campaign.id} follows a policy, and there is none")
        allocated = allocation(campaign, policy, keys, targeted[BANDIT_SEGMENT])
    drawn = randomise(campaign, keys[is_eligible], day, allocated)  # in the same order: sorted
    reason[is_eligible] = drawn["exclusion_reason"].to_numpy(dtype=object)
    if closed or is_closed(campaign, day, ledger):
        enrolled = today
        new = empty_ledger()
    else:
        frozen = strata(targeted).set_axis(keys, axis="index")
        enrolled = new = ledger_rows(campaign, drawn, day, frozen, allocated)

    # The ledger is the truth: its customers are listed even if the data no longer target them.
    gone = enrolled.loc[~is_among(enrolled["customer_key"], keys), "customer_key"]
    if len(gone):
        listed = pd.Series(sorted([*keys, *gone]), dtype="str")
        reason = pd.Series(reason, index=keys).reindex(listed).to_numpy(dtype=object, copy=True)
        keys = listed
    at = pd.Index(keys).get_indexer(pd.Index(enrolled["customer_key"]))
    arm = np.full(len(keys), None, dtype=object)
    propensity = np.full(len(keys), np.nan)
    arm[at], propensity[at] = enrolled["arm"], enrolled["propensity"]
    is_in = np.zeros(len(keys), dtype=bool)
    is_in[at] = True
    reason[pd.isna(reason)] = "day_closed"
    reason[is_in] = None
    cohort = pd.DataFrame(
        {
            "snapshot_date": day,
            "campaign_id": campaign.id,
            "customer_key": keys.reset_index(drop=True).astype("str"),
            "is_eligible": is_in,
            "exclusion_reason": pd.Series(reason, dtype="object"),
            "arm": pd.Series(arm, dtype="object"),
            "propensity": propensity,
        }
    )
    return new, cohort[COHORT_COLUMNS]


def passed_every_rule(cohort: pd.DataFrame) -> pd.DataFrame:
    """The rows of customers whom no rule left out: enrolled, or left out by the draw alone."""
    stages = ("global_holdout", "outside_layer_share", "outside_coverage")
    return cohort[cohort["is_eligible"] | cohort["exclusion_reason"].isin(stages)]


def eligible_units(campaign: Campaign, passed: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Who passed every rule, and the arm that was, or by the hash would have been, theirs.

    passed: `passed_every_rule` of the cohorts of all days so far; ledger: the campaign's rows.
    Returns customer_key, arm, assigned_date (the day on which they first passed) and weights_json.
    Those left out by holdout, layer and coverage have an arm by their hash, too, under the weights
    of the file: where the arms are not as the weights say, who is eligible depends on the arm.
    """
    first = passed.sort_values(["customer_key", "snapshot_date"], kind="stable")
    first = first.drop_duplicates("customer_key").reset_index(drop=True)
    at = pd.Index(ledger["customer_key"]).get_indexer(pd.Index(first["customer_key"]))
    left_out = at < 0
    drawn = uniforms(campaign.id, first.loc[left_out, "customer_key"])
    arm, weights = (ledger[name].to_numpy(dtype=object)[at] for name in ("arm", "weights_json"))
    arm[left_out] = arms_by_weight(campaign, drawn)
    weights[left_out] = json.dumps(campaign.weights, sort_keys=True)
    return pd.DataFrame(
        {
            "customer_key": first["customer_key"],
            "arm": arm,
            "assigned_date": first["snapshot_date"],
            "weights_json": weights,
        }
    )


def refuse(cohort: pd.DataFrame) -> pd.DataFrame:
    """The cohort of a campaign that may not start (launch.py): whom it would have drawn."""
    drawn = cohort["arm"].notna() | cohort["exclusion_reason"].eq("day_closed")
    return cohort.assign(
        is_eligible=cohort["is_eligible"] & ~drawn,
        exclusion_reason=cohort["exclusion_reason"].mask(drawn, "underpowered"),
        arm=cohort["arm"].mask(drawn, None),
        propensity=cohort["propensity"].mask(drawn),
    )


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


def _limit(
    campaign: Campaign, targeted: pd.DataFrame, reason: npt.NDArray[np.object_], enrolled: int
) -> None:
    """Mark who is beyond the limit of the file, then who is beyond what the budget still pays for.

    First come those with the greatest value of the limit's field; without one the hash of the
    coverage decides, which knows nothing of arms.
    """
    limit, affordable = campaign.limit, campaign.affordable_customers
    if limit is None and affordable is None:
        return
    left = np.flatnonzero(pd.isna(reason))
    if limit is not None:
        value = targeted[limit.field].astype("float64").to_numpy()[left]
    else:
        value = -uniforms(coverage_key(campaign), targeted["customer_key"].iloc[left])
    order = left[np.argsort(-value, kind="stable")]  # customers are sorted: ties by key
    if limit is not None:
        reason[order[limit.customers :]] = "beyond_limit"
        order = order[: limit.customers]
    if affordable is not None:
        reason[order[max(0, affordable - enrolled) :]] = "beyond_budget"


def _all_on(dates: pd.Series, day: date) -> bool:
    return bool((pd.to_datetime(dates).dt.date == day).all())
