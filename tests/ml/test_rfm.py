"""RFM: the table covers every code once, ties share a score, versions mean something."""

from __future__ import annotations

import itertools
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import rfm
from ml.rfm import RFM_SEGMENTS, SEGMENT_OF_CODE, CutPoints, cut_points, rfm_segments


def _status(rows: list[tuple[int, int, float]]) -> pd.DataFrame:
    """Customers who bought, from (days since the last order, orders, revenue) of a year."""
    return pd.DataFrame(
        {
            "customer_key": [f"{i:032x}" for i in range(len(rows))],
            "lifecycle": ["active" if orders else "dormant" for _, orders, _ in rows],
            "days_since_last_order": [days for days, _, _ in rows],
            "order_count_365d": [orders for _, orders, _ in rows],
            "revenue_amount_365d": [Decimal(str(revenue)) for _, _, revenue in rows],
        }
    )


def test_the_eleven_segments_partition_the_125_codes() -> None:
    codes = {"".join(digits) for digits in itertools.product("12345", repeat=3)}
    listed = [code for text in rfm._CODES.values() for code in text.split()]
    assert len(RFM_SEGMENTS) == 11
    assert len(listed) == 125, "no code twice"
    assert set(listed) == codes, "and none missing"
    sizes = [len(rfm._CODES[name].split()) for name in RFM_SEGMENTS]
    assert sizes == [7, 8, 24, 7, 16, 8, 8, 22, 8, 11, 6]
    assert (SEGMENT_OF_CODE["555"], SEGMENT_OF_CODE["111"]) == ("Champions", "Lost")


def test_five_kinds_of_customers_get_five_scores() -> None:
    rows = [(10 * i, 6 - i, 100.0 * (6 - i)) for i in range(1, 6) for _ in range(4)]
    table = rfm_segments(_status(rows))
    assert list(table["rfm_code"].unique()) == ["555", "444", "333", "222", "111"]
    assert table["rfm_segment"].iloc[0] == "Champions"
    assert table["rfm_segment"].iloc[-1] == "Lost"


def test_prospects_have_a_lifecycle_and_no_score_and_the_dormant_have_the_lowest() -> None:
    status = _status([(5, 3, 30.0), (90, 1, 10.0), (500, 0, 0.0), (0, 0, 0.0)])
    status.loc[3, ["lifecycle", "days_since_last_order"]] = ["prospect", None]
    table = rfm_segments(status)
    assert list(table["lifecycle"]) == ["active", "active", "dormant", "prospect"]
    assert table["rfm_code"].iloc[2] == "111"
    assert table.iloc[3, 2:].isna().all()
    assert str(table["recency_score"].dtype) == "Int64"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 364), st.integers(1, 4), st.sampled_from([5.0, 9.99, 20.0])),
        min_size=1,
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
def test_equal_customers_share_a_score_and_better_ones_never_have_a_lower(
    rows: list[tuple[int, int, float]], random: object
) -> None:
    status = _status(rows)
    table = rfm_segments(status)
    for column, score, sign in (
        ("days_since_last_order", "recency_score", -1),
        ("order_count_365d", "frequency_score", 1),
        ("revenue_amount_365d", "monetary_score", 1),
    ):
        pairs = sorted(zip(sign * status[column].astype(float), table[score], strict=True))
        scores = [value for _, value in pairs]
        assert scores == sorted(scores)
        by_value = pd.DataFrame(pairs).groupby(0)[1].nunique()
        assert (by_value == 1).all()
        assert table[score].between(1, 5).all()
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    pd.testing.assert_frame_equal(rfm_segments(status.iloc[order]), table)


def test_one_set_of_cut_points_serves_many_days() -> None:
    rng = np.random.default_rng(2)
    draw = zip(rng.integers(0, 365, 500), rng.integers(1, 9, 500), rng.random(500), strict=True)
    status = _status([(int(d), int(o), round(float(r), 4)) for d, o, r in draw])
    points = cut_points(status)
    again = CutPoints.from_json(points.to_json())
    assert again == points
    assert again.version == points.version
    one_day_later = status.assign(days_since_last_order=status["days_since_last_order"] + 1)
    table = rfm_segments(one_day_later, points)
    assert set(table["rfm_version"]) == {points.version}
    assert cut_points(one_day_later).version != points.version
    same = rfm_segments(status.iloc[:1], points)
    pd.testing.assert_frame_equal(same, rfm_segments(status, points).iloc[:1])


def test_cut_points_are_values_that_occur() -> None:
    points = cut_points(_status([(d, 1, d + 0.1) for d in range(7)]))
    assert set(points.recency_days) <= set(range(7))
    assert points.frequency_order_count == (1, 1, 1, 1)


def test_a_shop_without_orders_has_cut_points_and_no_scores() -> None:
    status = _status([(0, 0, 0.0)]).assign(lifecycle="prospect", days_since_last_order=None)
    table = rfm_segments(status)
    assert table["rfm_segment"].isna().all()
    assert rfm_segments(status.iloc[:0]).empty


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="four ascending"):
        CutPoints((3, 2, 1, 0), (1, 1, 1, 1), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="revenue_amount_365d is null for 1 customers"):
        rfm_segments(
            _status([(1, 1, 1.0), (1, 1, 2.0)]).assign(revenue_amount_365d=[1.0, float("nan")])
        )
