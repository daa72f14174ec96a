"""Two-sample effects: the absolute difference decides, the relative lift is an interval only.

What belongs here: moments of one arm, Welch's test, CUPED, ratios by the delta method, pooled
winsorisation. What does not: which metric, which campaign, which arm is the control.

Formulas: Welch (1947) with Satterthwaite's degrees of freedom; CUPED of Deng et al. (WSDM 2013);
delta method of Deng et al. (KDD 2018). p-values come from the survival function, since 1 - cdf
underflows to exactly 0 below 1e-16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
EffectStatus = Literal["ok", "too_few_units", "no_variance"]


@dataclass(frozen=True)
class Sample:
    """One arm: number of units, mean and variance of one unit's value."""

    n: int
    mean: float
    variance: float

    @classmethod
    def from_values(cls, values: npt.ArrayLike) -> Sample:
        """Moments of a vector with one value per unit (variance over n - 1)."""
        array = _finite(values)
        n = len(array)
        mean = float(array.mean()) if n else math.nan
        if n < 2:
            return cls(n, mean, math.nan)
        # The mean of equal values is rounded, and would leave a variance of 1e-34 instead of 0.
        return cls(n, mean, float(array.var(ddof=1)) if np.ptp(array) > 0 else 0.0)

    @classmethod
    def from_sums(cls, n: int, total: float, total_of_squares: float) -> Sample:
        """Moments from n, sum and sum of squares, as a warehouse delivers them."""
        if n < 2:
            return cls(n, total / n if n else math.nan, math.nan)
        return cls(n, total / n, (total_of_squares - total * total / n) / (n - 1))

    @classmethod
    def from_count(cls, successes: int, n: int) -> Sample:
        """A proportion; its variance is p(1 - p)."""
        if not 0 <= successes <= n:
            raise ValueError(f"{successes} successes among {n} units is not a proportion")
        p = successes / n if n else math.nan
        return cls(n, p, p * (1 - p) if n > 1 else math.nan)


@dataclass(frozen=True)
class PairedSample:
    """One arm with two values per unit: y (what is measured) and x (covariate, or denominator)."""

    n: int
    mean_y: float
    mean_x: float
    variance_y: float
    variance_x: float
    covariance: float

    @classmethod
    def from_values(cls, y: npt.ArrayLike, x: npt.ArrayLike) -> PairedSample:
        """Moments of two vectors of equal length, one row per unit."""
        y_, x_ = _finite(y), _finite(x)
        if len(y_) != len(x_):
            raise ValueError(f"y has {len(y_)} units, x has {len(x_)}: they must be the same units")
        n = len(y_)
        if n < 2:
            nan = math.nan
            return cls(n, float(y_[0]) if n else nan, float(x_[0]) if n else nan, nan, nan, nan)
        (vy, c), (_, vx) = np.cov(y_, x_, ddof=1)
        return cls(n, float(y_.mean()), float(x_.mean()), float(vy), float(vx), float(c))

    @classmethod
    def from_sums(
        cls, n: int, y: float, y_squared: float, x: float, x_squared: float, xy: float
    ) -> PairedSample:
        """Moments from n and the five sums."""
        a, b = Sample.from_sums(n, y, y_squared), Sample.from_sums(n, x, x_squared)
        covariance = (xy - x * y / n) / (n - 1) if n > 1 else math.nan
        return cls(n, a.mean, b.mean, a.variance, b.variance, covariance)


@dataclass(frozen=True)
class Effect:
    """Treatment minus control, in the metric's unit; relative figures are fractions of control.

    `low`, `high` and `p_value` (two-sided, of the absolute difference) are None unless `status`
    is `ok`. The relative figures are None unless both means are positive.
    """

    effect: float | None
    low: float | None
    high: float | None
    p_value: float | None
    standard_error: float | None
    relative_effect: float | None
    relative_low: float | None
    relative_high: float | None
    status: EffectStatus


def welch(control: Sample, treatment: Sample, *, confidence: float = 0.95) -> Effect:
    """Difference of means with unequal variances, t interval and p-value.

    The relative interval is exp(log ratio +- t * se) with the delta method's variance
    v_t / (n_t m_t^2) + v_c / (n_c m_c^2): it stays above -100 %, and its p-value is not given,
    since two tests of one question can disagree (2.7e-4 against 1.2e-7 on Hillstrom's spend).
    """
    from scipy import stats

    _check_confidence(confidence)
    difference = None
    if control.n and treatment.n:
        difference = treatment.mean - control.mean
    if control.n < 2 or treatment.n < 2:
        return _without_interval(difference, "too_few_units")
    a, b = control.variance / control.n, treatment.variance / treatment.n
    if not a + b > 0:
        return _without_interval(difference, "no_variance")
    assert difference is not None
    se = math.sqrt(a + b)
    # Satterthwaite, in shares of the variance: squares of tiny variances would underflow to 0.
    share = a / (a + b)
    df = 1 / (share**2 / (control.n - 1) + (1 - share) ** 2 / (treatment.n - 1))
    quantile = float(stats.t.isf((1 - confidence) / 2, df))
    relative: tuple[float | None, float | None, float | None] = (None, None, None)
    if control.mean > 0 and treatment.mean > 0:
        log_ratio = math.log(treatment.mean / control.mean)
        margin = quantile * math.sqrt(b / treatment.mean**2 + a / control.mean**2)
        relative = (
            math.expm1(log_ratio),
            math.expm1(log_ratio - margin),
            _expm1(log_ratio + margin),
        )
    return Effect(
        effect=difference,
        low=difference - quantile * se,
        high=difference + quantile * se,
        p_value=2 * float(stats.t.sf(abs(difference) / se, df)),
        standard_error=se,
        relative_effect=relative[0],
        relative_low=relative[1],
        relative_high=relative[2],
        status="ok",
    )


