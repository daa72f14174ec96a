"""When a customer buys next: discrete-time survival, one model for every horizon.

Belongs here: who had bought by when, as far as it was known on a day, and the estimator of the
hazard per period. Does not belong here: which hazard model and which periods (ml.candidates).

A churn label needs the whole horizon to mature: a classifier that is to score T learns from nothing
that began after T - horizon. A hazard needs one period only. So this model learns of the last weeks
before T, too, from the periods that had closed by T: on Online Retail II (seven test days of 2011)
that was worth .004 of ROC AUC and .005 of average precision to the same boosting. And because every
period lies at its own time of the year, it can learn the season from one year, where a churn label
mixes three months.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ml.boosting import LeafSets, in_parts, leaf_sets
from ml.estimators import CalibratedOnLaterSnapshots, LogOddsAverage, two_classes

# One row per customer and snapshot: the period of the first purchase (1-based; 0: none was seen),
# and how many periods had closed by the day of knowledge.
TARGET = np.dtype([("purchase_period", "int16"), ("known_periods", "int16")])
_YEAR_DAYS = 365.25
# A month of the year that no period lay in is a month that is not known.
_UNSEEN_DAYS = 31
# Beyond, the days say no more than that nobody expects an order.
_MOST_DAYS = 3_650.0


def period_ends(horizon_days: int, step_days: int) -> tuple[int, ...]:
    """Return the days after the snapshot at which periods end: 1, 2, 4 steps, then the horizon.

    Steps are the spacing of snapshots, since a later snapshot tells who had bought by its day. The
    horizon ends the last period, which is at least one step long.
    """
    ends = [step_days * k for k in (1, 2, 4) if step_days * (k + 1) <= horizon_days]
    return (*ends, horizon_days)


def purchase_periods(panel: pd.DataFrame, known_by: date, ends: Sequence[int]) -> np.ndarray:
    """Return, per row of `panel`, what was known on `known_by` of the first purchase (`TARGET`).

    panel: snapshot_date, customer_key, days_since_last_order, is_churned (NaN where no label has
    matured), matured_date, of all customers of each snapshot. Whoever is silent for fewer days than
    have passed since snapshot S had bought after S; whoever has left a later snapshot had not. So a
    period is known where a snapshot stands at its end, by `known_by`; the last one only by the
    label, which also overrules the snapshots where an order was cancelled later. Where a snapshot
    is missing in between, the label tells nothing: of those who bought nobody knows when, and to
    learn of the others alone would teach that nobody buys. Nothing after `known_by` is looked at.
    """
    places, days = pd.factorize(panel["snapshot_date"], sort=True)
    customers, keys = pd.factorize(panel["customer_key"])
    is_known = np.array([day <= known_by for day in days], dtype=bool)
    silence = np.full((len(keys), len(days)), np.nan)
    silence[customers, places] = panel["days_since_last_order"].to_numpy(dtype="float64")
    place_of = {day: place for place, day in enumerate(days)}
    target = np.zeros(len(panel), dtype=TARGET)
    period, closed = target["purchase_period"], target["known_periods"]
    goes_on = is_known[places]
    for number, end in enumerate(ends[:-1], start=1):
        later = np.array([place_of.get(day + timedelta(days=end), -1) for day in days])
        later[(later >= 0) & ~is_known[later]] = -1
        at = later[places]
        goes_on &= at >= 0
        closed[goes_on] = number
        bought = goes_on & (silence[customers, at] < end)  # NaN, gone from the snapshots, has not
        period[bought] = number
        goes_on &= ~bought
    labelled = panel["is_churned"].notna().to_numpy()
    labelled = labelled & np.array([day <= known_by for day in panel["matured_date"]], dtype=bool)
    labelled &= (period > 0) | (closed == len(ends) - 1)
    churned = labelled & (panel["is_churned"] == 1).to_numpy()
    period[churned] = 0
    closed[churned] = len(ends)
    # bought after the last snapshot that could tell
    late = labelled & ~churned & (period == 0)
    period[late] = len(ends)
    closed[late] = len(ends)
    return target


class DiscreteTimeSurvival(ClassifierMixin, BaseEstimator):
    """P(no purchase within the horizon) as a product over periods of 1 - hazard.

    The hazard of a period is P(first purchase in it | none before), fitted by a classifier over
    customer-periods (Cox 1972; Singer & Willett 1993) with the period as one more column.

    estimator: the unfitted hazard classifier, by default logistic. period_ends: days after the
    snapshot at which periods end, the last being the horizon. day_of_year_column: the column of X
    that holds the day of the year of the snapshot; it is moved to the middle of each period, and
    its sine and cosine are added. Where the fit has not seen the whole year, it is taken for the
    same day throughout (`has_season_`): trees continue December into a first January, whatever
    January is like. None: the columns stay as they are.
    """

    def __init__(
        self,
        estimator: Any = None,
        period_ends: Sequence[int] = (14, 28, 56, 90),
        day_of_year_column: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.period_ends = period_ends
        self.day_of_year_column = day_of_year_column

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit the hazard.

        y: an array of `TARGET`, of which rows without a closed period teach nothing; or labels of
        two classes, the second being those who did not buy: then the horizon is one period.

        Raises:
            ValueError: no purchase, or nothing but purchases, is among what is known.
        """
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = np.asarray(y)
        X = validate_data(self, X, ensure_all_finite="allow-nan" if self._allows_nan() else True)
        if y.dtype == TARGET:
            self.classes_ = np.array([0, 1])
            self.ends_ = tuple(self.period_ends)
            rows, period, event = _person_periods(y)
        else:
            X, y = validate_data(
                self, X, y, ensure_all_finite="allow-nan" if self._allows_nan() else True
            )
            self.classes_, coded = two_classes(y)
            self.ends_ = (self.period_ends[-1],)
            rows = np.arange(len(X))
            period = np.zeros(len(X), dtype="int64")
            event = coded == 0
        if not 0 < event.sum() < len(event):
            raise ValueError(
                f"{int(event.sum())} of {len(event)} known periods hold a purchase: a hazard needs "
                "both"
            )
        self.has_season_ = self._has_seen_a_year(X[rows], period, self.ends_)
        model = LogisticRegression() if self.estimator is None else clone(self.estimator)
        self.hazard_ = model.fit(self._columns(X[rows], period), event.astype("int64"))
        return self

    def predict_survival(self, X: np.ndarray) -> np.ndarray:
        """Return P(no purchase by the end of each period), of shape (rows, periods)."""
        check_is_fitted(self)
        X = validate_data(
            self, X, reset=False, ensure_all_finite="allow-nan" if self._allows_nan() else True
        )
        sets = leaf_sets(self.hazard_)
        if sets is None:
            hazards = [
                self.hazard_.predict_proba(self._columns(X, np.full(len(X), k)))[:, 1]
                for k in range(len(self.ends_))
            ]
            return np.cumprod(1.0 - np.column_stack(hazards), axis=1)
        return in_parts(lambda part: self._looked_up(sets, part, (), np.empty(0))[0], X)

    def predict_without(
        self, X: np.ndarray, groups: Sequence[Sequence[int]], typical: np.ndarray
    ) -> np.ndarray | None:
        """Return P(no purchase within the horizon), of shape (groups + 1, rows).

        Each group's columns as `typical` has them, and last all as they are. None where the hazard
        is not made of leaf sets, or a group holds the season: then it takes a copy a group.
        """
        check_is_fitted(self)
        sets = leaf_sets(self.hazard_)
        if sets is None or any(self.day_of_year_column in group for group in groups):
            return None
        return self._looked_up(sets, X, groups, typical)[:, :, -1]

    def _looked_up(
        self,
        sets: LeafSets,
        X: np.ndarray,
        groups: Sequence[Sequence[int]],
        typical: np.ndarray,
    ) -> np.ndarray:
        """Return the survival curves by leaf sets, of shape (groups + 1, rows, periods).

        Only the period and its season differ between the periods: what the other columns leave of
        the leaves is looked up once.
        """
        dated = {*range(X.shape[1], X.shape[1] + 3), self.day_of_year_column}
        of_period = np.array(
            [
                sets.leaves(self._columns(X, np.full(len(X), k)), dated & sets.columns.keys())
                for k in range(len(self.ends_))
            ]
        )
        stays = [column for column in sets.columns if column not in dated]
        curves = []
        for leaves in sets.without(X, groups, typical, stays):
            left = (leaves & of_period).reshape(-1, leaves.shape[1])  # of all periods at once
            hazards = expit(sets.total(left)).reshape(len(self.ends_), len(X))
            curves.append(np.cumprod(1.0 - hazards, axis=0).T)
        return np.array(curves)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return an array of shape (rows, 2): P(buys), P(does not buy within the horizon)."""
        p = self.predict_survival(X)[:, -1]
        return np.column_stack([1.0 - p, p])

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the second class where P(does not buy) >= 0.5."""
        p = self.predict_proba(X)[:, 1]
        return self.classes_[(p >= 0.5).astype(int)]

    def expected_days(self, X: np.ndarray, p: np.ndarray | None = None) -> np.ndarray:
        """Return the expected days to the next purchase, of shape (rows,).

        The area under the survival curve, straight within a period. After the horizon the daily
        hazard of the last period goes on for ever (an extrapolation): S(h) / -log(1 - hazard) * d.

        p: P(no purchase within the horizon) of each row where something better is known of it, such
        as a calibrated average. The hazards are then scaled in proportion, the curve raised to a
        power, so that it ends there.
        """
        curve = np.column_stack([np.ones(len(X)), self.predict_survival(X)])
        if p is not None:
            end = np.clip(curve[:, -1], 1e-6, 1 - 1e-6)
            power = np.log(np.clip(p, 1e-6, 1 - 1e-6)) / np.log(end)
            curve = np.clip(curve, 1e-12, 1.0) ** power[:, None]
        lengths = np.diff(np.concatenate([[0], self.ends_]))
        within = ((curve[:, 1:] + curve[:, :-1]) / 2 * lengths).sum(axis=1)
        kept = np.clip(curve[:, -1] / np.maximum(curve[:, -2], 1e-12), 1e-6, 1 - 1e-6)
        return within + curve[:, -1] * lengths[-1] / -np.log(kept)

    def _columns(self, X: np.ndarray, period: np.ndarray) -> np.ndarray:
        """Return X with the period, and the time of the year of its middle."""
        columns = [X, period.astype("float64")]
        if self.day_of_year_column is not None:
            X = X.copy()
            columns[0] = X
            # a model of before this was asked has one
            if getattr(self, "has_season_", True):
                at = self._time_of_year(X, period, self.ends_)
                X[:, self.day_of_year_column] = at
                angle = 2 * np.pi * at / _YEAR_DAYS
                columns += [np.sin(angle), np.cos(angle)]
            else:
                X[:, self.day_of_year_column] = 0.0
        return np.column_stack(columns)

    def sees_a_year(self, X: np.ndarray, y: np.ndarray) -> bool:
        """Return whether a fit on these rows, y as of `fit`, would be told the time of the year."""
        if y.dtype != TARGET:
            at = np.zeros(len(X), dtype="int64")
            return self._has_seen_a_year(X, at, self.period_ends[-1:])
        rows, period, _ = _person_periods(y)
        return self._has_seen_a_year(X[rows], period, self.period_ends)

    def _time_of_year(self, X: np.ndarray, period: np.ndarray, ends: Sequence[int]) -> np.ndarray:
        """Return the day of the year of the middle of each row's period."""
        starts = np.concatenate([[0], ends[:-1]])
        middles = (starts + np.asarray(ends)) / 2
        return (X[:, self.day_of_year_column] + middles[period]) % _YEAR_DAYS

    def _has_seen_a_year(self, X: np.ndarray, period: np.ndarray, ends: Sequence[int]) -> bool:
        """Return whether no part of the year longer than `_UNSEEN_DAYS` lacks a known period."""
        if self.day_of_year_column is None:
            return False
        seen = np.unique(np.round(self._time_of_year(X, period, ends)))
        gaps = np.diff(np.concatenate([seen, seen[:1] + _YEAR_DAYS]))
        return bool(gaps.max() <= _UNSEEN_DAYS)

    def _allows_nan(self) -> bool:
        return self.estimator is not None and get_tags(self.estimator).input_tags.allow_nan

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there are two classes, and whether X may hold NaN."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = self._allows_nan()
        return tags


