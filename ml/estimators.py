"""The few estimators that scikit-learn does not have, in its conventions.

Belongs here: classes that become part of a stored model. Each holds only plain numbers, tuples and
scikit-learn objects, because the registry stores models with skops and loads them from a list of
trusted types; a class added here must be reviewed and added to `ml.registry.TRUSTED_TYPES`.
Does not belong here: which of them form a candidate (ml.candidates).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from ml.features import feature_matrix


class SelectFeatures(TransformerMixin, BaseEstimator):
    """Take the named features from any frame, enforcing names, types and finiteness.

    The first step of every pipeline, so that a model can be given a published partition as it is
    and refuses one that breaks the contract, at training and at scoring alike.

    A feature without a single value in training (a shop that delivers no reviews) is 0 from then
    on: nothing was learnt about it, and histogram boosting cannot bin it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        """Check the frame and remember which features are empty."""
        self.is_empty_ = np.isnan(feature_matrix(X, self.names).to_numpy()).all(axis=0)
        self.n_features_in_ = len(self.names)
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Return an array of shape (rows, len(names))."""
        check_is_fitted(self)
        matrix = feature_matrix(X, self.names).to_numpy(copy=True)
        matrix[:, self.is_empty_] = 0.0
        return matrix

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Return the names in column order."""
        return np.asarray(self.names, dtype=object)


class SignedLog(TransformerMixin, BaseEstimator):
    """sign(x) * log(1 + |x|): tames the long tails of counts and amounts; NaN stays NaN."""

    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """There is nothing to learn."""
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the transformed array, same shape."""
        y = np.abs(X)
        np.log1p(y, out=y)  # in place: explaining a day transforms 100,000 rows
        return np.copysign(y, X, out=y)


class RecencyRule(ClassifierMixin, BaseEstimator):
    """The rule every shop knows: the longer the silence, the likelier the customer is gone.

    P(churn) = sigmoid(a + b * log(1 + days_since_last_order)) with b >= 0, two numbers fitted by
    maximum likelihood. It is the baseline that a model has to beat and the fallback if none does.
    """

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X: one column, days since the last order; y: 0/1."""
        days = np.asarray(X, dtype="float64").reshape(len(X), -1)
        if days.shape[1] != 1:
            raise ValueError(f"the recency rule takes one feature, got {days.shape[1]}")
        self.n_features_in_ = 1
        self.classes_ = np.array([0, 1])
        self.intercept_, self.slope_ = fit_monotone_line(np.log1p(days[:, 0]), np.asarray(y))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return an array of shape (rows, 2): P(stays), P(churns)."""
        check_is_fitted(self)
        days = np.asarray(X, dtype="float64").reshape(len(X), -1)[:, 0]
        return _two_columns(sigmoid(self.intercept_ + self.slope_ * np.log1p(days)))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return 1 where P(churn) >= 0.5."""
        return (self.predict_proba(X)[:, 1] >= 0.5).astype(int)


class CalibratedOnLaterSnapshots(ClassifierMixin, BaseEstimator):
    """A pipeline fitted on earlier snapshots, its log-odds re-scaled on later ones.

    Platt scaling on log-odds: P = sigmoid(a + b * logit(p)), b >= 0 (Platt 1999; on log-odds it is
    the logistic recalibration of Cox 1958, with the identity a = 0, b = 1 inside the family). Two
    parameters, because later snapshots are few and isotonic steps would tie customers that the
    pipeline tells apart. scikit-learn's CalibratedClassifierCV splits rows at random or needs a
    frozen estimator of its own; neither states that calibration is later than the fit.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(
        self, X: pd.DataFrame, y: np.ndarray, X_later: pd.DataFrame, y_later: np.ndarray
    ) -> Self:
        """Fit a clone of the pipeline on (X, y), then a and b on (X_later, y_later).

        The caller answers for time: every snapshot of X_later is later than every one of X.
        """
        self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = np.array([0, 1])
        if not np.array_equal(self.estimator_.classes_, self.classes_):
            raise ValueError("training labels must hold both classes, 0 and 1")
        later = logit(self.estimator_.predict_proba(X_later)[:, 1])
        self.intercept_, self.slope_ = fit_monotone_line(later, np.asarray(y_later))
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """Return an array of shape (rows, 2): P(stays), P(churns)."""
        check_is_fitted(self)
        raw = logit(self.estimator_.predict_proba(X)[:, 1])
        return _two_columns(sigmoid(self.intercept_ + self.slope_ * raw))

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Return 1 where P(churn) >= 0.5."""
        return (self.predict_proba(X)[:, 1] >= 0.5).astype(int)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow at either end."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def logit(p: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) with p clipped to [1e-6, 1 - 1e-6], the resolution of a published score."""
    clipped = np.clip(np.asarray(p, dtype="float64"), 1e-6, 1 - 1e-6)
    return np.log(clipped) - np.log1p(-clipped)


def fit_monotone_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return (a, b), b >= 0, maximising the likelihood of y ~ Bernoulli(sigmoid(a + b x)).

    Newton's method with Platt's smoothed targets (n1 + 1)/(n1 + 2) and 1/(n0 + 2), which keep the
    parameters finite on separable data. If the free slope is negative, x carries no risk
    information of the expected sign: b = 0 and a is the log-odds of the base rate.
    """
    x = np.asarray(x, dtype="float64")
    y = np.asarray(y)
    positive = int((y == 1).sum())
    negative = len(y) - positive
    target = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    base = float(np.log(target.mean() / (1 - target.mean())))
    centre, scale = float(x.mean()), float(x.std())
    if scale <= 1e-12 * max(1.0, abs(centre)):  # one value, up to the rounding of its mean
        return base, 0.0
    z = (x - centre) / scale
    a, b = base, 0.0
    for _ in range(100):
        p = sigmoid(a + b * z)
        w = np.maximum(p * (1 - p), 1e-12)
        gradient = np.array([(target - p).sum(), ((target - p) * z).sum()])
        hessian = np.array([[w.sum(), (w * z).sum()], [(w * z).sum(), (w * z * z).sum()]])
        step = np.linalg.solve(hessian, gradient)
        step *= min(
            1.0, 4.0 / max(float(np.abs(step).max()), 1e-300)
        )  # damped far from the optimum
        a, b = a + float(step[0]), b + float(step[1])
        if np.abs(step).max() < 1e-10:
            break
    if b <= 0:
        return base, 0.0
    return a - b * centre / scale, b / scale


def _two_columns(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1.0 - p, p])
