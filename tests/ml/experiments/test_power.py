"""Power and sample size against statsmodels, G*Power's numbers and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from statsmodels.stats.power import NormalIndPower

from ml.experiments.power import (
    achieved_power,
    exaggeration,
    minimum_detectable_effect,
    sample_factor,
    sample_size,
    standard_error,
    wrong_decision,
    wrong_sign,
)
from ml.experiments.shrinkage import NormalPrior


def test_sample_sizes_known_from_elsewhere() -> None:
    # mde .3, variance 100, power .85; statsmodels says 39,903.9 in all.
    assert sum(sample_size(0.3, 100, 100, power=0.85)) == pytest.approx(39_904, abs=2)
    # 5 % -> 6 %, 10 % -> 12 %, per arm, unpooled.
    assert sample_size(0.01, 0.05 * 0.95, 0.06 * 0.94) == (8_155, 8_155)
    assert sample_size(0.02, 0.1 * 0.9, 0.12 * 0.88)[0] == pytest.approx(3_839, abs=1)


def test_minimum_detectable_effects_of_the_quick_table() -> None:
    visit = 0.106 * 0.894
    assert minimum_detectable_effect(standard_error(visit, 5_000, visit, 5_000)) == pytest.approx(
        0.0173, abs=1e-4
    )
    holdout = 0.15 * 0.85
    assert minimum_detectable_effect(standard_error(holdout, 9_000, holdout, 1_000)) == (
        pytest.approx(0.033, abs=5e-4)
    )


@given(st.floats(0.01, 1.0), st.integers(20, 5_000), st.floats(0.2, 5.0))
def test_power_equals_statsmodels(effect: float, n: int, ratio: float) -> None:
    treated = max(1, round(n * ratio))
    ours = achieved_power(effect, standard_error(1.0, n, 1.0, treated))
    theirs = NormalIndPower().power(effect, n, 0.05, treated / n)
    assert ours == pytest.approx(theirs, abs=1e-9)


@given(st.floats(0.05, 2.0), st.floats(0.1, 50.0), st.floats(0.5, 0.95))
def test_size_effect_and_power_are_inverse(effect: float, variance: float, power: float) -> None:
    control, treated = sample_size(effect, variance, variance, power=power)
    se = standard_error(variance, control, variance, treated)
    assert minimum_detectable_effect(se, power=power) <= effect * (1 + 1e-9)
    assert achieved_power(effect, se) >= power - 1e-9


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="both arms"):
        standard_error(1.0, 0, 1.0, 5)
    with pytest.raises(ValueError, match="effect of zero"):
        sample_size(0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="alpha"):
        achieved_power(0.1, 1.0, alpha=1.5)
    with pytest.raises(ValueError, match="positive"):
        achieved_power(0.1, math.nan)


def test_the_winners_curse_is_as_measured() -> None:
    # E|estimate| / true given significance, from simulation.
    for power, expected in ((0.2, 2.25), (0.5, 1.41), (0.8, 1.13)):
        effect = float(brentq(lambda e, p=power: achieved_power(e, 1.0) - p, 0.1, 5.0))
        assert exaggeration(effect, 1.0) == pytest.approx(expected, abs=0.012)


def test_the_chance_of_a_wrong_decision_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(4)
    se, prior, least = 0.8, NormalPrior(0.1, 1.0), 1.5
    truth = rng.normal(prior.mean, prior.sd, 1_000_000)
    acted = truth + rng.normal(0, se, len(truth)) > 1.959964 * se
    wrong = (acted & (truth <= 0)) | (~acted & (truth >= least))
    assert wrong_decision(se, prior, least) == pytest.approx(wrong.mean(), abs=1e-3)
    assert wrong_decision(0.05, prior, least) < 0.01


def test_how_much_more_sample_is_needed() -> None:
    assert sample_factor(2.0, 1.0) == pytest.approx(2.8016**2 / 4, rel=1e-4)
    assert sample_factor(minimum_detectable_effect(0.7), 0.7) == pytest.approx(1)
    with pytest.raises(ValueError, match="effect of zero"):
        sample_factor(0.0, 1.0)
    with pytest.raises(ValueError, match="effect of zero"):
        exaggeration(0.0, 1.0)
    with pytest.raises(ValueError, match="sd of a prior"):
        wrong_decision(1.0, NormalPrior(0.0, 0.0), 1.0)


def test_the_chance_of_a_wrong_sign_is_the_published_one() -> None:
    # Gelman & Carlin 2014, their two examples: (effect, se, power, type S error)
    for effect, se, power, wrong in ((0.1, 3.28, 0.05, 0.46), (2.0, 8.1, 0.06, 0.24)):
        assert achieved_power(effect, se) == pytest.approx(power, abs=0.005)
        assert wrong_sign(effect, se) == pytest.approx(wrong, abs=0.005)
    assert wrong_sign(2.8, 1.0) < 1e-5
    with pytest.raises(ValueError, match="no sign"):
        wrong_sign(0.0, 1.0)
