"""Our estimators: monotone, finite, calibrated on what comes later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data
from training_world import fitted, small_recipes, training_frame

from ml.candidates import candidates
from ml.estimators import (
    CalibratedOnLaterSnapshots,
    LogOddsAverage,
    RecencyRule,
    SelectFeatures,
    SignedLog,
    cross_fitted,
    fit_monotone_line,
    logit,
    pool_weights,
    pooled,
    sigmoid,
)
from ml.features import FEATURES, FeatureError


def _line(n: int, a: float, b: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=n)
    return x, (random.random(n) < sigmoid(a + b * x)).astype(int)


def test_monotone_line_is_the_maximum_likelihood_fit() -> None:
    x, y = _line(5000, -0.7, 1.3)
    reference = LogisticRegression(C=np.inf).fit(x[:, None], y)
    a, b = fit_monotone_line(x, y)
    assert a == pytest.approx(reference.intercept_[0], abs=2e-3)
    assert b == pytest.approx(reference.coef_[0, 0], abs=5e-3)


def test_a_negative_slope_becomes_the_base_rate() -> None:
    x, y = _line(2000, 0.5, -1.0)
    a, b = fit_monotone_line(x, y)
    assert b == 0
    assert sigmoid(np.array([a]))[0] == pytest.approx(y.mean(), abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 1)), min_size=1, max_size=40))
def test_monotone_line_is_always_finite(rows: list[tuple[float, int]]) -> None:
    x, y = map(np.array, zip(*rows, strict=True))
    a, b = fit_monotone_line(x, y)
    assert np.isfinite([a, b]).all()
    assert b >= 0


def test_recency_rule_rises_with_silence() -> None:
    random = np.random.default_rng(1)
    days = random.integers(0, 180, 4000)
    y = (random.random(4000) < days / 200).astype(int)
    rule = RecencyRule().fit(days[:, None], y)
    p = rule.predict_proba(np.arange(180)[:, None])[:, 1]
    assert (np.diff(p) > 0).all()
    assert rule.predict_proba(days[:, None])[:, 1].mean() == pytest.approx(y.mean(), abs=1e-3)
    with pytest.raises(ValueError, match="one feature"):
        RecencyRule().fit(np.zeros((4, 2)), np.array([0, 1, 0, 1]))


def test_signed_log_is_odd_and_keeps_missing() -> None:
    out = SignedLog().fit_transform(np.array([[-np.e + 1, 0, np.e - 1, np.nan]]))
    assert out[0, :3].tolist() == pytest.approx([-1, 0, 1])
    assert np.isnan(out[0, 3])


def test_features_empty_in_training_stay_out_for_good() -> None:
    frame = training_frame(customers=50, snapshots=2)
    select = SelectFeatures(FEATURES).fit(frame)
    later = frame.assign(last_rating=1.0)
    assert (select.transform(later)[:, FEATURES.index("last_rating")] == 0).all()
    assert np.isnan(select.transform(frame)).any()  # other missing values are the model's business


def test_calibration_is_on_predictions_of_strangers() -> None:
    """Rows of one customer are in one fold, so no pipeline has seen whom it calibrates."""
    frame = training_frame(customers=400, snapshots=4)
    days = sorted(frame["snapshot_date"].unique())
    later = frame[frame["snapshot_date"] >= days[2]]
    shifted = later.assign(is_churned=np.maximum(later["is_churned"], later.index % 2))

    def fit(rows: pd.DataFrame) -> CalibratedOnLaterSnapshots:
        recipe, y = candidates(1)["logistic_rfm"], frame["is_churned"].to_numpy()
        fold, fold_later = frame["customer_key"] < "8", rows["customer_key"] < "8"
        p = cross_fitted(recipe, frame, y, fold.to_numpy(), rows, fold_later.to_numpy())
        stranger = clone(recipe).fit(frame[~fold], y[~fold]).predict_proba(rows[fold_later])
        assert np.array_equal(p[fold_later], stranger[:, 1])
        model = CalibratedOnLaterSnapshots(recipe)
        return model.fit(frame, y, p, rows["is_churned"].to_numpy())

    plain, moved = fit(later), fit(shifted)
    before = plain.estimator_.predict_proba(later)
    assert np.array_equal(before, moved.estimator_.predict_proba(later))
    for model, rows in ((plain, later), (moved, shifted)):
        mean = model.predict_proba(rows)[:, 1].mean()
        assert mean == pytest.approx(rows["is_churned"].mean(), abs=2e-2)
    # calibration never changes the order
    order = np.argsort(before[:, 1], kind="stable")
    assert (np.diff(plain.predict_proba(later)[order, 1]) >= 0).all()


@pytest.mark.filterwarnings("ignore:Using the fractional value")
def test_one_class_is_refused() -> None:
    frame = training_frame(customers=30, snapshots=1)
    zeros = np.zeros(len(frame), dtype=int)
    model = CalibratedOnLaterSnapshots(small_recipes()["random_forest"])
    with pytest.raises(ValueError, match="both classes"):
        model.fit(frame, zeros, np.full(len(frame), 0.5), zeros)


@pytest.mark.parametrize("name", list(small_recipes()))
def test_every_candidate_refuses_a_frame_that_breaks_the_contract(name: str) -> None:
    frame = training_frame(customers=60, snapshots=1)
    pipeline = fitted(name, frame)
    assert pipeline.predict_proba(frame).shape == (len(frame), 2)
    with pytest.raises(FeatureError, match=r"days_since_last_order: .* not finite"):
        pipeline.predict_proba(frame.assign(days_since_last_order=np.inf))
    with pytest.raises(FeatureError, match="days_since_last_order: is missing"):
        pipeline.predict_proba(frame.drop(columns="days_since_last_order"))


def test_no_candidate_splits_rows_by_itself() -> None:
    for pipeline in candidates(1).values():
        assert getattr(pipeline.steps[-1][1], "early_stopping", False) is False
        assert getattr(pipeline.steps[-1][1], "n_jobs", None) in (None, 1)


def test_logit_and_sigmoid_are_inverse_and_never_overflow() -> None:
    p = np.array([0.0, 1e-6, 0.2, 0.9, 1.0])
    assert sigmoid(logit(p)) == pytest.approx([1e-6, 1e-6, 0.2, 0.9, 1 - 1e-6])
    assert sigmoid(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]


def test_pool_weights_find_the_mixture_and_stay_on_the_simplex() -> None:
    random = np.random.default_rng(1)
    truth, noise = random.normal(size=(2, 20_000))
    y = (random.random(20_000) < sigmoid(truth)).astype(int)
    parts = sigmoid(np.column_stack([truth, noise]))
    weights = pool_weights(parts, y)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert 0.72 < weights[0] <= 0.75  # the second part knows nothing: halfway to all
    twice = pool_weights(parts[:, [0, 0]], y)
    assert twice == pytest.approx([0.5, 0.5])
    assert pooled(parts, [1.0, 0.0]) == pytest.approx(parts[:, 0], abs=1e-6)


def test_an_average_needs_as_many_weights_as_parts() -> None:
    part = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    for weights in ([1.0], [1.5, -0.5], [0.2, 0.2]):
        with pytest.raises(ValueError, match="need as many weights"):
            LogOddsAverage(weights=weights).of([part, part])


class _OneColumn(RecencyRule):
    """The rule on the first of any columns: scikit-learn's checks bring matrices of any shape."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> _OneColumn:
        X, y = validate_data(self, X, y, dtype="float64")
        RecencyRule.fit(self, X[:, :1], y)
        self.n_features_in_ = X.shape[1]
        return self


@parametrize_with_checks([_OneColumn(), SignedLog(), LogOddsAverage()])
def test_our_estimators_are_scikit_learn_estimators(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]
