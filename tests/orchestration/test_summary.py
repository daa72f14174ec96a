"""What the summary says of campaigns together, where each alone is too small to be read."""

from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pytest

from ml.campaigns.results import NOTHING_AGAINST, SCHEMA
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


def test_the_truth_stands_beside_the_line_of_a_reading() -> None:
    """The line itself is that of `ml.campaigns.report.sentence`."""
    row = dict.fromkeys(SCHEMA) | {
        **reading("spring", "coupon", 0.1, metric="retained", reason=NOTHING_AGAINST),
        "effect": 0.0511,
        "effect_low": 0.0237,
        "effect_high": 0.0785,
    }
    line = "    coupon on retained (underpowered): +5.11 points per customer [+2.37, +7.85]"
    assert _reading(row, {}) == line
    truths = {("spring", "coupon", "retained"): 0.0562}
    assert _reading(row, truths) == f"{line}; simulated truth +5.62 points"
    unread = row | {"effect": float("nan"), "reason": "nothing is shown before", "status": "ok"}
    assert _reading(unread, truths) == "    coupon on retained (ok): nothing is shown before"


@pytest.mark.parametrize("rows", [[], [reading("spring", "reminder", 0.1)]])
def test_one_campaign_is_not_together_with_anything(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows, columns=list(reading("a", "b", 0.0)))
    assert together(frame, {"spring": "reminder"}) == []
