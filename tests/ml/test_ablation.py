"""Every kind of model is ablated as a copy of all rows per group would have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from training_world import fitted, training_frame

from ml.ablation import ablated, by_copies
from ml.boosting import BoostingClassifier, leaf_sets
from ml.estimators import CalibratedOnLaterSnapshots, LogOddsAverage
from ml.features import INPUTS, feature_matrix
from ml.reasons import columns_of
from ml.survival import DiscreteTimeSurvival

RECIPES = ("logistic_all", "logistic_rfm", "hist_gradient_boosting", "buy_till_you_die", "survival")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return training_frame(customers=250, snapshots=3)


@pytest.fixture(scope="module")
def parts(frame: pd.DataFrame) -> dict[str, Any]:
    return {name: fitted(name, frame) for name in RECIPES}


@pytest.mark.parametrize("recipe", [*RECIPES, "average, calibrated"])
def test_as_copies_have_it(recipe: str, parts: dict[str, Any], frame: pd.DataFrame) -> None:
    if recipe in parts:
        model = parts[recipe]
    else:
        average = LogOddsAverage([(name, parts[name]) for name in RECIPES[2:]], [0.2, 0.3, 0.5]).of(
            [parts[name] for name in RECIPES[2:]]
        )
        model = CalibratedOnLaterSnapshots(average).calibrate(
            average, np.linspace(0.1, 0.9, 300), (np.arange(300) > 150).astype(int)
        )
    matrix = feature_matrix(frame, INPUTS)[:400]
    typical = matrix.median().to_numpy(copy=True)
    typical[INPUTS.index("gap_median_days")] = np.nan
    groups = columns_of(INPUTS)
    found = ablated(model, matrix, groups, typical)
    expected = by_copies(model.predict_proba, matrix, groups, typical)
    assert found.shape == (len(groups) + 1, 400)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.ptp(expected, axis=0).max() > 0.05  # there is something to see


@pytest.mark.parametrize("season", [None, 1])
def test_survival_of_any_columns(season: int | None) -> None:
    """Groups in any order, with an empty one, and one that holds the season itself."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(1_500, 4))
    X[:, 1] = rng.uniform(0, 366, 1_500)
    X[rng.random(X.shape) < 0.1] = np.nan
    y = (np.nan_to_num(X[:, 0]) - np.nan_to_num(X[:, 3]) + rng.normal(size=1_500) > 0).astype(int)
    model = DiscreteTimeSurvival(
        BoostingClassifier(max_iter=20, early_stopping=False, random_state=0), (90,), season
    ).fit(X, y)
    assert leaf_sets(model.hazard_) is not None
    typical = np.array([0.5, 180.0, np.nan, -1.0])
    for groups in ([[3], [], [0, 2]], [[1], [0]], []):
        found = ablated(model, X, groups, typical)
        expected = by_copies(model.predict_proba, X, groups, typical)
        np.testing.assert_array_equal(found, expected)


def test_leaf_sets_of_a_hazard_change_no_digit() -> None:
    """All periods at once, against a hazard that walks its trees, a period at a time."""
    frame = training_frame(customers=250, snapshots=3)
    looking = fitted("survival", frame)
    X = looking[0].transform(frame)
    survival = looking[-1]
    before = survival.predict_survival(X)
    hazard = survival.hazard_
    assert isinstance(hazard, BoostingClassifier)
    walking = HistGradientBoostingClassifier()
    walking.__dict__.update(hazard.__dict__)
    survival.hazard_ = walking
    np.testing.assert_array_equal(before, survival.predict_survival(X))
