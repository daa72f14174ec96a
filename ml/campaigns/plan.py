"""How a campaign file is read: the analysis plan that follows from it, before anybody is assigned.

What belongs here: the translation of a file into `results.AnalysisPlan`, the covariates of its
metrics, and what the analysis takes from ledger and scores. What does not: estimators (results.py),
power (planning.py).
"""

from __future__ import annotations

import pandas as pd

from ml.campaigns.definition import RATIOS, Campaign, Metric
from ml.campaigns.planning import look_dates
from ml.campaigns.results import AnalysisPlan, MetricPlan
from ml.campaigns.strata import COLUMNS as STRATA

STRATUM = "stratum"
KNOWN_SHARE = 0.5  # of the customers: a covariate of fewer is their mean for most
# What the models predicted on the day of assignment, as the covariate of what came true: the first
# that is known. What is expected of 30 days is known of every customer, and is of the metric's own
# kind: of the profit of 1,492 customers of the simulated shop it explained 1.6 %, the margin
# expected if the customer stays 0.6 %; of 1,195 dormant ones, whom nobody scores for churn, 3.1 %.
COVARIATES: dict[Metric, tuple[str, ...]] = {
    "retained": ("purchase_probability_30d", "churn_probability"),
    "order_count": ("expected_order_count_30d", "churn_probability"),
    "revenue_amount": ("expected_revenue_amount_30d", "expected_margin_amount"),
    "discount_amount": ("expected_revenue_amount_30d", "expected_margin_amount"),
    "margin_amount": ("expected_margin_amount_30d", "expected_margin_amount"),
    "net_margin_amount": ("expected_margin_amount_30d", "expected_margin_amount"),
    "profit_amount": ("expected_margin_amount_30d", "expected_margin_amount"),
    "average_order_amount": ("expected_revenue_amount_30d",),
}
# Of a ratio what was foretold is a ratio, too: of the two sums, per customer.
COVARIATES_PER: dict[Metric, str] = {"average_order_amount": "expected_order_count_30d"}
PREDICTIONS = tuple(
    sorted({name for names in COVARIATES.values() for name in names} | {*COVARIATES_PER.values()})
)
# Final only once most of what comes back has.
SETTLED: frozenset[Metric] = frozenset({"net_margin_amount", "profit_amount"})


def plan_of(
    campaign: Campaign,
    covariates: frozenset[str] = frozenset(),
    launch_power: str | None = None,
) -> AnalysisPlan:
    """The plan of a campaign file.

    Its primary metric and what stands beside it are the goals, guardrails must not be inferior,
    profit per customer decides and is always read, the rest is secondary. Strata are those frozen
    in the ledger. An arm with a discount is compared, for what it gave to would-be buyers, with the
    contacted arm without one.
    covariates: those that are known of every customer; others do not adjust. launch_power: of the
    ledger.
    """
    outcome = campaign.outcome
    margins = {guardrail.metric: guardrail.margin for guardrail in outcome.guardrails}

    def of(name: Metric) -> MetricPlan:
        value, per = RATIOS.get(name, (name, None))
        covariate = next((known for known in COVARIATES[name] if known in covariates), None)
        covariate_per = COVARIATES_PER.get(name)
        if covariate_per is not None and covariate_per not in covariates:
            covariate = covariate_per = None
        return MetricPlan(
            name,
            "goal"
            if name in outcome.all_goals
            else "guardrail"
            if name in margins
            else "secondary",
            value=value,
            per=per,
            is_proportion=name == "retained",
            covariate=covariate,
            covariate_per=covariate_per if covariate else None,
            minimum_effect=outcome.minimum_effects.get(name),
            non_inferiority_margin=margins.get(name),
            higher_is_better=name != "discount_amount",
            winsorise=outcome.winsorise.get(name),
            settle_days=outcome.return_lag_days if name in SETTLED else 0,
        )

    metrics = tuple(of(name) for name in dict.fromkeys((*outcome.metrics, "profit_amount")))
    contacted = [arm for arm in campaign.arms if arm.name != campaign.control_arm]
    plain = next((arm.name for arm in contacted if not arm.is_discount), campaign.control_arm)
    return AnalysisPlan(
        campaign.id,
        campaign.control_arm,
        campaign.weights,
        metrics,
        campaign.start_date,
        campaign.last_assignment_date,
        outcome.window_days,
        looks=look_dates(
            campaign.start_date,
            campaign.last_assignment_date,
            outcome.window_days + max(m.settle_days for m in metrics if m.role == "goal"),
            outcome.looks,
        ),
        monitoring=outcome.monitoring,
        planned_customers=outcome.planned_customers,
        stratum=STRATUM,
        baseline={arm.name: plain for arm in contacted if arm.is_discount},
        launch_power=launch_power,
        is_adaptive=campaign.bandit is not None,
    )


def read_from(
    ledger: pd.DataFrame, outcomes: pd.DataFrame, scores: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, frozenset[str]]:
    """Ledger and outcomes as `results.read_out` takes them, and the covariates that may be used.

    ledger: the rows of one campaign; its frozen strata become one column. scores: what was foretold
    on the days of assignment (snapshot_date, customer_key and `PREDICTIONS`): each customer's is
    that of their own day, never a later one. A customer of whom nothing was foretold gets the mean
    of the others, which says nothing of the arm; a covariate that fewer than half have is not used.
    """
    ledger = ledger.assign(
        **{STRATUM: ledger[STRATA[0]].str.cat(ledger[STRATA[1]].astype(str), sep=" ")},
        covariates_date=ledger["assigned_date"],
    )
    own = ledger[["customer_key", "assigned_date"]].merge(
        scores,
        left_on=["customer_key", "assigned_date"],
        right_on=["customer_key", "snapshot_date"],
        how="left",
        validate="one_to_one",
    )
    usable = []
    for name in PREDICTIONS:
        if name not in own:
            continue
        own[name] = own[name].astype("float64")
        if own[name].notna().mean() >= KNOWN_SHARE and own[name].nunique() > 1:
            own[name] = own[name].fillna(own[name].mean())
            usable.append(name)
    known = own.set_index("customer_key")[usable]
    return ledger, outcomes.join(known, on="customer_key"), frozenset(usable)
