"""The page of a campaign: every figure that decides is on it, and nothing that is not read."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
from test_results import END, PLAN, PROFIT, world

from ml.campaigns.report import markdown
from ml.campaigns.results import NOTHING_AGAINST, AnalysisPlan, MetricPlan, read_out

FULL: AnalysisPlan = replace(
    PLAN,
    metrics=(
        replace(PROFIT, settle_days=30),
        MetricPlan("retained", "goal", is_proportion=True, minimum_effect=0.05),
        MetricPlan("revenue_amount", "guardrail", non_inferiority_margin=0.01),
    ),
    stratum="tier",
)


def page(as_of: date = END + timedelta(days=30), missing: int = 0) -> tuple[str, pd.DataFrame]:
    ledger, outcomes = world(lift=1.0, cost=0.5)
    kept = outcomes.drop(index=ledger.index[ledger["arm"].eq("coupon")][:missing])
    read = read_out(FULL, ledger, kept, as_of)
    return markdown(read), read


def test_a_reading_is_told_whole() -> None:
    text, read = page()
    row = read.set_index("metric").loc["profit_amount"]
    money = next(line for line in text.splitlines() if line.startswith("| coupon | profit |"))
    assert f"| {row['incremental_total']:,.0f} |" in money
    assert f"[{row['incremental_low']:,.0f}, {row['incremental_high']:,.0f}]" in money
    cost = next(line for line in text.splitlines() if line.startswith("| coupon | cost |"))
    assert f"{row['cost_effect'] * row['customer_count_arm']:,.0f}" in cost
    assert f"| coupon | ROI | {row['roi']:.4g} | [{row['roi_low']:+.4g}" in text
    assert f"**coupon: {row['decision'].replace('_', ' ')}**" in text
    assert "stated prior" in text
    assert f"{row['chance_to_win']:.0%} chance of a gain" in text
    assert "would have bought anyway" in text
    assert "ASSUMED" not in text
    for metric in ("profit_amount", "retained", "revenue_amount"):
        own = read.set_index("metric").loc[metric]
        line = next(t for t in text.splitlines() if t.startswith(f"| coupon | {metric} |"))
        assert f"| {own['effect']:+.4g} | [{own['effect_low']:+.4g}, " in line
        assert own["method"] in text
    assert "sample ratio (below 0.001 nothing is shown): assigned p = " in text
    assert "coupon on revenue_amount inconclusive (harm of 0.01 is tolerated)" in text
    assert "nan" not in text.lower()
    found = [line.split(" | ")[1] for line in text.splitlines() if line.count(" | ") == 11]
    assert found[2:] == ["retained", "profit_amount", "revenue_amount"], "what was asked is first"
    totals = [line.split(" | ")[1] for line in text.splitlines() if line.count(" | ") == 3]
    assert totals[2:] == ["revenue", "profit", "cost", "ROI", "ROI after shrinkage"]


def test_where_the_cost_may_be_nothing_no_return_on_it_is_told() -> None:
    """Discounts that vary by 40 a customer: the arm costs more by 1.1, or less by nothing."""
    ledger, outcomes = world(lift=1.0, cost=0.5)
    outcomes["cost_amount"] += np.random.default_rng(2).normal(0, 40, len(outcomes))
    read = read_out(FULL, ledger, outcomes, END + timedelta(days=30))
    row = read.set_index("metric").loc["profit_amount"]
    assert row["cost_effect_low"] < 0 < row["cost_effect"]
    names = [f"{name}{end}" for name in ("roi", "shrunken_roi") for end in ("", "_low", "_high")]
    assert row[names].isna().all()
    assert np.isfinite(row["shrunken_effect"]), "the profit is known all the same"
    assert "ROI" not in markdown(read)


def test_what_is_not_read_shows_no_figure_and_why() -> None:
    text, _ = page(END)
    line = next(t for t in text.splitlines() if t.startswith("| coupon | profit_amount |"))
    assert line.endswith("|  |  |  |  |  |  |  | window open |")
    assert "incremental, in all" in text, "of the revenue, which is final"
    assert "ROI" not in text
    assert "nothing is shown before" in text
    broken, read = page(missing=200)
    assert set(read["status"]) == {"invalid"}
    told = "- coupon on retained, profit_amount, revenue_amount: invalid: sample ratio broken at"
    assert broken.count("sample ratio broken") == 1
    assert told in broken, "what is said of all is said once"
    assert "ROI" not in broken
    assert "interval" in broken, "the head of a table without figures"
    assert "[" not in broken, "no interval"


def test_what_holds_a_decision_is_told_though_the_figures_stand() -> None:
    _, read = page()
    reason = NOTHING_AGAINST + "; the guardrail revenue_amount may be inferior"
    held = read.assign(reason=read["reason"].mask(read["metric"].eq("profit_amount"), reason))
    assert f"- coupon on profit_amount: ok: {reason}" in markdown(held)


def test_of_several_looks_the_newest_is_told() -> None:
    old, new = page(END)[1], page()[1]
    both = pd.concat([new, old], ignore_index=True)
    assert markdown(both) == markdown(new)
    assert markdown(new.iloc[:0]) == "Nothing is read yet."


def test_an_assumed_margin_is_marked() -> None:
    told = markdown(page()[1].assign(assumed_margin_rate=0.25))
    assert "25% of the margin is ASSUMED" in told
