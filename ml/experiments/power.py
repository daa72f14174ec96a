"""Power, sample size and minimum detectable effect of a two-sided comparison of two means.

What belongs here: normal-theory formulas. What does not: which metric, how large a campaign is.
A proportion's variance is p(1 - p); CUPED multiplies a variance by (1 - rho^2).
"""

from __future__ import annotations

import math


def standard_error(
    variance_control: float, n_control: int, variance_treatment: float, n_treatment: int
) -> float:
    """Standard error of the difference of two means, in the metric's unit."""
    if n_control < 1 or n_treatment < 1:
        raise ValueError(f"both arms need units, got {n_control} and {n_treatment}")
    return math.sqrt(variance_control / n_control + variance_treatment / n_treatment)


def achieved_power(effect: float, se: float, alpha: float = 0.05) -> float:
    """Probability that a two-sided z test at `alpha` rejects when the true difference is `effect`.

    Both tails are counted, as in statsmodels' NormalIndPower.
    """
    from scipy import stats

    _check(alpha, se)
    critical = stats.norm.isf(alpha / 2)
    shift = abs(effect) / se
    return float(stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift))


def minimum_detectable_effect(se: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference found with probability `power`: (z_{1-alpha/2} + z_power) * se."""
    from scipy import stats

    _check(alpha, se)
    return float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) * se


def sample_size(
    effect: float,
    variance_control: float,
    variance_treatment: float,
    alpha: float = 0.05,
    power: float = 0.8,
    treatment_per_control: float = 1.0,
) -> tuple[int, int]:
    """Units needed in (control, treatment) to find `effect` with probability `power`."""
    from scipy import stats

    if effect == 0:
        raise ValueError("no sample is large enough to find an effect of zero")
    if treatment_per_control <= 0:
        raise ValueError(f"the arms' ratio must be positive, got {treatment_per_control}")
    _check(alpha, 1.0)
    z = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    variance = variance_control + variance_treatment / treatment_per_control
    control = math.ceil(variance * (z / effect) ** 2)
    return control, math.ceil(control * treatment_per_control)


def _check(alpha: float, se: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if not se > 0:
        raise ValueError(f"the standard error must be positive, got {se}")
