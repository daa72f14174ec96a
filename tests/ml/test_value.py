"""The expected margin: by hand, shrunk where little is known, exact in its digits."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from math import exp
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.value import expected_margin, margin_at_risk


def _customers(*rows: tuple[float, float, float, float | None]) -> pd.DataFrame:
    frame = pd.DataFrame(
        rows,
        columns=[
            "order_count_365d",
            "days_since_first_order",
            "revenue_amount_365d",
            "margin_amount_365d",
        ],
    )
    return frame.assign(customer_key=[f"{i:032x}" for i in range(len(frame))])


def test_formula_by_hand() -> None:
    """Two customers: 10 orders in a year for 200; one order 30 days ago for 5."""
    found = expected_margin(_customers((10, 800, 500, 200), (1, 30, 20, 5)), 90, 0.3)
    shop_rate = (10 + 0) / (365 + 31)
    shop_margin = 205 / 11
    by_hand = []
    for repeats, exposure, orders, margin in ((10, 365, 10, 200), (0, 31, 1, 5)):
        intensity = 90 * (repeats + 1) / (exposure + 1 / shop_rate)
        kept = intensity / (1 - exp(-intensity))
        by_hand.append(kept * (margin + 3 * shop_margin) / (orders + 3))
    assert found["expected_margin_amount"].tolist() == [Decimal(f"{x:.4f}") for x in by_hand]
    assert found["is_margin_assumed"].tolist() == [False, False]


def test_amounts_have_four_decimals() -> None:
    found = expected_margin(_customers((3, 100, 100, 1 / 3), (2, 50, 10, 1)), 90, 0.3)
    for amount in found["expected_margin_amount"]:
        assert isinstance(amount, Decimal)
        assert amount.as_tuple().exponent == -4


def test_an_unknown_margin_is_assumed_from_revenue() -> None:
    unknown = expected_margin(_customers((3, 100, 100, None), (2, 50, 60, None)), 90, 0.3)
    known = expected_margin(_customers((3, 100, 100, 30), (2, 50, 60, 18)), 90, 0.3)
    assert unknown["is_margin_assumed"].all()
    assert unknown["expected_margin_amount"].equals(known["expected_margin_amount"])
    partly = _customers((3, 100, 100, 25), (2, 50, 60, 18)).assign(is_margin_known=[False, True])
    found = expected_margin(partly, 90, 0.3)
    assert found["is_margin_assumed"].tolist() == [True, False]
    assert found["expected_margin_amount"].equals(known["expected_margin_amount"])


def test_a_brand_new_customer_does_not_order_120_times_a_year() -> None:
    many = [(4, 700, 400, 100)] * 50
    new, typical = expected_margin(_customers((1, 2, 100, 25), *many), 90, 0.3)[
        "expected_margin_amount"
    ].iloc[:2]
    assert new < 2 * typical


def test_margin_at_risk_is_the_product_of_the_published_numbers() -> None:
    p = pd.Series([0.333333, 0.5, 0.0])
    amounts = pd.Series([Decimal("3.0000"), Decimal("0.0001"), Decimal("9.9999")])
    found = margin_at_risk(p, amounts).tolist()
    assert found == [Decimal("1.0000"), Decimal("0.0000"), Decimal("0.0000")]
    assert all(amount.as_tuple().exponent == -4 for amount in found)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.decimals(0, 10**13, places=4)), max_size=20))
def test_margin_at_risk_is_exact(pairs: list[tuple[int, Decimal]]) -> None:
    p = pd.Series([millionths / 10**6 for millionths, _ in pairs], dtype="float64")
    amounts = pd.Series([amount for _, amount in pairs], dtype="object")
    exact = [
        (Decimal(millionths) / 10**6 * amount).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)
        for millionths, amount in pairs
    ]
    assert margin_at_risk(p, amounts).tolist() == exact


def test_a_loss_is_no_margin_at_risk() -> None:
    found = expected_margin(_customers((5, 400, 10, -500), (5, 400, 100, 30)), 90, 0.3)
    assert found["expected_margin_amount"].iloc[0] == 0
    assert found["expected_margin_amount"].iloc[1] >= 0


customers = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.integers(0, 3000),
        st.decimals(0, 10**6, places=4),
        st.none() | st.decimals(-1000, 10**6, places=4),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(customers, st.randoms(use_true_random=False))
def test_always_finite_never_negative_and_free_of_row_order(rows: list[Any], random: Any) -> None:
    frame = _customers(*rows)
    found = expected_margin(frame, 90, 0.3)
    assert all(a.is_finite() and a >= 0 for a in found["expected_margin_amount"])
    shuffled = expected_margin(frame.sample(frac=1, random_state=random.randint(0, 99)), 90, 0.3)
    pd.testing.assert_frame_equal(found, shuffled.sort_index())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40))
def test_more_orders_at_the_same_margin_an_order_are_worth_more(orders: int) -> None:
    rest = [(6, 700, 600, 180.0)] * 200
    fewer, more = expected_margin(
        _customers(
            (orders, 700, 100, 30 * orders), (orders + 1, 700, 100, 30 * orders + 30), *rest
        ),
        90,
        0.3,
    )["expected_margin_amount"].iloc[:2]
    assert more > fewer


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="needs margin_amount_365d"):
        expected_margin(_customers((1, 1, 1, 1)).drop(columns="margin_amount_365d"), 90, 0.3)
    with pytest.raises(ValueError, match="horizon must be positive"):
        expected_margin(_customers((1, 1, 1, 1)), 0, 0.3)
    with pytest.raises(ValueError, match="days_since_first_order must be known"):
        expected_margin(_customers((1, np.nan, 1, 1)), 90, 0.3)
    empty = expected_margin(_customers((1, 1, 1, 1)).iloc[:0], 90, 0.3)
    assert len(empty) == 0
