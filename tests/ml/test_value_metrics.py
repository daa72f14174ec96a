"""Formulas of value: level, order, deviance, coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_tweedie_deviance

from ml.value_metrics import (
    aggregate_bias,
    deciles,
    deviances,
    is_covered,
    normalised_gini,
    resampled,
)


def test_bias_is_of_the_sum() -> None:
    assert aggregate_bias(np.array([0.0, 10.0]), np.array([6.0, 5.0])) == pytest.approx(0.1)
    assert np.isnan(aggregate_bias(np.zeros(2), np.ones(2)))


@pytest.mark.parametrize("power", [1, 1.5])
def test_deviance_is_scikit_learns(power: float) -> None:
    random = np.random.default_rng(1)
    y, mu = random.poisson(1, 200).astype(float), random.gamma(2, 1, 200) + 0.01
    expected = mean_tweedie_deviance(y, mu, power=power)
    assert deviances(y, mu, power).mean() == pytest.approx(expected)
    true = random.poisson(mu).astype(float)
    assert deviances(true, mu, power).mean() < deviances(true, mu * 1.5, power).mean()
    with pytest.raises(ValueError, match=r"within \[1, 2\)"):
        deviances(y, mu, 2.5)


def test_gini_by_hand() -> None:
    y = np.array([6.0, 3.0, 1.0])
    # cumulative gains .6 .9 1: area (.3 + .75 + .95) / 3, twice less 1
    assert normalised_gini(y, y) == 1
    assert normalised_gini(y, -y) == pytest.approx(-1)
    assert normalised_gini(y, np.ones(3)) == pytest.approx(0)
    assert normalised_gini(y, np.array([1.0, 2.0, 2.0])) == pytest.approx(
        (2 * (0.1 + 0.3 + 0.7) / 3 - 1) / (2 * 2 / 3 - 1)
    )
    assert np.isnan(normalised_gini(np.zeros(3), y))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=2, max_size=30),
    st.randoms(use_true_random=False),
)
def test_gini_does_not_depend_on_the_order_of_rows(rows, random) -> None:  # type: ignore[no-untyped-def]
    y, p = map(np.array, zip(*rows, strict=True))
    order = list(range(len(rows)))
    random.shuffle(order)
    here, there = normalised_gini(y, p), normalised_gini(y[order], p[order])
    assert here == pytest.approx(there, nan_ok=True)
    assert np.isnan(here) or -1 - 1e-9 <= here <= 1 + 1e-9


def test_coverage_holds_the_ends() -> None:
    y = np.array([0.0, 1.0, 2.0, 3.0])
    inside = is_covered(y, np.zeros(4), np.array([0.0, 1.0, 1.0, 1.0]))
    assert inside.tolist() == [True, True, False, False]


def test_deciles_hold_everybody_once() -> None:
    y = np.arange(25.0)
    table = deciles(y, y)
    assert table["customer_count"].sum() == 25
    assert (table["customer_count"] * table["actual_mean"]).sum() == pytest.approx(y.sum())
    assert table["expected_mean"].is_monotonic_decreasing
    assert len(deciles(y[:3], y[:3])) == 3


def test_resamples_scatter_about_the_estimate() -> None:
    y = np.random.default_rng(2).gamma(1, 1, 500)
    keys = pd.Series([f"{i:03}" for i in range(500)])
    draws = resampled(aggregate_bias, (y, np.ones(500)), keys, 200, 3)
    assert draws.mean() == pytest.approx(aggregate_bias(y, np.ones(500)), abs=0.02)
    assert 0.02 < draws.std() < 0.08
    assert np.array_equal(draws, resampled(aggregate_bias, (y, np.ones(500)), keys, 200, 3))
    # the same customers on four days are no four times as many
    four = resampled(aggregate_bias, (np.tile(y, 4), np.ones(2000)), pd.concat([keys] * 4), 200, 3)
    assert four == pytest.approx(draws)
