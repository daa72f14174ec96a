"""May a campaign start: judged by its own customers over an earlier window, or refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_shop import DAY, campaign, make_shop

from ml.campaigns.assignment import empty_ledger
from ml.campaigns.cohorts import build_cohort, refuse
from ml.campaigns.definition import Campaign
from ml.campaigns.launch import Past, history_days, judge
from ml.campaigns.outcomes import unit_outcomes
from ml.campaigns.plan import plan_of, read_from
from ml.campaigns.results import LAUNCHED_UNDERPOWERED, read_out
from ml.experiments.power import minimum_detectable_effect, standard_error

BEFORE = DAY - timedelta(days=30)
N = 3_000


def past_of(of: Campaign, predictive: float = 0.8, n: int = N) -> Past:
    """The campaign drawn 30 days earlier; who buys follows the score, or does not."""
    shop = make_shop(n, BEFORE)
    status, tables = shop.frames
    drawn, _ = build_cohort(of.begun_on(BEFORE), status, tables, empty_ledger(), BEFORE)
    rng = np.random.default_rng(3)
    risk = shop.scores.set_index("customer_key")["churn_probability"]
    own = risk[drawn["customer_key"]].to_numpy()
    chance = predictive * (1 - own) + (1 - predictive) * 0.3
    buys = drawn[rng.random(len(drawn)) < chance]
    orders = pd.DataFrame(
        {
            "order_id": [f"o{i}" for i in range(len(buys))],
            "customer_key": buys["customer_key"].to_numpy(),
            "ordered_date": BEFORE + timedelta(days=5),
            "revenue_amount": 20.0,
            "margin_amount": 8.0,
            "is_wholly_cancelled": False,
        }
    )
    outcomes = unit_outcomes(
        drawn, orders, DAY, window_days=30, contact_costs=dict.fromkeys(of.weights, 0.0)
    )
    return Past(drawn, outcomes, shop.scores)


def asking(effect: float, **changes: Any) -> Campaign:
    """The campaign with another smallest effect worth having."""
    outcome = {
        "window_days": 30,
        "primary_metric": "retained",
        "minimum_effects": {"retained": effect},
    }
    return campaign(**{"outcome": outcome, **changes})


def test_what_is_found_is_that_of_the_history_less_what_the_prediction_removes() -> None:
    of = asking(0.2)
    past = past_of(of)
    found = judge(of, 2_000, past)
    row = found.table.iloc[0]
    values = past.outcomes["retained"].to_numpy()
    score = past.scores.set_index("customer_key")["churn_probability"]
    rho = np.corrcoef(values, score[past.outcomes["customer_key"]].to_numpy())[0, 1]
    assert row["variance_reduction"] == pytest.approx(rho**2, abs=1e-9)
    assert row["variance_reduction"] > 0.03
    variance = values.var(ddof=1) * (1 - rho**2)
    assert row["minimum_detectable_effect"] == pytest.approx(
        minimum_detectable_effect(standard_error(variance, 1_000, variance, 1_000)), rel=1e-6
    )
    assert (found.power, found.is_refused) == ("ok", False)
    assert row["cost_amount"] == pytest.approx(0.1 * 1_000)
    assert row["duration_days"] == 31
    assert 0 <= row["chance_of_wrong_sign"] < row["chance_of_wrong_decision"] + 1
    shown = found.markdown()
    assert "| reminder | retained | 1,000 | 1,000 |" in shown


def test_a_prediction_that_knew_the_window_counts_nothing() -> None:
    of = asking(0.2)
    past = past_of(of)
    without = judge(of, 2_000, Past(past.ledger, past.outcomes, past.scores.iloc[:0]))
    assert without.table["variance_reduction"].iloc[0] == 0
    assert "no prediction is counted on" in without.reason
    assert "no prediction" not in judge(of, 2_000, past).reason
    assert (
        without.table["minimum_detectable_effect"].iloc[0]
        > judge(of, 2_000, past).table["minimum_detectable_effect"].iloc[0]
    )


def test_what_cannot_be_found_is_refused_or_marked() -> None:
    found = judge(asking(0.02), 2_000, past_of(asking(0.02)))
    assert (found.power, found.is_refused) == ("underpowered", True)
    assert "if_underpowered: mark" in found.reason
    assert "`start_date` to come" in found.reason, "the day of the refusal is closed"
    assert "assign" in found.reason
    marked = judge(asking(0.02, if_underpowered="mark"), 2_000, past_of(asking(0.02)))
    assert (marked.power, marked.is_refused) == ("underpowered", False)
    assert judge(asking(0.02), 200_000, past_of(asking(0.02))).power == "ok"


def test_without_a_history_nobody_knows() -> None:
    for past, words in (
        ("there is no history: run", "no history"),
        (past_of(asking(0.2), predictive=0.0, n=20), "spread|customers"),
    ):
        if isinstance(past, Past):
            past = Past(past.ledger, past.outcomes.assign(retained=1.0), past.scores)
        found = judge(asking(0.2), 2_000, past)
        assert (found.power, found.is_refused) == ("unknown", True)
        assert pd.Series(found.reason).str.contains(words).all()
        kept = judge(asking(0.2, if_underpowered="mark"), 2_000, past)
        assert (kept.power, kept.is_refused) == ("unknown", False)


def in_waves() -> tuple[Campaign, Past]:
    """Ten days of enrolment, 10,000 customers declared, and 20 newcomers a day."""
    outcome = {
        "window_days": 30,
        "primary_metric": "retained",
        "minimum_effects": {"retained": 0.2},
        "planned_customers": 10_000,
    }
    of = campaign(end_date=DAY + timedelta(days=9), outcome=outcome)
    return of, replace(past_of(of), newcomers=20)


def test_waves_count_what_was_declared_but_no_more_than_stock_and_newcomers() -> None:
    """The first day brings all who stand there; the next nine only who has come since."""
    of, past = in_waves()
    alone = replace(past, newcomers=0)
    assert judge(of, 500, past).table["customer_count_arm"].iloc[0] == (500 + 9 * 20) / 2
    assert judge(of, 500, alone).table["customer_count_arm"].iloc[0] == 250, "nobody comes"
    assert judge(of, 9_900, past).table["customer_count_arm"].iloc[0] == 5_000, "as declared"


def test_a_campaign_that_was_refused_counts_only_the_days_it_has_left() -> None:
    of, past = in_waves()
    for day, days in ((DAY - timedelta(days=5), 9), (DAY, 9), (DAY + timedelta(days=6), 3)):
        found = judge(of, 500, past, day).table.iloc[0]
        assert found["customer_count_arm"] == (500 + days * 20) / 2, day
        assert found["enrolment_days"] == days + 1
    last = judge(of, 500, past, DAY + timedelta(days=9)).table.iloc[0]
    assert (last["customer_count_arm"], last["enrolment_days"]) == (250, 1)


def test_a_history_chosen_in_hindsight_says_so() -> None:
    of = asking(0.2)
    assert "chosen by scores" not in judge(of, 2_000, past_of(of)).reason
    told = judge(of, 2_000, replace(past_of(of), is_hindsight=True)).reason
    assert "chosen by scores that knew its window" in told


def test_a_bandit_is_judged_with_its_control_at_the_floor() -> None:
    """Results may take the control there: what 1,000 in each arm find, 100 controls may not."""
    days = {"end_date": DAY + timedelta(days=40)}
    fixed = asking(0.08, **days)
    past = past_of(fixed)
    moving = asking(0.08, bandit={"floor": 0.05, "min_count": 20}, **days)
    assert judge(fixed, 2_000, past).power == "ok"
    found = judge(moving, 2_000, past)
    assert (found.power, found.is_refused) == ("underpowered", True)
    assert found.table["customer_count_control"].iloc[0] == 100
    assert found.table["customer_count_arm"].iloc[0] == 1_900


def test_a_margin_net_of_returns_needs_a_longer_history() -> None:
    outcome = {
        "window_days": 30,
        "return_lag_days": 20,
        "primary_metric": "profit_amount",
        "metrics": ["profit_amount"],
        "minimum_effects": {"profit_amount": 1.0},
    }
    assert history_days(campaign(outcome=outcome)) == 50
    assert history_days(campaign()) == 30


def test_a_refused_campaign_draws_nobody_and_says_why() -> None:
    status, tables = make_shop(500).frames
    rows, cohort = build_cohort(campaign(), status, tables, empty_ledger(), DAY)
    refused = refuse(cohort)
    assert len(rows) > 0
    assert refused["arm"].isna().all()
    assert refused["propensity"].isna().all()
    assert not refused["is_eligible"].any()
    assert refused["exclusion_reason"].eq("underpowered").sum() == len(rows)
    _, closed = build_cohort(campaign(), status, tables, empty_ledger(), DAY, closed=True)
    pd.testing.assert_frame_equal(refused, refuse(closed), check_dtype=False)


@pytest.mark.parametrize("power", ["ok", "underpowered", "unknown"])
def test_what_was_underpowered_at_the_start_stays_so(power: str) -> None:
    """An effect asked for that 2,000 customers see easily: only the launch says otherwise."""
    of = asking(0.4)
    past = past_of(of)
    ledger, outcomes, usable = read_from(
        past.ledger.assign(launch_power=power), past.outcomes, past.scores
    )
    plan = plan_of(of.begun_on(BEFORE), usable, power)
    results = read_out(plan, ledger, outcomes, DAY + timedelta(days=30)).set_index("metric")
    marked = power == "underpowered"
    assert results.loc["retained", "status"] == ("underpowered" if marked else "ok")
    for metric in ("retained", "profit_amount"):
        assert (LAUNCHED_UNDERPOWERED in results.loc[metric, "reason"]) is marked
    early = read_out(plan, ledger, outcomes, DAY - timedelta(days=20))
    assert set(early["status"]) == {"window_open"}
    assert early["reason"].str.contains(LAUNCHED_UNDERPOWERED).all() == marked
