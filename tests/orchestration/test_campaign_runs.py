"""What campaigns take from the lake: forecasts only, as registered, and of refused days nothing."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from small_tables import filled, put

from ml.campaigns.definition import Campaign, parse_campaign
from orchestration.defs.campaigns import assets
from orchestration.defs.campaigns.reading import forecasts_on
from orchestration.defs.daily import Run
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_ASSIGNMENTS, CAMPAIGN_OUTCOMES, CHURN_SCORES

if TYPE_CHECKING:
    from orchestration.resources.home import Home

DAY = date(2024, 3, 5)
N = 200
CAMPAIGN = f"""
id: winback
name: Win back
objective: Does a reminder bring customers back?
approver: Ada
start_date: {DAY}
channels: [email]
arms:
  - {{name: control, weight: 0.5, play: none}}
  - {{name: reminder, weight: 0.5, play: reminder}}
control_arm: control
audience: [{{field: lifecycle, operator: "=", value: active}}]
outcome: {{window_days: 2, primary_metric: retained, minimum_effects: {{retained: 0.05}}}}
contact_cost_amount: 0.1
"""


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in a home with the campaign and nothing published."""
    monkeypatch.setenv("HOLDFAST_SECRET", "a-simulated-shop-has-no-secrets")
    (home.campaigns / "winback.yaml").write_text(CAMPAIGN)
    return Run(Platform(root=str(home.root)), [DAY], "run", lambda text: None)


def campaign_of(text: str = CAMPAIGN) -> Campaign:
    return parse_campaign(text, "winback.yaml")


def scores(day: date, *, is_rescore: bool) -> pd.DataFrame:
    """The risk of each customer; the odd ones are at risk."""
    return filled(
        CHURN_SCORES,
        N,
        snapshot_date=day,
        churn_probability=[0.1 + 0.5 * (i % 2) + i / 1e4 for i in range(N)],
        expected_margin_amount=[1.0 + i for i in range(N)],
        risk_band="high",
        is_rescore=is_rescore,
    )


def ledger(campaign: Campaign, day: date = DAY) -> pd.DataFrame:
    """Everybody, drawn on `day`, arms by turns of two."""
    return filled(
        CAMPAIGN_ASSIGNMENTS,
        N,
        assigned_date=day,
        snapshot_date=day,
        campaign_id=campaign.id,
        arm=[("control", "reminder")[i // 2 % 2] for i in range(N)],
        weights_json='{"control": 0.5, "reminder": 0.5}',
        propensity=0.5,
        config_sha256=campaign.config_sha256,
        window_end_date=day + timedelta(days=campaign.outcome.window_days),
        value_tier="high",
        launch_power="ok",
    )


def outcomes(drawn: pd.DataFrame) -> pd.DataFrame:
    """Who is at risk does not buy, but for one in five."""
    bought = [int((i % 2 == 0) != (i % 5 == 0)) for i in range(len(drawn))]
    end = drawn["window_end_date"].iloc[0]
    shared = drawn[["customer_key", "campaign_id", "arm", "assigned_date", "window_end_date"]]
    return filled(
        CAMPAIGN_OUTCOMES,
        len(drawn),
        **{str(name): shared[name] for name in shared},
        snapshot_date=end,
        settled_date=end,
        retained=bought,
        order_count=bought,
    )


def test_a_score_that_knew_the_future_is_no_forecast(run: Run) -> None:
    lake, next_day = run.platform.lake, DAY + timedelta(days=1)
    put(lake, CHURN_SCORES, DAY, scores(DAY, is_rescore=True))
    put(lake, CHURN_SCORES, next_day, scores(next_day, is_rescore=False))
    found = forecasts_on(run, [DAY, next_day], ["churn_probability"])
    assert set(found["snapshot_date"]) == {next_day}
    assert list(found.columns) == ["snapshot_date", "customer_key", "churn_probability"]
    assert len(forecasts_on(run, [DAY], ["churn_probability"])) == 0


@pytest.mark.parametrize(("is_rescore", "method"), [(False, "cuped"), (True, "proportion")])
def test_results_are_adjusted_by_forecasts_only(run: Run, is_rescore: bool, method: str) -> None:
    """The same scores, made before the outcome or after it: only the first may explain it."""
    campaign, lake = campaign_of(), run.platform.lake
    put(lake, CHURN_SCORES, DAY, scores(DAY, is_rescore=is_rescore))
    drawn = ledger(campaign)
    end = drawn["window_end_date"].iloc[0]
    put(lake, CAMPAIGN_OUTCOMES, end, outcomes(drawn))
    read = assets._readings(run, campaign, drawn, end).set_index("metric")
    assert read.loc["retained", "method"] == method
    assert (read.loc["retained", "theta"] != 0) is not is_rescore
    assert read.loc["retained", "customer_count_control"] == N / 2
