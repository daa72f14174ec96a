"""Power before launch: measured variance, refusals, and what looks cost."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from ml.campaigns.planning import COLUMNS, look_dates, plan_power
from ml.campaigns.results import AnalysisPlan, MetricPlan

DAY = date(2025, 5, 1)
PLAN = AnalysisPlan(
    "winback",
    "control",
    {"control": 0.5, "coupon": 0.5},
    (MetricPlan("profit_amount", "goal", covariate="predicted", minimum_effect=1.5),),
    DAY,
    DAY,
    28,
)


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    predicted = rng.gamma(2, 5, 20_000)
    profit = 0.8 * predicted + rng.normal(0, 8, 20_000)
    return pd.DataFrame(
        {
            "profit_amount": profit,
            "predicted": predicted,
            "noise": rng.normal(0, 1, 20_000),
            "retained": (profit > 12).astype(float),
            "orders": rng.poisson(2, 20_000),
            "visits": rng.poisson(5, 20_000) + 1,
        }
    )


def test_the_reduction_is_measured_in_the_history(history: pd.DataFrame) -> None:
    row = plan_power(PLAN, history, 4_000).iloc[0]
    rho = np.corrcoef(history["profit_amount"], history["predicted"])[0, 1]
    assert row["variance_reduction"] == pytest.approx(rho**2)
    sd = history["profit_amount"].std() * (1 - rho**2) ** 0.5
    assert row["minimum_detectable_effect"] == pytest.approx(
        2.8016 * sd * (2 / 2_000) ** 0.5, rel=1e-4
    )
    useless = replace(PLAN, metrics=(replace(PLAN.metrics[0], covariate="noise"),))
    found = plan_power(useless, history, 4_000).iloc[0]
    assert found["variance_reduction"] < 0.001, "never claimed, only measured"
    assert found["standard_error"] > row["standard_error"]
    assert list(plan_power(PLAN, history, 4_000).columns) == COLUMNS


def test_a_campaign_that_cannot_see_what_matters_is_refused(history: pd.DataFrame) -> None:
    small = plan_power(PLAN, history, 300).iloc[0]
    assert small["status"] == "refused"
    assert "assign" in small["reason"]
    assert (
        plan_power(PLAN, history, 300, accept_underpowered=True).iloc[0]["status"] == "underpowered"
    )
    enough = plan_power(PLAN, history, int(small["needed_customer_count"]) + 2).iloc[0]
    assert enough["status"] == "ok"
    assert enough["power"] == pytest.approx(0.8, abs=0.002)
    assert small["power"] < 0.5
    assert small["exaggeration"] > 1.4, "what it would find would be far too large"
    assert small["chance_of_wrong_decision"] > enough["chance_of_wrong_decision"]


def test_time_and_money_are_said(history: pd.DataFrame) -> None:
    row = plan_power(
        replace(PLAN, metrics=(replace(PLAN.metrics[0], settle_days=10),)),
        history,
        1_000,
        cost_per_customer={"coupon": 2.5},
        customers_per_day=40,
    ).iloc[0]
    assert row["cost_amount"] == 1_250
    assert row["enrolment_days"] == np.ceil(row["needed_customer_count"] / 40)
    assert row["duration_days"] == row["enrolment_days"] + 38


def test_looks_and_several_goals_ask_for_more(history: pd.DataFrame) -> None:
    goal = PLAN.metrics[0]
    one = plan_power(PLAN, history, 4_000).iloc[0]
    many = replace(
        PLAN,
        last_assignment_date=DAY + timedelta(days=20),
        looks=(DAY + timedelta(days=35),),
        planned_customers=4_000,
    )
    looked = plan_power(many, history, 4_000).iloc[0]
    assert looked["look_count"] == 2
    assert looked["sample_inflation"] == pytest.approx(1.01, abs=0.01)
    assert looked["minimum_detectable_effect"] > one["minimum_detectable_effect"]
    two = replace(
        PLAN,
        metrics=(goal, MetricPlan("retained", "goal", is_proportion=True, minimum_effect=0.05)),
    )
    both = plan_power(two, history, 4_000).set_index("metric")
    assert both.loc["profit_amount", "minimum_detectable_effect"] > one["minimum_detectable_effect"]
    assert both.loc["retained", "mean"] == pytest.approx(history["retained"].mean())


def test_always_looking_asks_for_more_than_planned_looks(history: pd.DataFrame) -> None:
    """About 1.3 times the smallest effect of one look: (3.1 + 0.84) / (1.96 + 0.84) in z."""
    once = replace(PLAN, looks=())
    always = replace(once, monitoring="open_ended", planned_customers=10_000)
    one, every = (plan_power(plan, history, 10_000).iloc[0] for plan in (once, always))
    ratio = every["minimum_detectable_effect"] / one["minimum_detectable_effect"]
    assert 1.25 < ratio < 1.6
    assert every["needed_customer_count"] > one["needed_customer_count"]
    assert every["power"] < one["power"]


def test_ratios_and_guardrails_are_planned_too(history: pd.DataFrame) -> None:
    guard = MetricPlan(
        "rate", "guardrail", value="orders", per="visits", non_inferiority_margin=1e-4
    )
    rows = plan_power(replace(PLAN, metrics=(*PLAN.metrics, guard)), history, 4_000)
    row = rows.set_index("metric").loc["rate"]
    assert row["mean"] == pytest.approx(history["orders"].sum() / history["visits"].sum())
    assert row["status"] == "underpowered", "a guardrail refuses nothing"
    without = MetricPlan("orders", "secondary")
    assert plan_power(replace(PLAN, metrics=(without,)), history, 100).empty


def test_without_a_history_nothing_is_planned(history: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        plan_power(PLAN, history[:1], 100)
    with pytest.raises(ValueError, match="no spread"):
        plan_power(PLAN, history.assign(profit_amount=1.0), 100)
    with pytest.raises(ValueError, match="no column 'predicted'"):
        plan_power(PLAN, history.drop(columns="predicted"), 100)


def test_looks_are_spread_over_the_days_on_which_windows_close() -> None:
    last = DAY + timedelta(days=19)
    assert look_dates(DAY, last, 28, 4) == tuple(DAY + timedelta(days=28 + d) for d in (4, 9, 14))
    assert look_dates(DAY, DAY, 28, 4) == ()
    assert look_dates(DAY, last, 28, 1) == ()
