"""Acceptance: the share kept of those who would leave, by hand and on simulated campaigns."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.acceptance import measured_acceptance


def _row(campaign: str, arm: str, **more: Any) -> dict[str, Any]:
    return {
        "snapshot_date": date(2025, 6, 1),
        "campaign_id": campaign,
        "arm": arm,
        "metric": "retained",
        "look": 1,
        "is_final": True,
        "effect": 0.1,
        "standard_error": 0.02,
        "mean_control": 0.5,
        "customer_count_arm": 400,
        **more,
    }


def test_it_is_the_effect_over_those_who_would_have_left() -> None:
    one = measured_acceptance(pd.DataFrame([_row("spring", "coupon")]))
    assert one is not None
    assert one.rate == pytest.approx(0.1 / 0.5)
    assert (one.low, one.high) == pytest.approx((0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04))
    two = measured_acceptance(
        pd.DataFrame(
            [
                _row("spring", "coupon"),
                _row("summer", "mail", effect=0.0, mean_control=0.2, customer_count_arm=100),
            ]
        )
    )
    assert two is not None
    assert two.rate == pytest.approx(400 * 0.1 / (400 * 0.5 + 100 * 0.8))
    assert two.campaigns == ("spring", "summer")
    assert str(two).startswith("measured by spring, summer on 500 customers: 0.143 [")


def test_only_the_last_final_reading_of_a_campaign_counts() -> None:
    wrong = {"effect": 0.4}
    rows = [
        _row("spring", "coupon"),
        _row("spring", "coupon", snapshot_date=date(2025, 5, 1), **wrong),
        _row("spring", "coupon", metric="order_count", **wrong),
        _row("running", "coupon", is_final=False, **wrong),
        _row("unread", "coupon", effect=np.nan),
        _row("global_holdout_2025q2", "contacted", **wrong),
    ]
    found = measured_acceptance(pd.DataFrame(rows))
    assert found is not None
    assert (found.rate, found.customer_count) == (pytest.approx(0.2), 400)


def test_arms_of_one_campaign_are_taken_to_err_together() -> None:
    together = measured_acceptance(pd.DataFrame([_row("a", "x"), _row("a", "y")]))
    apart = measured_acceptance(pd.DataFrame([_row("a", "x"), _row("b", "y")]))
    assert together is not None
    assert apart is not None
    assert together.high - together.low == pytest.approx(np.sqrt(2) * (apart.high - apart.low))


def test_a_harm_keeps_nobody_and_too_few_tell_nothing() -> None:
    harm = measured_acceptance(pd.DataFrame([_row("a", "x", effect=-0.1)]))
    assert harm is not None
    assert (harm.rate, harm.low) == (0.0, 0.0)
    few = pd.DataFrame([_row("a", "x", customer_count_arm=299)])
    assert measured_acceptance(few) is None
    assert measured_acceptance(pd.DataFrame([_row("a", "x", mean_control=1.0)])) is None
    assert measured_acceptance(few.iloc[:0]) is None
