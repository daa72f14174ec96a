"""From one finished comparison to a ranking that may be used, or the reason why there is none.

What belongs here: which learners are tried, the baselines made for them, the order fit, compare,
decide, refit. What does not: where the data come from, the measures (comparison.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from ml.boosting import BoostingClassifier, BoostingRegressor
from ml.estimators import SignedLog
from ml.uplift.comparison import Comparison, Decision, compare_rankings, compare_rules
from ml.uplift.curves import Array, checked
from ml.uplift.learners import (
    DRLearner,
    SLearner,
    TLearner,
    UpliftLearner,
    XLearner,
    cross_fitted_scores,
    hash_folds,
)

# With fewer customers in an arm the interval of a Qini is wider than any difference worth having
# (on Hillstrom 0.02 with 21,000 in each arm), and folds may hold no response at all.
MIN_UNITS_PER_ARM = 500
MIN_RESPONSES_PER_ARM = 50

RESPONSE_MODEL = "response_model"


@dataclass(frozen=True)
class Learned:
    """Two comparisons, and the best candidate of the first fitted on all units: twice.

    comparison: rankings by the Qini of the metric. money: whom to contact, by incremental profit:
    whom the best candidate, fitted on profit, expects to bring more than nothing, against nobody,
    everybody, and as many by the response model and by each baseline. model: of the metric;
    profit_model: of the profit. Whether either may be used says `decision`.
    """

    comparison: Comparison
    money: Comparison
    model: UpliftLearner
    profit_model: UpliftLearner
    scores: Mapping[str, Array]

    @property
    def decision(self) -> Decision:
        """Promote what ranks customers better and earns more than what is there without it."""
        ranking, money = self.comparison.decision, self.money.decision
        reason = f"ranking: {ranking.reason}; money: {money.reason}"
        if ranking.promote and money.promote:
            return Decision(True, ranking.name, reason)
        return Decision(False, money.name if ranking.promote else ranking.name, reason)


def scaled() -> Pipeline:
    """Return the preparation of the linear learners: long tails tamed, gaps filled, one scale."""
    return Pipeline(
        [
            ("log", SignedLog()),
            ("impute", SimpleImputer(strategy="median", add_indicator=True)),
            ("scale", StandardScaler()),
        ]
    )


def learners(prepare: Any, *, is_binary: bool) -> dict[str, UpliftLearner]:
    """Return the four learners over linear models, simplest first.

    Effects of a campaign are small beside the noise: on Hillstrom boosting under the same learners
    ranked no better (Qini 0.058 against 0.061) and took eight times as long.
    """
    outcome = LogisticRegression(C=0.1, max_iter=1000) if is_binary else Ridge(alpha=100.0)
    effect = Ridge(alpha=100.0)
    return {
        "s_learner": SLearner(outcome, prepare),
        "t_learner": TLearner(outcome, prepare),
        "x_learner": XLearner(outcome, effect, prepare),
        "dr_learner": DRLearner(outcome, effect, prepare),
    }


def too_small(outcome: npt.ArrayLike, treatment: npt.ArrayLike) -> str | None:
    """Return why nothing can be learnt from this comparison, or None."""
    y, t = np.asarray(outcome, dtype="float64"), np.asarray(treatment)
    for arm, name in ((1, "the arm"), (0, "the control")):
        units, responses = int((t == arm).sum()), int((y[t == arm] != 0).sum())
        if units < MIN_UNITS_PER_ARM:
            return f"{name} has {units} customers with features, {MIN_UNITS_PER_ARM} are needed"
        if min(responses, units if len(np.unique(y)) > 2 else units - responses) < (
            MIN_RESPONSES_PER_ARM
        ):
            return (
                f"of {name} {responses} of {units} customers responded, {MIN_RESPONSES_PER_ARM} of "
                "either kind are needed"
            )
    return None


def learn(
    X: Any,
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    propensity: npt.ArrayLike,
    units: pd.Series,
    baselines: Mapping[str, Array],
    *,
    profit: npt.ArrayLike,
    prepare: Any | None = None,
    n_folds: int = 5,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Learned:
    """Fit the learners, compare them with the baselines, fit the best one on all units.

    X: (n, d), known before assignment. baselines: scores by name that no model of this comparison
    made, such as `churn_risk`; the response model (boosting on the treated, scored by folds) is
    added to them. profit: (n,), what each unit brought as it was treated, all costs taken off.

    Raises:
        ValueError: see `ml.uplift.curves.checked`.
    """
    y, t = checked(outcome, treatment)
    is_binary = bool(np.isin(y, (0, 1)).all())
    tried = learners(scaled() if prepare is None else prepare, is_binary=is_binary)
    salt = f"uplift:{seed}"
    scores = {
        name: cross_fitted_scores(learner, X, y, t, propensity, units, n_folds=n_folds, salt=salt)
        for name, learner in tried.items()
    }
    response = cross_fitted_responses(X, y, t, units, is_binary, n_folds, salt, seed)
    compared = compare_rankings(
        y,
        t,
        propensity,
        units,
        scores,
        {RESPONSE_MODEL: response, **baselines},
        n_resamples=n_resamples,
        seed=seed,
    )
    best = compared.best_candidate
    gained, _ = checked(profit, treatment)
    of_profit = learners(scaled() if prepare is None else prepare, is_binary=False)[best]
    expected = cross_fitted_scores(
        of_profit, X, gained, t, propensity, units, n_folds=n_folds, salt=salt
    )
    chosen = expected > 0
    size = int(chosen.sum())
    known = {RESPONSE_MODEL: response, **baselines}
    money = compare_rules(
        gained,
        t,
        propensity,
        units,
        {best: chosen},
        {f"as many by {name}": _first(score, size) for name, score in known.items()},
        n_resamples=n_resamples,
        seed=seed,
    )

    def fitted(learner: UpliftLearner, outcome: Array) -> UpliftLearner:
        return clone(learner).fit(
            X,
            outcome,
            treatment=t,
            propensity=propensity,
            folds=hash_folds(units, 2, f"{salt}:inner"),
        )

    return Learned(
        compared,
        money,
        fitted(tried[best], y),
        fitted(of_profit, gained),
        {**scores, RESPONSE_MODEL: response},
    )


def _first(score: Array, size: int) -> npt.NDArray[np.bool_]:
    """The `size` units with the largest scores; ties by position, which knows nothing of arms."""
    found = np.zeros(len(score), dtype=bool)
    found[np.argsort(-score, kind="stable")[:size]] = True
    return found


def cross_fitted_responses(
    X: Any,
    y: Array,
    treatment: Array,
    units: pd.Series,
    is_binary: bool,
    n_folds: int,
    salt: str,
    seed: int,
) -> Array:
    """Return the expected outcome of each unit if treated, by a model that has not seen it.

    What most shops call targeting. It needs no control, and ranks those first who would buy anyway.
    """
    matrix = np.asarray(X, dtype="float64")
    kind = BoostingClassifier if is_binary else BoostingRegressor
    folds = hash_folds(units, n_folds, salt)
    scores = np.empty(len(y))
    for fold in range(n_folds):
        own, rows = folds == fold, (folds != fold) & (treatment == 1)
        if not own.any():
            continue
        model = kind(max_depth=3, max_iter=60, early_stopping=False, random_state=seed)
        known = ~np.isnan(matrix[rows]).all(axis=0)  # boosting cannot bin a column without a value
        model.fit(matrix[rows][:, known], y[rows])
        seen = matrix[own][:, known]
        scores[own] = model.predict_proba(seen)[:, 1] if is_binary else model.predict(seen)
    return scores
