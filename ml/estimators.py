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
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

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
        validate_data(self, X, ensure_all_finite="allow-nan")
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the transformed array, same shape."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="float64", ensure_all_finite="allow-nan", reset=False)
        y = np.abs(X)
        np.log1p(y, out=y)  # in place: explaining a day transforms 100,000 rows
        return np.copysign(y, X, out=y)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X may hold NaN."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class RecencyRule(ClassifierMixin, BaseEstimator):
    """The rule every shop knows: the longer the silence, the likelier the customer is gone.

    P(churn) = sigmoid(a + b * log(1 + days_since_last_order)) with b >= 0, two numbers fitted by
    maximum likelihood. It is the baseline that a model has to beat and the fallback if none does.
    """

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X: one column, days since the last order; y: two classes, the greater one churned."""
        X, y = validate_data(self, X, y, dtype="float64")
        if X.shape[1] != 1:
            raise ValueError(f"the recency rule takes one feature, got {X.shape[1]}")
        self.classes_, churned = two_classes(y)
        self.intercept_, self.slope_ = fit_monotone_line(np.log1p(np.abs(X[:, 0])), churned)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return an array of shape (rows, 2): P(stays), P(churns)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="float64", reset=False)
        return _two_columns(sigmoid(self.intercept_ + self.slope_ * np.log1p(np.abs(X[:, 0]))))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the greater class where P(churn) >= 0.5."""
        p = self.predict_proba(X)[:, 1]
        return self.classes_[(p >= 0.5).astype(int)]

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there are two classes, and one feature to tell them by."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.poor_score = True
        return tags


class CalibratedOnLaterSnapshots(ClassifierMixin, BaseEstimator):
    """A pipeline fitted on all that is known, its log-odds re-scaled on matured snapshots.

    Platt scaling on log-odds: P = sigmoid(a + b * logit(p)), b >= 0 (Platt 1999; on log-odds it is
    the logistic recalibration of Cox 1958, with the identity a = 0, b = 1 inside the family). Two
    parameters, because snapshots repeat customers and isotonic steps would tie customers that the
    pipeline tells apart. The predictions for them come from pipelines that had not seen these
    customers (`cross_fitted`); scikit-learn's CalibratedClassifierCV would draw random rows.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: pd.DataFrame, y: np.ndarray, p_later: np.ndarray, y_later: np.ndarray) -> Self:
        """Fit a clone of the pipeline on (X, y), and a and b on predictions for later rows.

        The caller answers for p_later: made without the labels of the customers they are of.
        """
        return self.calibrate(clone(self.estimator).fit(X, y), p_later, y_later)

    def calibrate(self, fitted: Any, p_later: np.ndarray, y_later: np.ndarray) -> Self:
        """Take a pipeline that is fitted already, and fit a and b."""
        self.estimator_ = fitted
        self.classes_ = np.array([0, 1])
        if not np.array_equal(self.estimator_.classes_, self.classes_):
            raise ValueError("training labels must hold both classes, 0 and 1")
        self.intercept_, self.slope_ = fit_monotone_line(logit(p_later), np.asarray(y_later))
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """Return an array of shape (rows, 2): P(stays), P(churns)."""
        check_is_fitted(self)
        return _two_columns(self.rescale(self.estimator_.predict_proba(X)[:, 1]))

    def rescale(self, p: np.ndarray) -> np.ndarray:
        """Return the calibrated form of probabilities of the pipeline."""
        return sigmoid(self.intercept_ + self.slope_ * logit(p))

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Return 1 where P(churn) >= 0.5."""
        return (self.predict_proba(X)[:, 1] >= 0.5).astype(int)


def cross_fitted(
    estimator: Any,
    X: pd.DataFrame,
    y: np.ndarray,
    fold: np.ndarray,
    X_later: pd.DataFrame,
    fold_later: np.ndarray,
) -> np.ndarray:
    """Return P(churn) of the later rows, each by a clone fitted without the customers of its fold.

    fold, fold_later: the fold of each row, a function of its customer.
    """
    p = np.empty(len(X_later))
    for k in np.unique(fold_later):
        own, others = fold_later == k, fold != k
        p[own] = clone(estimator).fit(X[others], y[others]).predict_proba(X_later[own])[:, 1]
    return p


