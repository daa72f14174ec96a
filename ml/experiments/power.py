"""Power, sample size and smallest detectable effect of a two-sided comparison of two means.

What belongs here: normal-theory formulas, and what a campaign of some size risks. What does not:
which metric, how large a campaign is (ml/campaigns/planning.py).
A proportion's variance is p(1 - p); CUPED multiplies a variance by 1 less its measured reduction.
"""

from __future__ import annotations

import math

from ml.experiments.shrinkage import NormalPrior


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
    from scipy import special

    _check(alpha, se)
    critical = -float(special.ndtri(alpha / 2))
    shift = abs(effect) / se
    return float(special.ndtr(shift - critical) + special.ndtr(-critical - shift))


def minimum_detectable_effect(se: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference found with probability `power`: (z_{1-alpha/2} + z_power) * se."""
    _check(alpha, se)
    return _z_sum(alpha, power) * se


def sample_size(
    effect: float,
    variance_control: float,
    variance_treatment: float,
    alpha: float = 0.05,
    power: float = 0.8,
    treatment_per_control: float = 1.0,
) -> tuple[int, int]:
    """Units needed in (control, treatment) to find `effect` with probability `power`."""
    if effect == 0:
        raise ValueError("no sample is large enough to find an effect of zero")
    if treatment_per_control <= 0:
        raise ValueError(f"the arms' ratio must be positive, got {treatment_per_control}")
    _check(alpha, 1.0)
    variance = variance_control + variance_treatment / treatment_per_control
    control = math.ceil(variance * (_z_sum(alpha, power) / effect) ** 2)
    return control, math.ceil(control * treatment_per_control)


def sample_factor(effect: float, se: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many times the sample behind `se` is needed to find `effect`; 1 or less: it is enough."""
    if effect == 0:
        raise ValueError("no sample is large enough to find an effect of zero")
    _check(alpha, se)
    return (_z_sum(alpha, power) * se / effect) ** 2


def exaggeration(effect: float, se: float, alpha: float = 0.05) -> float:
    """Winner's curse: E|estimate| / |effect| among significant estimates (Gelman & Carlin 2014)."""
    from scipy import special

    _check(alpha, se)
    if effect == 0:
        raise ValueError("an effect of zero can only be exaggerated without bound")
    shift, critical = abs(effect) / se, -float(special.ndtri(alpha / 2))

    def tail(mean: float) -> float:  # E[z; z > critical] for z ~ N(mean, 1)
        density = math.exp(-((critical - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
        return mean * float(special.ndtr(mean - critical)) + density

    return (tail(shift) + tail(-shift)) / achieved_power(effect, se, alpha) / shift


def wrong_sign(effect: float, se: float, alpha: float = 0.05) -> float:
    """Type S error: chance that what is significant has the wrong sign (Gelman & Carlin 2014)."""
    from scipy import special

    _check(alpha, se)
    if effect == 0:
        raise ValueError("an effect of zero has no sign to be wrong about")
    critical = -float(special.ndtri(alpha / 2))
    return float(special.ndtr(-critical - abs(effect) / se)) / achieved_power(effect, se, alpha)


def wrong_decision(
    se: float, prior: NormalPrior, minimum_effect: float, alpha: float = 0.05
) -> float:
    """Chance that the significance test decides wrongly, over what `prior` thinks possible.

    Wrong is to act on a significant gain whose true effect is not above zero, or not to act on
    one of at least `minimum_effect`. All in the metric's unit.
    """
    from scipy import special, stats

    _check(alpha, se)
    if not prior.sd > 0:
        raise ValueError(f"the sd of a prior must be positive, got {prior.sd}")
    critical = -float(special.ndtri(alpha / 2)) * se
    spread = math.hypot(prior.sd, se)
    both = stats.multivariate_normal(
        [prior.mean, prior.mean], [[prior.sd**2, prior.sd**2], [prior.sd**2, spread**2]]
    )
    harmless = float(special.ndtr(-prior.mean / prior.sd))
    false_alarm = harmless - float(both.cdf([0.0, critical]))
    not_found = float(special.ndtr((critical - prior.mean) / spread))
    missed = not_found - float(both.cdf([minimum_effect, critical]))
    return min(max(false_alarm, 0.0) + max(missed, 0.0), 1.0)


def _z_sum(alpha: float, power: float) -> float:
    from scipy import special

    return float(special.ndtri(power) - special.ndtri(alpha / 2))


def _check(alpha: float, se: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if not se > 0:
        raise ValueError(f"the standard error must be positive, got {se}")
