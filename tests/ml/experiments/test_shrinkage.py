"""Priors, posteriors, pooled effects and adjusted p-values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ml.experiments.multiplicity import adjusted_p_values, non_inferiority
from ml.experiments.shrinkage import (
    STATED_PRIOR,
    NormalPrior,
    pool,
    posterior,
    prior_from_past,
)
from ml.experiments.two_sample import Effect, Sample, welch


def test_shrinkage_undoes_the_winners_curse() -> None:
    """Among noticed effects the posterior mean is right on average, the estimate far too large."""
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 0.3, 40_000)
    se = 0.3
    estimate = truth + rng.normal(0, se, len(truth))
    noticed = estimate > 1.96 * se
    shrunken = np.array([posterior(e, se, STATED_PRIOR).mean for e in estimate[noticed]])
    assert shrunken.mean() == pytest.approx(truth[noticed].mean(), abs=0.01)
    assert estimate[noticed].mean() > 1.8 * truth[noticed].mean()


def test_without_a_prior_the_estimate_stands() -> None:
    found = posterior(0.2, 0.1, None)
    assert (found.mean, found.sd) == pytest.approx((0.2, 0.1))
    assert found.chance_to_win == pytest.approx(stats.norm.cdf(2))
    assert found.risk_control - found.risk_treatment == pytest.approx(0.2)
    with pytest.raises(ValueError, match="standard error"):
        posterior(0.2, 0.0, None)
    with pytest.raises(ValueError, match="sd of a prior"):
        posterior(0.2, 0.1, NormalPrior(0.0, 0.0))


def test_past_campaigns_are_believed_above_ten() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(0.05, 0.04, 200)
    se = np.full(200, 0.05)
    seen = truth + rng.normal(0, 0.05, 200)
    assert prior_from_past(seen[:10], se[:10]) is STATED_PRIOR
    assert prior_from_past(seen[:11], se[:11]).source == "empirical_bayes"
    learned = prior_from_past(seen, se)
    assert learned.mean == pytest.approx(0.05, abs=0.012)
    assert learned.sd == pytest.approx(0.04, abs=0.01)
    alike = prior_from_past([0.1] * 12, [0.05] * 12)
    assert alike.sd == pytest.approx(0.05 / 12**0.5), "never 0, or nothing could be learned"


def test_small_campaigns_pooled_find_what_one_cannot() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(300):
        effects = rng.normal(0.02, 0.0118, 8)  # 10 % held out of 10,000, at a base of 15 %
        found = pool(effects, [0.0118] * 8)
        covered += found.low <= 0.02 <= found.high
    assert covered >= 270
    assert found.standard_error == pytest.approx(0.0118 / 8**0.5, rel=0.6)
    assert pool([0.3], [0.1]).effect == 0.3
    spread = pool([0.0, 1.0, 2.0], [0.01, 0.01, 0.01])
    assert spread.tau == pytest.approx(1.0, rel=1e-3)
    assert spread.i_squared > 0.99


def test_bad_effects_are_refused() -> None:
    for effects, errors in (([], []), ([0.1], [0.1, 0.2])):
        with pytest.raises(ValueError, match="one standard error per effect"):
            pool(effects, errors)
    with pytest.raises(ValueError, match="standard errors positive"):
        pool([0.1], [0.0])


def test_unknown_p_values_stay_unknown() -> None:
    assert adjusted_p_values([None, 0.01, 0.04, None]) == [None, 0.02, 0.04, None]
    assert adjusted_p_values([None, 0.04]) == [None, 0.04]
    assert adjusted_p_values([]) == []


def test_a_guardrail_is_harmless_only_if_harm_is_excluded() -> None:
    def effect(difference: float, n: int = 4_000) -> Effect:
        return welch(Sample(n, 10.0, 4.0), Sample(n, 10.0 + difference, 4.0))

    assert non_inferiority(effect(0.0), 0.2) == "non_inferior"
    assert non_inferiority(effect(-0.15), 0.2) == "inconclusive"
    assert non_inferiority(effect(-0.5), 0.2) == "inferior"
    assert non_inferiority(effect(0.5), 0.2, higher_is_better=False) == "inferior"
    assert non_inferiority(welch(Sample(1, 1, 1), Sample(1, 1, 1)), 0.2) == "inconclusive"
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(effect(0.0), 0.0)