def expected_days(estimator: Any, features: pd.DataFrame, p: np.ndarray) -> np.ndarray:
    """Return the expected days to the next order, rounded to .1, `_MOST_DAYS` at most.

    By the survival curve of a fitted model, or of a part of it, scaled to end at p, the probability
    that is published (`DiscreteTimeSurvival.expected_days`). NaN where nothing in it knows when.
    """
    survival = _survival_of(estimator)
    if survival is None:
        return np.full(len(features), np.nan)
    days = survival[-1].expected_days(survival[:-1].transform(features), p)
    return np.round(np.minimum(days, _MOST_DAYS), 1)


def _survival_of(estimator: Any) -> Pipeline | None:
    """Return the pipeline within a fitted model that ends in a survival model, or None."""
    if isinstance(estimator, CalibratedOnLaterSnapshots):
        return _survival_of(estimator.estimator_)
    if isinstance(estimator, LogOddsAverage):
        found = (_survival_of(part) for part in estimator.estimators_)
        return next((part for part in found if part is not None), None)
    if isinstance(estimator, Pipeline) and isinstance(estimator[-1], DiscreteTimeSurvival):
        return estimator
    return None


def _person_periods(target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, period (from 0) and whether it holds the purchase, of every period at risk."""
    bought, known = target["purchase_period"], target["known_periods"]
    at_risk = np.where(bought > 0, np.minimum(bought, known), known).astype("int64")
    rows = np.repeat(np.arange(len(target)), at_risk)
    period = np.arange(len(rows)) - np.repeat(np.cumsum(at_risk) - at_risk, at_risk)
    return rows, period, bought[rows] == period + 1
