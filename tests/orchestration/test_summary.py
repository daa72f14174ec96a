"""What the summary says of campaigns together, where each alone is too small to be read."""

from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pytest

from orchestration.demo import _reading, together

DAY = date(2025, 6, 30)


def reading(campaign: str, arm: str, gain: float, **changes: Any) -> dict[str, Any]:
    row = {
        "snapshot_date": DAY,
        "campaign_id": campaign,
        "arm": arm,
        "metric": "profit_amount",
        "is_final": True,
        "status": "underpowered",
        "relative_effect_before_cost": gain,
        "relative_error_before_cost": 0.1,
    }
    return row | changes


def test_finished_campaigns_are_pooled_by_one_arm_each_and_quarters_apart() -> None:
    rows = [
        reading("spring", "reminder", 0.1),
        reading("spring", "coupon", 9.0),  # shares its control with the reminder
        reading("summer", "reminder", 0.3),
        reading("summer", "reminder", 7.0, snapshot_date=date(2025, 6, 1)),  # an older reading
        reading("autumn", "reminder", 5.0, is_final=False),
        reading("winter", "reminder", 5.0, status="invalid"),
        reading("spring", "reminder", 5.0, metric="retained"),
        *(reading(f"global_holdout_2024q{n}", "contacted", 0.05) for n in (3, 4)),
    ]
    plain = dict.fromkeys(("spring", "summer", "autumn", "winter"), "reminder")
    campaigns, quarters = together(pd.DataFrame(rows), plain)
    assert campaigns.startswith("  2 campaigns together: +20.0%")
    half = 1.96 * (0.1**2 / 2 + 0.005) ** 0.5  # 0.1 each, and what they differ by beyond that
    assert f"{0.2 + half:+.1%}" in campaigns
    assert "2 quarters of all campaigns against the global holdout together: +5.0%" in quarters


def test_the_profit_is_told_in_all_with_what_was_spent_for_it() -> None:
    row = dict.fromkeys(("true", "given_to_would_be_buyers", "roi", "assumed_margin_rate"))
    row |= {
        **reading("spring", "coupon", 0.1, status="ok", decision="roll_out", reason=""),
        "effect": 2.0,
        "effect_low": 1.0,
        "effect_high": 3.0,
        "customer_count_arm": 1_000,
        "incremental_total": 2_000.0,
        "incremental_low": 1_000.0,
        "incremental_high": 3_000.0,
        "cost_effect": 0.5,
    }
    text = _reading(row, {}, {"coupon"})
    assert "+2.00 per customer [+1.00, +3.00], ok; in all +2,000 [+1,000, +3,000] for 500" in text
    assert text.endswith("spent; decision: roll out")
    ratio = {"roi": 4.0, "roi_low": 2.0, "roi_high": 6.5, "assumed_margin_rate": 0.4}
    text = _reading(row | ratio | {"given_to_would_be_buyers": 120.0}, {}, {"coupon"})
    assert "spent, ROI 4.0 [2.0, 6.5]; 40% of the margin is ASSUMED; 120 of discounts" in text
    other = _reading(row | {"metric": "order_count", "cost_effect": None}, {}, set())
    assert "in all" not in other


@pytest.mark.parametrize("rows", [[], [reading("spring", "reminder", 0.1)]])
def test_one_campaign_is_not_together_with_anything(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows, columns=list(reading("a", "b", 0.0)))
    assert together(frame, {"spring": "reminder"}) == []
