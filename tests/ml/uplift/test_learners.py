"""Learners find an effect that is there, none where there is none, whatever the propensities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression

from ml.uplift.learners import (
    DRLearner,
    SLearner,
    TLearner,
    UpliftLearner,
    XLearner,
    cross_fitted_scores,
    hash_folds,
)
from ml.uplift.training import learners, scaled

LINEAR: dict[str, UpliftLearner] = {
    "s": SLearner(LinearRegression()),
    "t": TLearner(LinearRegression()),
    "x": XLearner(LinearRegression(), LinearRegression()),
    "dr": DRLearner(LinearRegression(), LinearRegression()),
}


def world(
    n: int, seed: int, propensity: np.ndarray | float = 0.5, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """X, outcome, treatment, propensity and the true effect 1 + 2 x_0."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, 3))
    p = np.broadcast_to(propensity, (n,)).astype(float)
    t = (random.random(n) < p).astype(float)
    effect = 1 + 2 * X[:, 0]
    y = 3 * X[:, 1] + t * effect + noise * random.normal(size=n)
    return X, y, t, p, effect


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_effects_are_found_at_any_propensity(name: str, share: float) -> None:
    """Pitfall 9: nothing assumes that half are treated, as class transformation does."""
    X, y, t, p, effect = world(6000, 1, share)
    found = clone(LINEAR[name]).fit(X, y, treatment=t, propensity=p).predict(X)
    assert found.mean() == pytest.approx(effect.mean(), abs=0.15)
    assert np.corrcoef(found, effect)[0, 1] > 0.99


@pytest.mark.parametrize("name", LINEAR)
def test_without_noise_the_effect_is_exact(name: str) -> None:
    X, y, t, p, effect = world(400, 2, noise=0.0)
    found = clone(LINEAR[name]).fit(X, y, treatment=t, propensity=p).predict(X)
    assert found == pytest.approx(effect, abs=1e-8)


def test_doubly_robust_holds_where_the_outcome_models_fail() -> None:
    """Outcome models of a constant, treatment by x: the known propensity alone must carry it."""
    random = np.random.default_rng(3)
    n = 40_000
    x = random.normal(size=n)
    p = 1 / (1 + np.exp(-x))
    t = (random.random(n) < p).astype(float)
    y = 2 * x + t * 1.0 + random.normal(size=n)
    from sklearn.dummy import DummyRegressor

    learner = DRLearner(DummyRegressor(), LinearRegression())
    found = learner.fit(x[:, None], y, treatment=t, propensity=p).predict(x[:, None])
    assert found.mean() == pytest.approx(1.0, abs=0.1)
    naive = TLearner(DummyRegressor())
    wrong = naive.fit(x[:, None], y, treatment=t, propensity=p).predict(x[:, None])
    assert wrong.mean() > 2


def test_an_s_learner_without_products_would_rank_nobody() -> None:
    X, y, t, p, effect = world(3000, 4)
    plain = LinearRegression().fit(np.column_stack([X, t]), y)
    difference = plain.predict(np.column_stack([X, t * 0 + 1])) - plain.predict(
        np.column_stack([X, t * 0])
    )
    assert np.ptp(difference) < 1e-9
    found = clone(LINEAR["s"]).fit(X, y, treatment=t, propensity=p).predict(X)
    assert np.corrcoef(found, effect)[0, 1] > 0.99


@pytest.mark.parametrize("name", ["s_learner", "t_learner", "x_learner", "dr_learner"])
def test_binary_outcomes_with_gaps_in_the_features(name: str) -> None:
    random = np.random.default_rng(5)
    n = 20_000
    X = random.normal(size=(n, 3))
    t = (random.random(n) < 0.5).astype(float)
    y = (random.random(n) < 0.2 + 0.2 * t * (X[:, 0] > 0)).astype(float)
    X[random.random((n, 3)) < 0.1] = np.nan
    learner = learners(scaled(), is_binary=True)[name]
    found = learner.fit(X, y, treatment=t, propensity=0.5).predict(X)
    assert np.isfinite(found).all()
    assert found.mean() == pytest.approx(0.1, abs=0.03)
    assert found[X[:, 0] > 0.5].mean() > found[X[:, 0] < -0.5].mean() + 0.05


def test_scikit_learn_conventions() -> None:
    learner = DRLearner(LogisticRegression(C=0.1), LinearRegression(), prepare=scaled())
    assert learner.get_params()["estimator__C"] == 0.1
    copy = clone(learner).set_params(estimator__C=2.0)
    assert (copy.estimator.C, learner.estimator.C) == (2.0, 0.1)
    with pytest.raises(ValueError, match="not fitted"):
        learner.predict(np.zeros((2, 3)))


def test_an_arm_with_one_outcome_is_refused() -> None:
    X, t = np.zeros((6, 1)), [1, 1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="the control holds one outcome"):
        TLearner(LogisticRegression()).fit(X, [1, 0, 1, 0, 0, 0], treatment=t, propensity=0.5)


def test_folds_are_the_units_own() -> None:
    units = pd.Series([f"c{i % 700}" for i in range(2100)])
    folds = hash_folds(units, 5, "salt")
    assert pd.Series(folds).groupby(units).nunique().eq(1).all()
    assert (folds[:700] == hash_folds(units[:700], 5, "salt")).all()  # nobody moves another
    assert np.bincount(folds).min() > 2100 / 5 * 0.8
    with pytest.raises(ValueError, match="two folds"):
        hash_folds(units, 1, "salt")


def test_a_score_has_not_seen_its_own_unit() -> None:
    """One unit's outcome moves the scores of others, and not its own."""
    X, y, t, p, _ = world(400, 6)
    units = pd.Series([f"c{i}" for i in range(400)])
    before = cross_fitted_scores(LINEAR["t"], X, y, t, p, units)
    y[7] += 1000
    after = cross_fitted_scores(LINEAR["t"], X, y, t, p, units)
    own = hash_folds(units, 5, "uplift") == hash_folds(units, 5, "uplift")[7]
    assert (before[own] == after[own]).all()
    assert (before[~own] != after[~own]).all()


@pytest.mark.parametrize("name", LINEAR)
def test_the_order_of_rows_changes_no_digit(name: str) -> None:
    X, y, t, p, _ = world(500, 7)
    units = pd.Series([f"c{i}" for i in range(500)])
    new = np.random.default_rng(8).permutation(500)
    scores = cross_fitted_scores(LINEAR[name], X, y, t, p, units)
    again = cross_fitted_scores(
        LINEAR[name], X[new], y[new], t[new], p[new], units[new].reset_index(drop=True)
    )
    assert again == pytest.approx(scores[new], abs=1e-12)