class LogOddsAverage(ClassifierMixin, BaseEstimator):
    """The weighted mean of the log-odds of several classifiers, the logarithmic opinion pool.

    Models that err differently, such as a law of purchases with four parameters and boosting on
    forty features, correct each other. Averaging log-odds keeps certainty where all are certain;
    averaging probabilities would pull every prediction towards the middle.

    estimators: (name, unfitted classifier) pairs, by default one logistic regression. weights: not
    negative, of sum 1; default equal.
    """

    def __init__(
        self,
        estimators: Sequence[tuple[str, Any]] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.estimators = estimators
        self.weights = weights

    def fit(self, X: Any, y: np.ndarray) -> Self:
        """Fit a clone of every part on the same two-class labels."""
        parts = self.estimators or [("logistic", LogisticRegression())]
        validate_data(self, X, y, skip_check_array=True)
        if not isinstance(X, pd.DataFrame):
            X, y = validate_data(self, X, y, ensure_all_finite=False)
        two_classes(y)
        return self.of([clone(part).fit(X, y) for _, part in parts])

    def of(self, fitted: Sequence[Any]) -> Self:
        """Take parts that are fitted already, in the order of `estimators`."""
        weights = [1 / len(fitted)] * len(fitted) if self.weights is None else list(self.weights)
        if len(weights) != len(fitted) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"{len(fitted)} parts need as many weights >= 0 of sum 1: {weights}")
        self.estimators_ = list(fitted)
        self.weights_ = [float(weight) for weight in weights]
        self.classes_ = self.estimators_[0].classes_
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return an array of shape (rows, 2)."""
        check_is_fitted(self)
        parts = np.column_stack([part.predict_proba(X)[:, 1] for part in self.estimators_])
        return _two_columns(pooled(parts, self.weights_))

    def predict(self, X: Any) -> np.ndarray:
        """Return the second class where its probability is at least 0.5."""
        p = self.predict_proba(X)[:, 1]
        return self.classes_[(p >= 0.5).astype(int)]

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there are two classes."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def pooled(parts: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the probabilities whose log-odds are the weighted mean of those of `parts`."""
    return sigmoid(logit(parts) @ np.asarray(weights))


def pool_weights(parts: np.ndarray, y: np.ndarray) -> list[float]:
    """Return weights >= 0 of sum 1: halfway from equal ones to those of the lowest pooled log loss.

    parts: (rows, k) probabilities. The lowest is found by exponentiated gradient descent from equal
    weights: convex, and it never leaves the simplex. Halfway, since the past flatters the part that
    has learned most of it (the forecast combination puzzle: Timmermann 2006). On seven test days of
    Online Retail II the best of the past were .91 for the survival model, with an average precision
    of .7501 and a Brier score of .1865 afterwards; halfway, .71, .7523 and .1864.
    """
    x, y = logit(parts), np.asarray(y)
    weights = np.full(x.shape[1], 1 / x.shape[1])
    for _ in range(200):
        gradient = x.T @ (sigmoid(x @ weights) - y) / len(y)
        weights = weights * np.exp(-2.0 * (gradient - gradient @ weights))
        weights /= weights.sum()
    rounded = np.round((weights + 1 / len(weights)) / 2, 3)
    rounded[int(np.argmax(rounded))] += 1 - rounded.sum()
    return [float(weight) for weight in np.round(rounded, 3)]


def two_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two classes of y in ascending order, and y as 0 and 1.

    Raises:
        ValueError: y is no classification of two classes.
    """
    check_classification_targets(y)
    classes, coded = np.unique(y, return_inverse=True)
    if len(classes) != 2:
        raise ValueError(
            "Only binary classification is supported. The type of the target is not: it has "
            f"{len(classes)} class"
        )
    return classes, coded


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
