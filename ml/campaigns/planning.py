"""Power first: what a campaign of some size can find, how long it takes, what it costs and risks.

What belongs here: the plan of an analysis against the shop's own history, before anybody is
assigned. What does not: formulas (ml/experiments/power.py), the reading (results.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import pandas as pd

from ml.campaigns.results import AnalysisPlan, MetricPlan
from ml.experiments.moments import Moments
from ml.experiments.power import (
    achieved_power,
    exaggeration,
    minimum_detectable_effect,
    sample_factor,
    standard_error,
    wrong_decision,
    wrong_sign,
)
from ml.experiments.sequential import sample_inflation, sequence_error
from ml.experiments.shrinkage import NormalPrior
from ml.experiments.two_sample import PairedSample, cuped_sample, cuped_theta, ratio_pair

COLUMNS = [
    "campaign_id",
    "arm",
    "metric",
    "role",
    "customer_count_arm",
    "customer_count_control",
    "mean",
    "standard_deviation",
    "variance_reduction",
    "standard_error",
    "look_count",
    "sample_inflation",
    "minimum_effect",
    "minimum_detectable_effect",
    "power",
    "needed_customer_count",
    "enrolment_days",
    "duration_days",
    "cost_amount",
    "exaggeration",
    "chance_of_wrong_sign",
    "chance_of_wrong_decision",
    "status",
    "reason",
]


def plan_power(
    plan: AnalysisPlan,
    history: pd.DataFrame,
    customers: int,
    *,
    cost_per_customer: Mapping[str, float] | None = None,
    customers_per_day: float | None = None,
    accept_underpowered: bool = False,
) -> pd.DataFrame:
    """Return `COLUMNS`, one row per treated arm and metric with an effect or margin to find.

    history: one row per customer of the audience over an earlier window as long as the campaign's,
    under business as usual: the metrics' columns and the covariates as they were known before it.
    customers: to be assigned in all. cost_per_customer: contact and expected discount per arm.
    customers_per_day: who becomes eligible daily, where enrolment goes on.

    variance_reduction is what the covariate removes in that history, measured, not hoped for. Looks
    make the error larger by the square root of their inflation; open-ended monitoring asks for the
    z of its confidence sequence once all are in. chance_of_wrong_decision is over
    the plan's prior on the relative lift. A goal whose smallest detectable effect exceeds the
    smallest worth having is refused; with `accept_underpowered` (campaigns that will be pooled) it
    is underpowered, as is a guardrail in that case. Raises ValueError where history has fewer than
    two customers or no spread.
    """
    name = f"campaign {plan.campaign_id}"
    if len(history) < 2:
        raise ValueError(f"{name}: history has {len(history)} customers; power needs at least 2")
    looks = len(plan.looks) + 1
    fractions = [i / looks for i in range(1, looks + 1)]
    days_of_enrolment = (plan.last_assignment_date - plan.start_date).days + 1
    rows = []
    for metric in plan.metrics:
        wanted = metric.minimum_effect or metric.non_inferiority_margin
        if wanted is None:
            continue
        alpha = plan.error_of(metric)
        inflation = 1.0
        if looks > 1:
            inflation = sample_inflation(fractions, plan.spending, alpha=alpha, power=plan.power)
        past = _history(metric, history)
        adjusted = cuped_sample(past, cuped_theta([past]) if metric.covariate else 0.0)
        if not adjusted.variance > 0:
            raise ValueError(f"{name}: {metric.name} has no spread in the history")
        control = max(1, int(customers * plan.weights[plan.control_arm]))
        for arm in plan.treated:
            n = max(1, int(customers * plan.weights[arm]))
            if plan.monitoring == "open_ended":
                planned = int(plan.planned_customers or 1)
                alpha = sequence_error(control + n, planned, plan.error_of(metric))
            se = standard_error(adjusted.variance, control, adjusted.variance, n)
            se *= math.sqrt(inflation)
            found = minimum_detectable_effect(se, alpha, plan.power)
            factor = sample_factor(wanted, se, alpha, plan.power)
            needed = math.ceil(customers * factor)
            enrolment = days_of_enrolment
            if customers_per_day:
                enrolment = max(1, math.ceil(needed / customers_per_day))
            cost = (cost_per_customer or {}).get(arm)
            prior = NormalPrior(
                plan.prior.mean * past.mean_y, max(plan.prior.sd * abs(past.mean_y), 1e-12)
            )
            is_enough = found <= wanted
            status = "ok"
            if not is_enough:
                may_run = accept_underpowered or metric.role != "goal"
                status = "underpowered" if may_run else "refused"
            rows.append(
                {
                    "campaign_id": plan.campaign_id,
                    "arm": arm,
                    "metric": metric.name,
                    "role": metric.role,
                    "customer_count_arm": n,
                    "customer_count_control": control,
                    "mean": past.mean_y,
                    "standard_deviation": math.sqrt(past.variance_y),
                    "variance_reduction": 1 - adjusted.variance / past.variance_y,
                    "standard_error": se,
                    "look_count": looks,
                    "sample_inflation": inflation,
                    "minimum_effect": wanted,
                    "minimum_detectable_effect": found,
                    "power": achieved_power(wanted, se, alpha),
                    "needed_customer_count": needed,
                    "enrolment_days": enrolment,
                    "duration_days": enrolment + plan.window_days + metric.settle_days,
                    "cost_amount": None if cost is None else cost * n,
                    "exaggeration": exaggeration(wanted, se, alpha),
                    "chance_of_wrong_sign": wrong_sign(wanted, se, alpha),
                    "chance_of_wrong_decision": wrong_decision(se, prior, wanted, alpha),
                    "status": status,
                    "reason": _words(plan, metric, customers, found, wanted, needed, is_enough),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def look_dates(
    start_date: date, last_assignment_date: date, closing_days: int, looks: int
) -> tuple[date, ...]:
    """Days of the interim looks, of `looks` in all, at equal shares of the days of closing.

    closing_days: from assignment until the goals are final (window and settling). Customers close
    from start_date + closing_days on, a day's for each day of enrolment; the last look is the end
    and is not in the answer. With more looks than days some fall together.
    """
    first = start_date + timedelta(days=closing_days)
    days = (last_assignment_date - start_date).days + 1
    steps = {math.ceil(days * look / looks) - 1 for look in range(1, looks)}
    return tuple(first + timedelta(days=step) for step in sorted(steps) if step < days - 1)


def _history(metric: MetricPlan, history: pd.DataFrame) -> PairedSample:
    """Moments of the metric, and of its covariate, over the customers of the history."""
    names = [metric.column, metric.per, metric.covariate, metric.covariate_per]
    columns = []
    for name in names:
        if name is None:
            continue
        if name not in history:
            raise ValueError(f"the history has no column {name!r}, which {metric.name} needs")
        columns.append(history[name].to_numpy(dtype=np.float64, na_value=np.nan))
    if metric.winsorise is not None:
        columns[0] = np.minimum(columns[0], np.quantile(columns[0], metric.winsorise))
    moments = Moments.of(columns, np.zeros(len(history), dtype=np.int64), 1)
    if metric.per:
        return ratio_pair(len(history), moments.mean(0), moments.covariance(0))
    return moments.pair(0, 0, 1 if metric.covariate else None)


def _words(
    plan: AnalysisPlan,
    metric: MetricPlan,
    customers: int,
    found: float,
    wanted: float,
    needed: int,
    is_enough: bool,
) -> str:
    what = f"{customers:,} customers find {found:.4g} of {metric.name} with {plan.power:.0%} power"
    if is_enough:
        return f"{what}; {wanted:.4g} is asked for"
    return (
        f"{what}, not the {wanted:.4g} asked for: assign {needed:,}, ask for a larger effect, or "
        "pool the campaign with others"
    )
