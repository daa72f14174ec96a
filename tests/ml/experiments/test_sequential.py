"""Boundaries and sequences: exact probabilities, simulated looks, and what naive peeking does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ml.experiments.sequential import (
    boundaries,
    confidence_sequence,
    crossing_probability,
    sample_inflation,
    sequence_rho,
    spent_alpha,
    stagewise_p_value,
)

LOOKS = [i / 14 for i in range(1, 15)]


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock", "power"])
def test_the_error_over_all_looks_is_alpha(spending: str) -> None:
    bounds = boundaries(LOOKS, 0.05, spending)  # type: ignore[arg-type]
    assert crossing_probability(LOOKS, bounds) == pytest.approx(0.05, abs=1e-9)
    uneven = [0.1, 0.15, 0.6, 0.61, 1.0]
    bounds = boundaries(uneven, 0.01, spending)  # type: ignore[arg-type]
    assert crossing_probability(uneven, bounds) == pytest.approx(0.01, abs=1e-9)


def test_one_look_is_the_fixed_test() -> None:
    assert boundaries([1.0]) == pytest.approx([1.959964], abs=1e-6)
    assert stagewise_p_value([1.0], [], 2.5) == pytest.approx(2 * stats.norm.sf(2.5))
    assert crossing_probability([1.0], [1.959964], 2.8016) == pytest.approx(0.8, abs=1e-4)


def test_more_came_in_than_was_planned() -> None:
    """Alpha is spent by the plan, correlations follow what was in."""
    bounds = boundaries([0.5, 1.0], information=[500, 1_300])
    assert crossing_probability([500, 1_300], bounds) == pytest.approx(0.05, abs=1e-9)
    assert bounds[1] > boundaries([0.5, 1.0])[1] - 0.05


def test_the_price_of_looking() -> None:
    # facts 1.6 say 1.18 for 14 looks from the final z alone; the exact power asks for less.
    assert sample_inflation(LOOKS, "power") == pytest.approx(1.087, abs=2e-3)
    assert sample_inflation(LOOKS) == pytest.approx(1.059, abs=2e-3)
    assert sample_inflation([1.0]) == pytest.approx(1, abs=1e-4), "the wrong tail is counted"
    drift = 2.8016 * sample_inflation(LOOKS) ** 0.5
    found = crossing_probability(LOOKS, boundaries(LOOKS), drift)
    assert found == pytest.approx(0.8, abs=1e-4)


def test_a_stagewise_p_value_agrees_with_its_boundary() -> None:
    bounds = boundaries(LOOKS)
    for look in (5, 9, 14):
        p_value = stagewise_p_value(LOOKS[:look], bounds[: look - 1], bounds[look - 1])
        assert p_value == pytest.approx(spent_alpha(LOOKS[look - 1], 0.05), abs=1e-9)


def test_fourteen_looks_at_nothing() -> None:
    """14 looks of 500 per arm under no effect: the methods hold 5 %, naive peeking does not."""
    rng = np.random.default_rng(1)
    runs, per_look = 20_000, 500
    # The difference of two means of unit variance after each look, as a sum of increments.
    steps = rng.normal(0, (2 / per_look) ** 0.5, (runs, 14))
    looks = np.arange(1, 15)
    effect = np.cumsum(steps, axis=1) / looks
    se = (2 / (per_look * looks)) ** 0.5
    z = effect / se
    low, high = stats.binom.interval(0.999, runs, 0.05)
    for spending in ("obrien_fleming", "pocock", "power"):
        bounds = np.array(boundaries(LOOKS, 0.05, spending))  # type: ignore[arg-type]
        assert low <= (np.abs(z) >= bounds).any(axis=1).sum() <= high
    half = np.array(
        [
            confidence_sequence(0.0, s, int(n), 5_000)[1]
            for s, n in zip(se, 1_000 * looks, strict=True)
        ]
    )
    assert (np.abs(effect) > half).any(axis=1).mean() < 0.02, "valid for looks without end"
    naive = (np.abs(z) > 1.959964).any(axis=1).mean()
    assert naive == pytest.approx(0.217, abs=0.012), "the test must see a wrong method"


def test_the_sequence_is_tightest_near_its_plan() -> None:
    def half(planned: int) -> float:
        return confidence_sequence(0.0, 1.0, 6_461, planned)[1]

    assert half(6_461) < half(10_000) < half(10)
    assert sequence_rho(5_000) == pytest.approx(0.03984006677)
    low, high, p_value = confidence_sequence(5.0, 1.0, 1_000, 1_000)
    assert low > 0
    assert p_value < 0.05
    assert confidence_sequence(0.1, 1.0, 1_000, 1_000)[2] == 1
    # The interval and the p-value say the same: at the edge p is alpha.
    edge = confidence_sequence(0.0, 1.0, 1_000, 1_000)[1]
    assert confidence_sequence(edge, 1.0, 1_000, 1_000)[2] == pytest.approx(0.05)
    assert high > low


def test_nonsense_is_refused() -> None:
    for looks in ([], [0.0, 1.0], [0.5, 0.5], [1.0, 0.5]):
        with pytest.raises(ValueError, match="rising information"):
            boundaries(looks)
    with pytest.raises(ValueError, match="alpha"):
        boundaries([1.0], 1.5)
    with pytest.raises(ValueError, match="unknown spending"):
        boundaries([1.0], 0.05, "linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counted from 1"):
        confidence_sequence(0.0, 1.0, 0, 100)
    assert spent_alpha(0.0, 0.05) == 0.0
    assert boundaries([0.01, 1.0])[0] == 8.0, "next to nothing is spent there"
