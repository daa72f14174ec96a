"""What a campaign earned: every assigned customer counts in the arm they were assigned to.

What belongs here: metrics per customer, comparison with the control, the verdict. What does not:
formulas (ml/experiments), who was assigned (the ledger).

Intention to treat: a customer whose message was never sent or opened stays in the denominator;
filtering by exposure would compare the willing with everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from ml.campaigns.definition import Campaign, Metric, refuse_changed
from ml.experiments.power import minimum_detectable_effect, standard_error
from ml.experiments.srm import SRM_ALARM, srm_p_value
from ml.experiments.two_sample import Sample, welch

COLUMNS = [
    "snapshot_date",
    "campaign_id",
    "arm",
    "metric",
    "control_arm",
    "customer_count_arm",
    "customer_count_control",
    "mean_arm",
    "mean_control",
    "effect",
    "effect_low",
    "effect_high",
    "p_value",
    "relative_effect",
    "relative_low",
    "relative_high",
    "incremental_total",
    "srm_p_value",
    "status",
    "window_start_date",
    "window_end_date",
]
ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class PlannedPower:
    """Whether a campaign of this size can see an effect that matters, said before it starts."""

    arm: str
    customer_count_arm: int
    customer_count_control: int
    minimum_detectable_effect: float
    minimum_effect: float

    @property
    def is_underpowered(self) -> bool:
        """Whether the smallest effect that matters would be missed more than once in five."""
        return self.minimum_detectable_effect > self.minimum_effect


def plan(campaign: Campaign, customer_count: int, variance: float) -> list[PlannedPower]:
    """Power for the primary metric, per treated arm, before anybody is assigned.

    `customer_count` customers will be assigned in all; `variance` is that of the primary metric
    per customer under business as usual (p(1 - p) for `retained`).
    """
    minimum = campaign.outcome.minimum_effects[campaign.outcome.primary_metric]
    control = max(1, int(customer_count * campaign.weights[campaign.control_arm]))
    planned = []
    for arm, weight in campaign.weights.items():
        if arm == campaign.control_arm:
            continue
        n = max(1, int(customer_count * weight))
        se = standard_error(variance, control, variance, n)
        mde = minimum_detectable_effect(se, ALPHA, POWER) if se > 0 else 0.0
        planned.append(PlannedPower(arm, n, control, mde, minimum))
    return planned


def measure(
    campaign: Campaign,
    assignments: pd.DataFrame,
    orders: pd.DataFrame,
    as_of: date,
) -> pd.DataFrame:
    """Outcome of the campaign as known at the end of `as_of`: one row per treated arm and metric.

    `assignments` are ledger rows (other campaigns are ignored); `orders` has the latest state of
    each order as of `as_of`: customer_key, ordered_date, revenue_amount, margin_amount,
    is_wholly_cancelled. Window of a customer: (assigned_date, assigned_date + window_days].
    Metrics per assigned customer: retained (any valid order), order_count, revenue_amount,
    margin_amount net of the arm's contact cost. Effects are arm minus control; incremental_total
    is the effect times the customers of the arm.

    status: window_open (a window has not ended: all figures null), invalid_srm (arm sizes deviate
    from the weights with p < 0.001: effects null), underpowered (the difference that 80 % power
    could find exceeds the metric's declared minimum effect, or there is nothing to test with),
    ok. Raises CampaignError where the campaign has changed since it started, ValueError where a
    customer stands twice, or a margin is missing.
    """
    own = assignments[assignments["campaign_id"] == campaign.id]
    if own.empty:
        return _table([])
    refuse_changed(campaign, own)
    if own["customer_key"].duplicated().any():
        raise ValueError(f"campaign {campaign.id}: a customer is assigned twice in the ledger")
    own = own.sort_values("customer_key").reset_index(drop=True)
    assigned = pd.to_datetime(own["assigned_date"])
    first, last = assigned.min().date(), assigned.max().date()
    window = timedelta(days=campaign.outcome.window_days)
    counts = {arm: int(own["arm"].eq(arm).sum()) for arm in campaign.weights}
    common = {
        "snapshot_date": as_of,
        "campaign_id": campaign.id,
        "control_arm": campaign.control_arm,
        "customer_count_control": counts[campaign.control_arm],
        "window_start_date": first + timedelta(days=1),
        "window_end_date": last + window,
    }
    treated = [arm for arm in campaign.weights if arm != campaign.control_arm]
    # Customers may still be assigned, or a window still run: no figure before all have ended.
    if as_of < campaign.window_end_date:
        rows = [
            {**common, "arm": arm, "metric": metric, "customer_count_arm": counts[arm]}
            | {"status": "window_open"}
            for arm in treated
            for metric in campaign.outcome.metrics
        ]
        return _table(rows)

    srm = srm_p_value(list(counts.values()), list(campaign.weights.values()))
    values = _metric_values(campaign, own, orders, as_of)
    rows = []
    for arm in treated:
        for metric in campaign.outcome.metrics:
            by_arm = {
                name: _sample(metric, values.loc[values["arm"] == name, metric])
                for name in (arm, campaign.control_arm)
            }
            row = {**common, "arm": arm, "metric": metric, "customer_count_arm": counts[arm]}
            row["srm_p_value"] = srm
            rows.append(row | _comparison(campaign, metric, by_arm, arm, srm))
    return _table(rows)


def _comparison(
    campaign: Campaign, metric: Metric, by_arm: Mapping[str, Sample], arm: str, srm: float
) -> dict[str, object]:
    if srm < SRM_ALARM:
        return {"status": "invalid_srm"}
    treatment, control = by_arm[arm], by_arm[campaign.control_arm]
    result = welch(control, treatment, confidence=1 - ALPHA)
    status = "ok"
    minimum = campaign.outcome.minimum_effects.get(metric)
    if result.standard_error is None or (
        minimum is not None
        and minimum_detectable_effect(result.standard_error, ALPHA, POWER) > minimum
    ):
        status = "underpowered"
    return {
        "mean_arm": treatment.mean,
        "mean_control": control.mean,
        "effect": result.effect,
        "effect_low": result.low,
        "effect_high": result.high,
        "p_value": result.p_value,
        "relative_effect": result.relative_effect,
        "relative_low": result.relative_low,
        "relative_high": result.relative_high,
        "incremental_total": None if result.effect is None else result.effect * treatment.n,
        "status": status,
    }


def _metric_values(
    campaign: Campaign, own: pd.DataFrame, orders: pd.DataFrame, as_of: date
) -> pd.DataFrame:
    """One row per assigned customer with each metric; customers without an order have zeros."""
    frame = own[["customer_key", "arm", "assigned_date"]].copy()
    frame["assigned_date"] = pd.to_datetime(frame["assigned_date"])
    valid = orders[~orders["is_wholly_cancelled"].astype(bool)].merge(
        frame[["customer_key", "assigned_date"]], on="customer_key", how="inner"
    )
    ordered = pd.to_datetime(valid["ordered_date"])
    window = pd.Timedelta(days=campaign.outcome.window_days)
    inside = (
        (ordered > valid["assigned_date"])
        & (ordered <= valid["assigned_date"] + window)
        & (ordered <= pd.Timestamp(as_of))
    )
    valid = valid[inside].assign(
        revenue_amount=valid["revenue_amount"].astype("float64"),
        margin_amount=valid["margin_amount"].astype("float64"),
    )
    if "margin_amount" in campaign.outcome.metrics and valid["margin_amount"].isna().any():
        raise ValueError(
            f"campaign {campaign.id}: {int(valid['margin_amount'].isna().sum())} orders have no "
            "margin; deliver unit_cost, or leave margin_amount out of the campaign's metrics"
        )
    # Sorted, so that the sums of doubles have one order whatever order the rows came in.
    valid = valid.sort_values(
        ["customer_key", "ordered_date", "revenue_amount", "margin_amount"], kind="stable"
    )
    grouped = valid.groupby("customer_key")
    frame["order_count"] = frame["customer_key"].map(grouped.size()).fillna(0.0)
    frame["retained"] = (frame["order_count"] > 0).astype("float64")
    for metric in ("revenue_amount", "margin_amount"):
        frame[metric] = frame["customer_key"].map(grouped[metric].sum()).fillna(0.0)
    cost = {arm: float(campaign.contact_cost(arm)) for arm in campaign.weights}
    frame["margin_amount"] -= frame["arm"].map(cost)
    return frame


def _sample(metric: Metric, values: pd.Series) -> Sample:
    if metric == "retained":
        return Sample.from_count(int(values.sum()), len(values))
    return Sample.from_values(values.to_numpy())


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for column in COLUMNS[5:7]:
        frame[column] = frame[column].astype("int64")
    for column in COLUMNS[7:18]:
        frame[column] = frame[column].astype("float64").replace([np.inf, -np.inf], np.nan)
    return frame