def cuped_theta(arms: Sequence[PairedSample]) -> float:
    """theta = cov(y, x) / var(x) over the units of all arms taken together; 0 where x is constant.

    One theta for all arms, so that the control's adjusted mean is the same in each comparison.
    """
    n = sum(arm.n for arm in arms)
    mean_y = sum(arm.n * arm.mean_y for arm in arms) / n
    mean_x = sum(arm.n * arm.mean_x for arm in arms) / n
    covariance = variance = 0.0
    for arm in arms:
        dy, dx = arm.mean_y - mean_y, arm.mean_x - mean_x
        covariance += (arm.n - 1) * arm.covariance + arm.n * dy * dx
        variance += (arm.n - 1) * arm.variance_x + arm.n * dx * dx
    return covariance / variance if variance > 0 else 0.0


def cuped_sample(arm: PairedSample, theta: float) -> Sample:
    """One arm after the adjustment: mean y - theta x, variance v_y + theta^2 v_x - 2 theta c."""
    variance = arm.variance_y + theta**2 * arm.variance_x - 2 * theta * arm.covariance
    return Sample(arm.n, arm.mean_y - theta * arm.mean_x, variance)


def cuped(
    control: PairedSample,
    treatment: PairedSample,
    *,
    theta: float | None = None,
    confidence: float = 0.95,
) -> Effect:
    """Welch on values adjusted by a covariate known before assignment.

    The relative lift divides by the unadjusted control mean: an adjusted mean is no level, and
    can be zero. It has no interval here.
    """
    if theta is None:
        theta = cuped_theta([control, treatment])
    result = welch(
        cuped_sample(control, theta), cuped_sample(treatment, theta), confidence=confidence
    )
    relative = None
    if result.effect is not None and control.mean_y > 0:
        relative = result.effect / control.mean_y
    return Effect(
        result.effect,
        result.low,
        result.high,
        result.p_value,
        result.standard_error,
        relative,
        None,
        None,
        result.status,
    )


def variance_reduction(control: PairedSample, treatment: PairedSample) -> float:
    """Share of the squared standard error that CUPED removes: measured, never assumed."""
    theta = cuped_theta([control, treatment])
    plain = control.variance_y / control.n + treatment.variance_y / treatment.n
    adjusted = sum(cuped_sample(arm, theta).variance / arm.n for arm in (control, treatment))
    return 1 - adjusted / plain if plain > 0 else 0.0


def ratio_sample(arm: PairedSample) -> Sample:
    """The ratio of means y / x of one arm, with the delta method's variance.

    v_y / d^2 + v_x m^2 / d^4 - 2 c m / d^3 with m = mean y and d = mean x. The unit stays the
    randomised one: treating sessions as independent gave 10.4 % false alarms at 5 %.
    """
    m, d = arm.mean_y, arm.mean_x
    if not d > 0:
        return Sample(arm.n, math.nan, 0.0)
    variance = arm.variance_y / d**2 + arm.variance_x * m**2 / d**4 - 2 * arm.covariance * m / d**3
    return Sample(arm.n, m / d, variance)


def ratio(control: PairedSample, treatment: PairedSample, *, confidence: float = 0.95) -> Effect:
    """Difference of two ratios of means, e.g. revenue per order with customers as units."""
    if not (control.mean_x > 0 and treatment.mean_x > 0):
        few = min(control.n, treatment.n) < 2
        return _without_interval(None, "too_few_units" if few else "no_variance")
    return welch(ratio_sample(control), ratio_sample(treatment), confidence=confidence)


def winsorise(arms: Mapping[str, npt.ArrayLike], quantile: float = 0.99) -> dict[str, Array]:
    """Cap values at one quantile of all arms pooled.

    A cap of each arm's own moves with the arm: 10.9 % false alarms instead of 5 %.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    values = {arm: _finite(value) for arm, value in arms.items()}
    pooled = np.concatenate(list(values.values())) if values else np.array([])
    if not len(pooled):
        return values
    cap = float(np.quantile(pooled, quantile))
    return {arm: np.minimum(value, cap) for arm, value in values.items()}


def _finite(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"one value per unit is needed, got {array.ndim} dimensions")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{bad} of {len(array)} values are missing or infinite")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")


def _expm1(value: float) -> float | None:
    """expm1, or None where the bound is beyond any meaning (a lift of 1e300)."""
    return math.expm1(value) if value < 700 else None


def _without_interval(difference: float | None, status: EffectStatus) -> Effect:
    return Effect(difference, None, None, None, None, None, None, None, status)
