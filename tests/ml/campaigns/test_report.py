"""The page of a campaign: every figure that decides is on it, and nothing that is not read."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from test_results import END, PLAN, PROFIT, world

from ml.campaigns.report import markdown, sentence
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


def lines_of(text: str, columns: int) -> list[list[str]]:
    """The cells of the table with so many columns, without head and rule."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [line for line in cells if len(line) == columns][2:]


def test_a_reading_is_told_whole() -> None:
    text, read = page()
    row = read.set_index("metric").loc["profit_amount"]
    money = {name: (total, ends) for _, name, total, ends in lines_of(text, 4)}
    assert list(money) == ["revenue", "profit", "cost", "ROI", "ROI after shrinkage"]
    assert money["profit"] == (
        f"{row['incremental_total']:,.0f}",
        f"[{row['incremental_low']:,.0f}, {row['incremental_high']:,.0f}]",
    )
    assert money["cost"][0] == f"{row['cost_effect'] * row['customer_count_arm']:,.0f}"
    assert money["ROI"] == (
        f"{row['roi']:.4g}",
        f"[{row['roi_low']:+.4g}, {row['roi_high']:+.4g}]",
    )
    assert "stated prior" in text
    assert f"{row['chance_to_win']:.0%} chance of a gain" in text
    assert "would have bought anyway" in text
    assert "ASSUMED" not in text
    assert "sample ratio (below 0.001 nothing is shown): assigned p = " in text
    assert "coupon on revenue_amount inconclusive (harm of 0.01 is tolerated)" in text
    assert "nan" not in text.lower()
    by_metric = read.set_index("metric")
    assert all(method in text for method in by_metric["method"])
    found = {line[1]: line for line in lines_of(text, 12)}
    assert list(found) == ["retained", "profit_amount", "revenue_amount"], "what was asked is first"
    roles = ["goal", "goal, decides", "guardrail"]
    assert [line[2] for line in found.values()] == roles
    for metric in ("profit_amount", "revenue_amount"):
        own = by_metric.loc[metric]
        ends = f"[{own['effect_low']:+.4g}, {own['effect_high']:+.4g}]"
        assert found[metric][4:8] == [
            f"{own['mean_arm']:.4g}",
            f"{own['mean_control']:.4g}",
            f"{own['effect']:+.4g}",
            ends,
        ]
    own = by_metric.loc["retained"]
    assert found["retained"][4:8] == [
        f"{own['mean_arm']:.2%}",
        f"{own['mean_control']:.2%}",
        f"{100 * own['effect']:+.2f} points",
        f"[{100 * own['effect_low']:+.2f}, {100 * own['effect_high']:+.2f}]",
    ]


def test_the_page_is_in_the_order_in_which_it_is_read_and_its_tables_are_straight() -> None:
    """Status, decision, effect, as the guide says; then what speaks against it, and the tables."""
    text, read = page()
    row = read.set_index("metric").loc["profit_amount"]
    decision = row["decision"].replace("_", " ")
    assert text.startswith(f"- **coupon on profit_amount (ok): {decision}**; {row['effect']:+.2f}")
    assert row["reason"] not in text.splitlines()[0], "reasons follow"
    parts = ["- **coupon on", "- sample ratio", "| arm    | metric", "| arm    | incremental"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    for part in text.split("\n\n"):
        if part.startswith("|"):
            bars = [[i for i, c in enumerate(line) if c == "|"] for line in part.splitlines()]
            assert all(line == bars[0] for line in bars)


@pytest.mark.parametrize(
    ("reductions", "words"),
    [
        ([0.0, 0.0, 0.0], ""),
        ([0.1, 0.3, 0.2], ", which took 10.0% to 30.0% off the variance"),
        ([-0.01, -0.02, 0.0], ", which added 0.0% to 2.0% to the variance"),
        ([0.2, 0.2, 0.2], ", which took 20.0% off the variance"),
        ([-0.01, 0.3, 0.0], ", which took up to 30.0% off the variance, or added up to 1.0% to it"),
    ],
)
def test_what_was_added_to_the_variance_is_not_said_to_be_taken_off(
    reductions: list[float], words: str
) -> None:
    told = markdown(page()[1].assign(method="cuped", variance_reduction=reductions))
    line = next(line for line in told.splitlines() if ": by cuped" in line)
    assert words in line
    assert (not words) == line.endswith("by cuped")


def test_a_line_tells_of_one_reading_what_decides_and_what_it_brought() -> None:
    row = page()[1].set_index("metric", drop=False).loc["profit_amount"].to_dict()
    row |= {"effect": 2.0, "effect_low": 1.0, "effect_high": 3.0, "customer_count_arm": 1_000}
    row |= {"incremental_total": 2e3, "incremental_low": 1e3, "incremental_high": 3e3}
    row |= {"cost_effect": 0.5, "roi": 4.0, "roi_low": 2.0, "roi_high": 6.5}
    row |= {"shrunken_effect": 1.5, "shrunken_low": 0.5, "shrunken_high": 2.5}
    row |= {"chance_to_win": 0.98, "given_to_would_be_buyers": 120.4, "assumed_margin_rate": 0.4}
    assert sentence(row | {"decision": "roll_out", "reason": NOTHING_AGAINST}) == (
        "coupon on profit_amount (ok): roll out; +2.00 per customer [+1.00, +3.00]; in all +2,000 "
        "[+1,000, +3,000] for 500 spent, ROI 4.0 [2.0, 6.5]; +1.50 [+0.50, +2.50] after shrinkage "
        "(stated prior), 98% chance of a gain; 40% of the margin is ASSUMED: unit costs are "
        "missing; 120 of discounts went to customers who would have bought anyway"
    )
    saved = sentence(row | {"cost_effect": -0.02, "roi": None})
    assert "[+1,000, +3,000] with 20 less spent; " in saved
    share = page()[1].set_index("metric", drop=False).loc["retained"].to_dict()
    share |= {"status": "needs_review", "reason": "look", "effect": 0.0511}
    share |= {"effect_low": 0.0237, "effect_high": 0.0785}
    told = "coupon on retained (needs review): +5.11 points per customer [+2.37, +7.85]; look"
    assert sentence(share) == told
    closed = sentence(page(END)[1].set_index("metric", drop=False).loc["profit_amount"].to_dict())
    assert closed.startswith("coupon on profit_amount (window open): no decision; final at the end")


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
    line = next(line for line in lines_of(text, 12) if line[1] == "profit_amount")
    assert line[4:] == [""] * 7 + ["window open"]
    assert text.startswith("- **coupon on profit_amount (window open): no decision**\n")
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
    assert broken.startswith("- **coupon on profit_amount (invalid): no decision**\n")


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
