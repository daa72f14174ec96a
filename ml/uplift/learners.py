"""Learners of the effect of one arm on one customer, from a comparison with known propensities.

What belongs here: S-, T-, X- and doubly robust learners over scikit-learn estimators, and scores of
customers by models that have not seen them. What does not: how good a ranking is (curves.py).

Conventions are scikit-learn's: hyper-parameters in the constructor, everything learnt ends in `_`,
`clone` and `get_params` work. `fit` takes what a randomised comparison has beside X and y: who was
treated, and with which probability. `predict` returns the expected outcome if treated less that if
not, in the unit of the outcome. An `estimator` that is a classifier predicts P(outcome = 1).

Sources: Kuenzel et al., PNAS 116(10), 2019 (S, T, X); Kennedy, arXiv 2004.14497 (doubly robust).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils.validation import check_is_fitted

from ml.uplift.curves import Array, checked, propensities
from ml.validation import uniform_hash

Folds = npt.NDArray[np.int64]


class UpliftLearner(BaseEstimator):
    """What the learners share: checked input, and a preparation fitted without the treatment.

    Args:
        estimator: scikit-learn classifier (0/1 outcomes) or regressor of the outcome.
        prepare: transformer from X to a numeric matrix; None: X is one already.
    """

    def __init__(self, estimator: Any, prepare: Any = None) -> None:
        self.estimator = estimator
        self.prepare = prepare

    def fit(
        self,
        X: Any,
        y: npt.ArrayLike,
        *,
        treatment: npt.ArrayLike,
        propensity: npt.ArrayLike,
        folds: Folds | None = None,
    ) -> Self:
        """Learn the effect.

        X: (n, d), what was known before assignment; y: (n,); treatment: (n,), 1 for the arm and 0
        for the control; propensity: P(treatment = 1), one number or one per row; folds: (n,)
        whole numbers, within which a learner that needs it fits without a row's own outcome (by
        default the row's place in X decides: two folds).

        Raises:
            ValueError: see `ml.uplift.curves.checked`; or an arm does not hold both outcomes.
        """
        outcome, treated = checked(y, treatment)
        p = propensities(propensity, len(outcome))
        assert p is not None
        if is_classifier(self.estimator):
            for arm in (0.0, 1.0):
                if len(np.unique(outcome[treated == arm])) < 2:
                    raise ValueError(
                        f"the {'arm' if arm else 'control'} holds one outcome only: a classifier "
                        "cannot learn from it"
                    )
        self.prepare_ = None if self.prepare is None else clone(self.prepare).fit(X)
        matrix = self._matrix(X)
        self.n_features_in_ = matrix.shape[1]
        # new customers get the design's probability: their own is not known before they are drawn
        self.propensity_ = float(p.mean())
        if folds is None:
            folds = np.arange(len(outcome)) % 2
        self._fit(matrix, outcome, treated.astype(bool), p, np.asarray(folds))
        return self

    def predict(self, X: Any) -> Array:
        """Expected effect on each row of X, shape (n,)."""
        check_is_fitted(self, "n_features_in_")
        return self._effect(self._matrix(X))

    def _matrix(self, X: Any) -> Array:
        return np.asarray(X if self.prepare_ is None else self.prepare_.transform(X), dtype=float)

    def _fit(
        self, X: Array, y: Array, treated: npt.NDArray[np.bool_], p: Array, folds: Folds
    ) -> None:
        raise NotImplementedError

    def _effect(self, X: Array) -> Array:
        raise NotImplementedError

    def _outcome_model(self, X: Array, y: Array) -> Any:
        return clone(self.estimator).fit(X, y.astype(int) if is_classifier(self.estimator) else y)


class SLearner(UpliftLearner):
    """One model of the outcome that sees the treatment, and its product with each feature.

    Without the products a linear model would give everybody the same effect.
    """

    def _fit(
        self, X: Array, y: Array, treated: npt.NDArray[np.bool_], p: Array, folds: Folds
    ) -> None:
        self.model_ = self._outcome_model(_with_treatment(X, treated), y)

    def _effect(self, X: Array) -> Array:
        ones = np.ones(len(X), dtype=bool)
        treated, control = _with_treatment(X, ones), _with_treatment(X, ~ones)
        return _expected(self.model_, treated) - _expected(self.model_, control)


class TLearner(UpliftLearner):
    """Two models of the outcome, one of each arm; the effect is their difference."""

    def _fit(
        self, X: Array, y: Array, treated: npt.NDArray[np.bool_], p: Array, folds: Folds
    ) -> None:
        self.treated_ = self._outcome_model(X[treated], y[treated])
        self.control_ = self._outcome_model(X[~treated], y[~treated])

    def _effect(self, X: Array) -> Array:
        return _expected(self.treated_, X) - _expected(self.control_, X)


class XLearner(UpliftLearner):
    """Effects imputed with the other arm's model, learnt in each arm, mixed by the propensity.

    tau(x) = p tau_0(x) + (1 - p) tau_1(x): the arm with more units has the better outcome model,
    and the effects imputed with it are those of the other arm.

    Args:
        estimator: classifier or regressor of the outcome.
        effect_estimator: regressor of the imputed effects.
        prepare: see `UpliftLearner`.
    """

    def __init__(self, estimator: Any, effect_estimator: Any, prepare: Any = None) -> None:
        super().__init__(estimator, prepare)
        self.effect_estimator = effect_estimator

    def _fit(
        self, X: Array, y: Array, treated: npt.NDArray[np.bool_], p: Array, folds: Folds
    ) -> None:
        model_treated = self._outcome_model(X[treated], y[treated])
        model_control = self._outcome_model(X[~treated], y[~treated])
        imputed_treated = y[treated] - _expected(model_control, X[treated])
        imputed_control = _expected(model_treated, X[~treated]) - y[~treated]
        self.treated_ = clone(self.effect_estimator).fit(X[treated], imputed_treated)
        self.control_ = clone(self.effect_estimator).fit(X[~treated], imputed_control)

    def _effect(self, X: Array) -> Array:
        p = self.propensity_
        of_control = np.asarray(self.control_.predict(X))
        return np.asarray(p * of_control + (1 - p) * np.asarray(self.treated_.predict(X)))


class DRLearner(UpliftLearner):
    """A regression on doubly robust effects of single rows.

    phi = mu_1 - mu_0 + t (y - mu_1) / p - (1 - t) (y - mu_0) / (1 - p), with outcome models mu that
    have not seen the row's fold. Its mean given x is the effect at x whatever the outcome models
    say, since the propensity is known; good ones make it less noisy.

    Args: as `XLearner`.
    """

    def __init__(self, estimator: Any, effect_estimator: Any, prepare: Any = None) -> None:
        super().__init__(estimator, prepare)
        self.effect_estimator = effect_estimator

    def _fit(
        self, X: Array, y: Array, treated: npt.NDArray[np.bool_], p: Array, folds: Folds
    ) -> None:
        mu_treated, mu_control = np.empty(len(y)), np.empty(len(y))
        for fold in np.unique(folds):
            own, others = folds == fold, folds != fold
            for mu, arm in ((mu_treated, treated), (mu_control, ~treated)):
                model = self._outcome_model(X[others & arm], y[others & arm])
                mu[own] = _expected(model, X[own])
        phi = doubly_robust_effects(y, treated, p, mu_treated, mu_control)
        self.effect_ = clone(self.effect_estimator).fit(X, phi)

    def _effect(self, X: Array) -> Array:
        return np.asarray(self.effect_.predict(X))


def doubly_robust_effects(
    y: Array, treated: npt.NDArray[np.bool_], p: Array, mu_treated: Array, mu_control: Array
) -> Array:
    """Effect of each unit plus noise of mean zero (augmented inverse propensity), shape (n,)."""
    residual = np.where(treated, (y - mu_treated) / p, -(y - mu_control) / (1 - p))
    return mu_treated - mu_control + residual


def hash_folds(units: pd.Series, n_folds: int, salt: str) -> Folds:
    """Fold 0 .. n_folds - 1 of each unit, by a salted hash: all rows of a unit share one.

    Neither the order of rows nor who else is there moves a unit.
    """
    if n_folds < 2:
        raise ValueError(f"models that have not seen the unit need two folds, got {n_folds}")
    return np.floor(uniform_hash(units, salt) * n_folds).astype("int64")


def cross_fitted_scores(
    learner: UpliftLearner,
    X: Any,
    y: npt.ArrayLike,
    treatment: npt.ArrayLike,
    propensity: npt.ArrayLike,
    units: pd.Series,
    *,
    n_folds: int = 5,
    salt: str = "uplift",
) -> Array:
    """Effect on each row by a model fitted without any row of that unit, shape (n,).

    `units` names the customer of each row. Rows are taken in the order of the units, so that the
    order in which they came changes no digit.
    """
    frame = X.reset_index(drop=True) if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    outcome, treated = checked(y, treatment)
    p = propensities(propensity, len(outcome))
    assert p is not None
    keys = pd.Series(np.asarray(units, dtype=object))
    folds = hash_folds(keys, n_folds, salt)
    inner = hash_folds(keys, 2, f"{salt}:inner")
    order = np.argsort(keys.to_numpy().astype(str), kind="stable")
    scores = np.empty(len(outcome))
    for fold in range(n_folds):
        rows, own = order[folds[order] != fold], folds == fold
        if not own.any():
            continue
        fitted = clone(learner).fit(
            _rows(frame, rows),
            outcome[rows],
            treatment=treated[rows],
            propensity=p[rows],
            folds=inner[rows],
        )
        scores[own] = fitted.predict(_rows(frame, np.flatnonzero(own)))
    return scores


def _rows(frame: pd.DataFrame, rows: npt.NDArray[np.intp]) -> pd.DataFrame:
    return frame.iloc[rows].reset_index(drop=True)


def _with_treatment(X: Array, treated: npt.NDArray[np.bool_]) -> Array:
    # a missing value of an untreated row has no product to be missing
    return np.column_stack([X, treated, np.where(treated[:, None], X, 0.0)])


def _expected(model: Any, X: Array) -> Array:
    if is_classifier(model):
        return np.asarray(model.predict_proba(X)[:, 1])
    return np.asarray(model.predict(X))
