"""Uplift and Qini curves, uplift@k and the profit curve of one score on randomised data.

What belongs here: measures of one ranking. What does not: learners, the comparison of rankings
(comparison.py).

Arguments mean the same everywhere, one entry per randomised unit: `outcome`, any number (money as
well as 0/1); `treatment`, 1 for the arm and 0 for its control, nobody else (lumping other arms into
the control measures the wrong difference); `score`, the larger the earlier; `propensity`, the
probability of the arm: a number, one per unit, or None for a constant that need not be known.

Units whose scores tie are taken together: a curve has no point within a tie, and uplift@k takes the
same share of each tied unit. So no measure depends on the order of rows; scikit-uplift's uplift@k
and causalml's curves do (a constant score had uplift@30 % of 0.393 where random choice has 0.058).

Where propensities vary, units are weighted by the inverse of the probability of what they got,
scaled to a mean of 1 within the arm (Hajek). A constant propensity changes no digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Four numbers are called "Qini" and differ on the same eight rows: 0.106, 0.194, 0.018, 0.037.
QiniVariant = Literal["normalised", "normalised_positive", "radcliffe", "mean_height"]


@dataclass(frozen=True)
class Curve:
    """Height over the number of units taken, best first; from (0, 0), one point per tied group."""

    units: Array
    height: Array

    @property
    def area(self) -> float:
        """Area under the curve (trapezoids)."""
        return float(np.trapezoid(self.height, self.units))

    @property
    def area_above_chord(self) -> float:
        """Area between the curve and the straight line to its end, which is random choice."""
        return self.area - float(self.units[-1] * self.height[-1]) / 2


@dataclass(frozen=True)
class Totals:
    """Weighted sums over the units up to and including each group of ties, best score first."""

    units: Array  # (..., groups + 1)
    treated: Array
    control: Array
    outcome_treated: Array
    outcome_control: Array

    @property
    def qini(self) -> Array:
        """Y_t - Y_c N_t / N_c (Radcliffe 2007): extra outcome among the treated of the prefix.

        A prefix without controls counts their rate as 0, as scikit-uplift does.
        """
        scale = _ratio(self.treated, self.control)
        return self.outcome_treated - self.outcome_control * scale

    @property
    def uplift(self) -> Array:
        """(mean of the treated - mean of the controls) times the units of the prefix."""
        treated = _ratio(self.outcome_treated, self.treated)
        return (treated - _ratio(self.outcome_control, self.control)) * self.units


class Ranked:
    """One comparison ordered by one score: sorted once, summed up for any weights."""

    def __init__(
        self,
        outcome: npt.ArrayLike,
        treatment: npt.ArrayLike,
        score: npt.ArrayLike,
        propensity: npt.ArrayLike | None = None,
    ) -> None:
        y, t = checked(outcome, treatment)
        s = _vector(score, len(y), "score")
        self.order = np.argsort(-s, kind="stable")
        ordered = s[self.order]
        self.ends = np.r_[np.flatnonzero(np.diff(ordered)), len(y) - 1]
        w = arm_weights(t, propensity)
        columns = np.column_stack([np.ones(len(y)), w * t, w * (1 - t), w * y * t, w * y * (1 - t)])
        self._columns = np.ascontiguousarray(columns[self.order].T)

    def totals(self, weights: Array | None = None) -> Totals:
        """Sums of all prefixes; `weights` (resamples, units) counts each unit so many times."""
        columns = self._columns
        if weights is None:
            sums = np.cumsum(columns, axis=1)[:, self.ends]
            return Totals(*np.concatenate([np.zeros((5, 1)), sums], axis=1))
        drawn = weights[:, self.order]
        # one column at a time: five cubes of 20 x 43,000 doubles would not stay in the cache
        return Totals(*(_prefix_sums(drawn * column, self.ends) for column in columns))


def uplift_curve(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    score: npt.ArrayLike,
    propensity: npt.ArrayLike | None = None,
) -> Curve:
    """Difference of the means in a prefix times its units; ends at effect times all units."""
    totals = Ranked(outcome, treatment, score, propensity).totals()
    return Curve(totals.units, totals.uplift)


def qini_curve(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    score: npt.ArrayLike,
    propensity: npt.ArrayLike | None = None,
) -> Curve:
    """Extra outcome among the treated of a prefix; ends at effect times the treated."""
    totals = Ranked(outcome, treatment, score, propensity).totals()
    return Curve(totals.units, totals.qini)


def qini_score(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    score: npt.ArrayLike,
    propensity: npt.ArrayLike | None = None,
    *,
    variant: QiniVariant = "normalised",
) -> float:
    """One number for the ranking; 0 is random choice in every variant, and all rank alike.

    normalised: area of the Qini curve above its chord over that of the perfect curve, in which the
    treated who respond come first and the controls who respond last (scikit-uplift's
    `qini_auc_score`). normalised_positive: the perfect curve knows no negative effect
    (`negative_effect=False`), which gives far larger numbers. radcliffe: the area above the chord
    over units^2, no perfect curve (Radcliffe's Q). mean_height: mean height over units less that of
    the chord, over the absolute end (causalml's `qini_score`); it explodes as the effect nears 0.

    Realised outcomes make the perfect curve, and no score can reach it: 0.06 is not 6 % of what is
    possible. Compare values only on the same units, at one treated share.

    Raises:
        ValueError: a variant divides by an area or an end that is 0.
    """
    y, t = checked(outcome, treatment)
    ranked = Ranked(y, t, score, propensity)
    totals = ranked.totals()
    curve = Curve(totals.units, totals.qini)
    if variant == "radcliffe":
        return curve.area_above_chord / len(y) ** 2
    if variant == "mean_height":
        return _mean_height(totals)
    return curve.area_above_chord / perfect_area(y, t, propensity, negative=variant == "normalised")


def perfect_area(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    propensity: npt.ArrayLike | None = None,
    *,
    negative: bool = True,
) -> float:
    """Area above the chord of the perfect Qini curve, the unit in which `qini_score` is told.

    Raises:
        ValueError: it is not positive: no outcome differs, or without negative effects there is
            none to gain.
    """
    y, t = checked(outcome, treatment)
    if negative:
        totals = Ranked(y, t, y * t - y * (1 - t), propensity).totals()
        area = Curve(totals.units, totals.qini).area_above_chord
    else:
        gain = float(Ranked(y, t, np.zeros(len(y)), propensity).totals().qini[-1])
        steps = Curve(np.array([0, gain, len(y)], float), np.array([0, gain, gain], float))
        area = steps.area_above_chord
    if not area > 0:
        raise ValueError("the perfect Qini curve has no area above its chord: nothing to gain")
    return area


def uplift_score(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    score: npt.ArrayLike,
    propensity: npt.ArrayLike | None = None,
    *,
    normalised: bool = True,
) -> float:
    """Area of the uplift curve above its chord, over that of the perfect one unless told not to.

    The perfect order is scikit-uplift's (`uplift_auc_score`), which is defined for 0/1 outcomes;
    not normalised, it is the area over units^2 and any outcome will do.
    """
    y, t = checked(outcome, treatment)
    curve = uplift_curve(y, t, score, propensity)
    if not normalised:
        return curve.area_above_chord / len(y) ** 2
    if not np.isin(y, (0, 1)).all():
        raise ValueError("the perfect uplift curve is defined for 0/1 outcomes: normalised=False")
    responding_controls = int(((y == 1) & (t == 0)).sum())
    silent_treated = int(((y == 0) & (t == 1)).sum())
    tie_break = y if responding_controls > silent_treated else t
    perfect = uplift_curve(y, t, 2.0 * (y == t) + tie_break, propensity)
    return curve.area_above_chord / perfect.area_above_chord


def uplift_at_k(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    score: npt.ArrayLike,
    k: float = 0.3,
    propensity: npt.ArrayLike | None = None,
    *,
    strategy: Literal["overall", "by_group"] = "overall",
) -> float:
    """Effect among the share `k` with the best scores.

    overall: the best of all units; by_group: the best of each arm. The two differ much where the
    score tells the arms apart, which a score must not do: report both. Of units tied at the border
    each counts by the same share, the mean over all ways of breaking the tie.

    Raises:
        ValueError: k is not in (0, 1], or an arm has no unit among the chosen.
    """
    if not 0 < k <= 1:
        raise ValueError(f"k is a share in (0, 1], got {k}")
    y, t = checked(outcome, treatment)
    s = _vector(score, len(y), "score")
    w = arm_weights(t, propensity)
    if strategy == "overall":
        taken = _top(s, int(len(y) * k))
    else:
        taken = np.zeros(len(y))
        for arm in (0, 1):
            own = t == arm
            taken[own] = _top(s[own], int(own.sum() * k))
    means = []
    for arm in (1, 0):
        weight = w * taken * (t == arm)
        if not weight.sum() > 0:
            raise ValueError(f"the best {k:.0%} hold no unit of the {('control', 'arm')[arm]}")
        means.append(float(weight @ y / weight.sum()))
    return means[0] - means[1]


def profit_curve(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    score: npt.ArrayLike,
    propensity: npt.ArrayLike | None = None,
    *,
    value: float = 1.0,
    contact_cost: float = 0.0,
    incentive_cost: float = 0.0,
) -> Curve:
    """Profit of contacting a prefix: incremental outcome times value, less what it costs.

    `value` is money per unit of outcome (1 where the outcome is margin); `contact_cost` is paid for
    everyone contacted, `incentive_cost` for each unit of outcome among them, the would-be buyers
    included.
    """
    totals = Ranked(outcome, treatment, score, propensity).totals()
    incentives = incentive_cost * _ratio(totals.outcome_treated, totals.treated) * totals.units
    return Curve(totals.units, value * totals.uplift - contact_cost * totals.units - incentives)


def checked(outcome: npt.ArrayLike, treatment: npt.ArrayLike) -> tuple[Array, Array]:
    """Outcome and treatment as float64.

    Raises:
        ValueError: lengths differ, an outcome is missing, treatment is not 0/1, an arm is empty.
    """
    y = np.asarray(outcome, dtype="float64")
    t = np.asarray(treatment, dtype="float64")
    if y.ndim != 1 or t.shape != y.shape:
        raise ValueError(f"one outcome and one treatment per unit, got {y.shape} and {t.shape}")
    if not np.isfinite(y).all():
        raise ValueError(f"{int((~np.isfinite(y)).sum())} of {len(y)} outcomes are not finite")
    if not np.isin(t, (0, 1)).all():
        raise ValueError(
            "treatment must be 0 (control) or 1 (the arm): compare one arm at a time with its "
            "control, on the units of those two"
        )
    if not 0 < t.sum() < len(t):
        raise ValueError(f"both arms need units, got {int(t.sum())} treated of {len(t)}")
    return y, t


def arm_weights(treatment: Array, propensity: npt.ArrayLike | None) -> Array:
    """1 / P(what the unit got), scaled to a mean of 1 within each arm; ones where it is constant.

    Raises:
        ValueError: a propensity is not strictly between 0 and 1: that unit was not randomised.
    """
    p = propensities(propensity, len(treatment))
    if p is None or np.ptp(p) == 0:
        return np.ones(len(treatment))
    weights = 1 / np.where(treatment == 1, p, 1 - p)
    for arm in (0, 1):
        weights[treatment == arm] /= weights[treatment == arm].mean()
    return weights


def propensities(propensity: npt.ArrayLike | None, n: int) -> Array | None:
    """Probabilities of the arm as one per unit; None stays None.

    Raises:
        ValueError: one is not strictly between 0 and 1.
    """
    if propensity is None:
        return None
    p = np.array(np.broadcast_to(np.asarray(propensity, dtype="float64"), (n,)))
    if not ((p > 0) & (p < 1)).all():
        raise ValueError(
            f"{int((~((p > 0) & (p < 1))).sum())} of {n} propensities are not between 0 and 1: "
            "such units were not randomised and tell nothing of the effect"
        )
    return p


def _mean_height(totals: Totals) -> float:
    height = totals.qini
    end = float(height[-1])
    if end == 0:
        raise ValueError("mean_height divides by the end of the curve, which is 0 here")
    positions = np.arange(totals.units[-1] + 1)
    # causalml draws a straight line over prefixes without controls instead of a rate of 0
    known = (totals.control > 0) | (totals.units == 0)
    heights = np.interp(positions, totals.units[known], height[known])
    chord = end * positions / positions[-1]
    return float((heights - chord).mean() / abs(end))


def _prefix_sums(values: Array, ends: npt.NDArray[np.intp]) -> Array:
    """Cumulative sums along the rows at `ends`, with a leading zero."""
    sums = np.zeros((len(values), len(ends) + 1))
    sums[:, 1:] = np.cumsum(values, axis=1)[:, ends]
    return sums


def _top(score: Array, size: int) -> Array:
    """Share of each unit among the `size` best: 1, 0, or the same share for all tied ones."""
    if size == 0:
        return np.zeros(len(score))
    border = np.partition(score, len(score) - size)[len(score) - size]
    above, tied = score > border, score == border
    return above + tied * ((size - above.sum()) / tied.sum())


def _ratio(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _vector(values: npt.ArrayLike, n: int, what: str) -> Array:
    array = np.asarray(values, dtype="float64")
    if array.shape != (n,):
        raise ValueError(f"one {what} per unit: expected {n}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {n} {what}s are not finite")
    return array
