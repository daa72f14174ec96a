"""Whatever can be read of a campaign passes its table's audit: no reading may stop a day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expectations.audit import audit
from ml.campaigns.results import AnalysisPlan, MetricPlan, read_out
from orchestration.resources.content import canonical
from orchestration.tables import CAMPAIGN_RESULTS

DAY, N, WINDOW = date(2025, 5, 1), 4_000, 10
END = DAY + timedelta(days=WINDOW)
ONE_WAVE = AnalysisPlan(
    "winback",
    "control",
    {"control": 0.5, "coupon": 0.5},
    (
        MetricPlan("retained", "goal", is_proportion=True, covariate="predicted", minimum_effect=9),
        MetricPlan("profit_amount", "secondary", settle_days=3),
        MetricPlan("revenue_amount", "guardrail", non_inferiority_margin=1.0, winsorise=0.99),
        MetricPlan("order_value", "secondary", value="revenue_amount", per="order_count"),
    ),
    DAY,
    DAY,
    WINDOW,
    stratum="tier",
)
WAVES = replace(ONE_WAVE, last_assignment_date=DAY + timedelta(days=9), planned_customers=N)
LOOKS = replace(WAVES, looks=(END + timedelta(days=3), END + timedelta(days=6)))
OPEN = replace(WAVES, monitoring="open_ended")
BANDIT = replace(WAVES, is_adaptive=True, planned_customers=None)


def audited(plan: AnalysisPlan, as_of: date, *, lost: int = 0, n: int = N, **changes: Any) -> Any:
    """A reading at the end of a day, and what its audit says; `lost` of the coupon have no row."""
    rng = np.random.default_rng(1)
    days = (plan.last_assignment_date - plan.start_date).days + 1
    arm = np.where(rng.random(n) < 0.5, "control", "coupon")
    ledger = pd.DataFrame(
        {
            "customer_key": [f"{i:032x}" for i in range(n)],
            "arm": arm,
            "assigned_date": [DAY + timedelta(days=i % days) for i in range(n)],
            "tier": rng.choice(["high", "low"], n),
            "propensity": 0.5,
            "weights_json": '{"control": 0.5, "coupon": 0.5}',
        }
    )
    orders = rng.poisson(1.0, n).astype(float)
    outcomes = pd.DataFrame(
        {
            "customer_key": ledger["customer_key"],
            "predicted": rng.random(n),
            "order_count": orders,
            "retained": (orders > 0).astype(float),
            "revenue_amount": orders * rng.lognormal(3, 1, n),
            "profit_amount": orders * 5.0,
            "net_margin_amount": orders * 5.0,
            "assumed_margin_amount": 0.0,
            "discount_amount": 0.1,
            "cost_amount": np.where(arm == "coupon", 0.3, 0.1),
            "is_sent": arm == "coupon",
            "is_delivered": arm == "coupon",
        }
    ).assign(**changes)
    kept = outcomes.drop(index=np.flatnonzero(arm == "coupon")[:lost])
    read = read_out(plan, ledger, kept, as_of, eligible=ledger, others=None)
    told = audit(
        canonical(read.assign(snapshot_date=as_of), CAMPAIGN_RESULTS), CAMPAIGN_RESULTS, as_of
    )
    return read, [failure.message for failure in told.failures]


@pytest.mark.parametrize(
    ("plan", "as_of", "changes", "statuses"),
    [
        (ONE_WAVE, DAY + timedelta(days=1), {}, {"window_open"}),
        (ONE_WAVE, END, {}, {"ok", "underpowered", "window_open"}),
        (ONE_WAVE, END + timedelta(days=3), {}, {"ok", "underpowered"}),
        (ONE_WAVE, END + timedelta(days=3), {"lost": 200}, {"invalid"}),
        (ONE_WAVE, END + timedelta(days=3), {"n": 6}, {"ok", "underpowered"}),
        (ONE_WAVE, END + timedelta(days=3), {"revenue_amount": 0.0}, {"ok", "underpowered"}),
        (ONE_WAVE, END + timedelta(days=3), {"retained": 1.0}, {"ok", "underpowered"}),
        (WAVES, END + timedelta(days=3), {}, {"window_open"}),
        (LOOKS, END + timedelta(days=4), {}, {"window_open"}),
        (LOOKS, END + timedelta(days=4), {"lost": 200}, {"invalid"}),
        (LOOKS, END + timedelta(days=12), {}, {"window_open", "ok", "underpowered"}),
        (OPEN, END + timedelta(days=4), {}, {"ok", "underpowered"}),
        (OPEN, END + timedelta(days=12), {}, {"ok", "underpowered"}),
        (BANDIT, END + timedelta(days=12), {}, {"ok", "underpowered"}),
    ],
)
def test_every_reading_passes_its_audit(
    plan: AnalysisPlan, as_of: date, changes: dict[str, Any], statuses: set[str]
) -> None:
    read, failures = audited(plan, as_of, **changes)
    assert failures == []
    assert set(read["status"]) == statuses


def test_an_interim_look_shows_its_interval_and_no_p_value() -> None:
    """The interval holds at all looks together; the p-value would be that of a fixed horizon."""
    read, failures = audited(LOOKS, END + timedelta(days=4))
    goal = read[read["metric"] == "retained"]
    assert goal["status"].eq("window_open").all()
    assert goal["effect"].notna().all()
    assert goal["p_value"].isna().all()
    assert goal["decision"].isna().all()
    assert not failures
