"""Acceptance: the share kept of those who would leave, by hand."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.acceptance import PUBLISHED, measured_acceptance
from ml.metrics import ProfitModel


def _row(campaign: str, arm: str, **more: Any) -> dict[str, Any]:
    return {
        "snapshot_date": date(2025, 6, 1),
        "campaign_id": campaign,
        "arm": arm,
        "metric": "retained",
        "look": 1,
        "is_final": True,
        "status": "ok",
        "effect": 0.1,
        "standard_error": 0.02,
        "mean_control": 0.5,
        "customer_count_arm": 400,
        **more,
    }


def test_it_is_the_effect_over_those_who_would_have_left() -> None:
    one = measured_acceptance(pd.DataFrame([_row("spring", "coupon")]))
    assert one is not None
    assert (one.measured, one.standard_error) == pytest.approx((0.1 / 0.5, 0.02 / 0.5))
    two = measured_acceptance(
        pd.DataFrame(
            [
                _row("spring", "coupon"),
                _row("summer", "mail", effect=0.0, mean_control=0.2, customer_count_arm=100),
            ]
        )
    )
    assert two is not None
    assert two.measured == pytest.approx(400 * 0.1 / (400 * 0.5 + 100 * 0.8))
    assert two.campaigns == ("spring", "summer")
    assert str(two).startswith("spring, summer measured 0.143 +- 0.029 on 500 customers; with 0.3")


def test_it_is_weighed_by_precision_against_what_is_published() -> None:
    """By hand: 0.2 +- 0.04 is worth 625, 0.3 +- 0.1 is worth 100."""
    found = measured_acceptance(pd.DataFrame([_row("spring", "coupon")]))
    assert found is not None
    assert found.rate == pytest.approx((0.2 * 625 + 0.3 * 100) / 725)
    half = 1.959964 / np.sqrt(725)
    assert (found.low, found.high) == pytest.approx((found.rate - half, found.rate + half))
    vague = measured_acceptance(pd.DataFrame([_row("spring", "coupon", standard_error=0.5)]))
    assert vague is not None
    assert vague.rate == pytest.approx(PUBLISHED.mean, abs=0.002)
    sure = measured_acceptance(pd.DataFrame([_row("spring", "coupon", standard_error=0.002)]))
    assert sure is not None
    assert sure.rate == pytest.approx(0.2, abs=0.002)


def test_what_is_believed_before_is_what_a_profit_model_assumes() -> None:
    assert ProfitModel().accept_rate == PUBLISHED.mean
    alpha, beta = 6.0, 14.0  # of expected_maximum_profit
    spread = np.sqrt(alpha * beta / (alpha + beta + 1)) / (alpha + beta)
    assert (PUBLISHED.mean, PUBLISHED.sd) == pytest.approx((alpha / (alpha + beta), spread))


@pytest.mark.parametrize("status", ["needs_review", "invalid"])
def test_a_reading_that_is_not_believed_tells_nothing(status: str) -> None:
    spring = _row("spring", "coupon")
    doubtful = _row("summer", "mail", status=status, effect=0.4)
    alone = measured_acceptance(pd.DataFrame([spring]))
    assert measured_acceptance(pd.DataFrame([spring, doubtful])) == alone
    assert measured_acceptance(pd.DataFrame([doubtful])) is None
    # nor does the reading before it, which it has taken the place of
    before = _row("summer", "mail", snapshot_date=date(2025, 5, 1))
    assert measured_acceptance(pd.DataFrame([before, doubtful])) is None
    underpowered = _row("summer", "mail", status="underpowered")
    assert measured_acceptance(pd.DataFrame([underpowered])) is not None


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
    assert (found.measured, found.customer_count) == (pytest.approx(0.2), 400)


def test_arms_of_one_campaign_are_taken_to_err_together() -> None:
    together = measured_acceptance(pd.DataFrame([_row("a", "x"), _row("a", "y")]))
    apart = measured_acceptance(pd.DataFrame([_row("a", "x"), _row("b", "y")]))
    assert together is not None
    assert apart is not None
    assert together.standard_error == pytest.approx(np.sqrt(2) * apart.standard_error)


def test_a_harm_keeps_nobody_and_too_few_tell_nothing() -> None:
    harm = measured_acceptance(pd.DataFrame([_row("a", "x", effect=-0.1)]))
    assert harm is not None
    assert (harm.measured, harm.rate, harm.low) == (-0.2, 0.0, 0.0)
    few = pd.DataFrame([_row("a", "x", customer_count_arm=299)])
    assert measured_acceptance(few) is None
    assert measured_acceptance(pd.DataFrame([_row("a", "x", mean_control=1.0)])) is None
    assert measured_acceptance(pd.DataFrame([_row("a", "x", standard_error=0.0)])) is None
    assert measured_acceptance(few.iloc[:0]) is None
