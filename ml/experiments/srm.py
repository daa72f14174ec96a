"""Sample-ratio check: are the arms as large as their weights say, at every stage?

What belongs here: the chi-square test on counts of units, and the arm that is short. What does not:
what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Units per arm: a count, or one count a phase.
PerArm = Mapping[str, "float | npt.NDArray[Any]"]

# GrowthBook's and Statsig's alarm level; at 0.001 thirty daily looks alarm falsely in 0.95 %.
SRM_ALARM = 0.001

SINGULAR = 1e-9  # of the largest variance: what is smaller is rounding


def srm_p_value(counts: Sequence[int], weights: Sequence[float]) -> float:
    """P-value of the chi-square goodness of fit of `counts` (units per arm) to `weights`.

    Arms of weight zero are dropped from counts, total and degrees of freedom alike. With fewer
    than two arms, or no unit at all, nothing can deviate: 1.0. Weights need not sum to 1.
    """
    from scipy import stats

    if len(counts) != len(weights):
        raise ValueError(f"{len(counts)} counts for {len(weights)} weights")
    if any(count < 0 for count in counts) or any(weight < 0 for weight in weights):
        raise ValueError("counts and weights must not be negative")
    kept = [(count, weight) for count, weight in zip(counts, weights, strict=True) if weight > 0]
    units, weight_sum = sum(count for count, _ in kept), sum(weight for _, weight in kept)
    if len(kept) < 2 or units == 0:
        return 1.0
    expected = [units * weight / weight_sum for _, weight in kept]
    statistic = sum((count - e) ** 2 / e for (count, _), e in zip(kept, expected, strict=True))
    return float(stats.chi2.sf(statistic, len(kept) - 1))


@dataclass(frozen=True)
class StageCheck:
    """The sample ratio of one stage of a campaign, in units per arm.

    `arm` is the one that falls short most, `missing` the units that it lacks beside the others.
    """

    stage: str
    p_value: float | None
    arm: str | None
    missing: float

    @property
    def is_broken(self) -> bool:
        """Whether the arms deviate beyond what chance would do once in a thousand times."""
        return self.p_value is not None and self.p_value < SRM_ALARM


def check_stage(stage: str, counts: PerArm, expected: PerArm) -> StageCheck:
    """Compare the units of each arm with what was due: the draw itself.

    counts: units per arm, or per arm and phase of the draw, (H,) each. expected: any numbers in
    proportion to what was due in a phase, e.g. its weights. With one phase the test is Pearson's
    chi-square; with more, each phase is due its own weights. Where fewer than two arms can be
    compared the p-value is None.
    """
    arms = [arm for arm in counts if np.sum(expected.get(arm, 0)) > 0]
    found, weights = _columns(counts, arms), _columns(expected, arms)
    units = found.sum(axis=1)
    drawn = (units > 0) & (weights.sum(axis=1) > 0)
    if len(arms) < 2 or not drawn.any():
        return StageCheck(stage, None, None, 0.0)
    found, units, weights = found[drawn], units[drawn], weights[drawn]
    share = weights / weights.sum(axis=1, keepdims=True)
    variance = np.diag(units @ share) - (share * units[:, None]).T @ share
    return _checked(stage, arms, found, units[:, None] * share, variance)


def check_passage(stage: str, passed: PerArm, entered: PerArm) -> StageCheck:
    """Compare the share of each arm's units that reached a stage: what came after the draw.

    passed, entered: units at the stage and at the one before, per arm, or per arm and phase of the
    draw, (H,) each. Given who entered, the test of homogeneity sees far more than the ratio of
    those who passed: 1,000 of 50,000 lost in one arm have p = 0.0015 by the ratio, and 1e-221 here.
    Over phases it is that of Cochran, Mantel and Haenszel: where the weights changed over time, and
    so did losses that are alike for all arms, there is no alarm.
    """
    arms = [arm for arm in passed if np.sum(entered.get(arm, 0)) > 0]
    found, before = _columns(passed, arms), _columns(entered, arms)
    bad = [a for i, a in enumerate(arms) if ((found < 0) | (found > before))[:, i].any()]
    if bad:
        raise ValueError(f"{stage}: more units of {bad} passed than had entered")
    if len(arms) < 2 or found.sum() == 0:
        return StageCheck(stage, None, None, 0.0)
    if found.sum() == before.sum():
        return StageCheck(stage, 1.0, None, 0.0)
    units, through = before.sum(axis=1), found.sum(axis=1)
    rate = np.divide(through, units, out=np.zeros_like(units), where=units > 0)
    # Drawn without replacement: rate (1 - rate) / (N - 1) times (N diag(n) - n n').
    scale = rate * (1 - rate) / np.maximum(units - 1, 1)
    variance = np.diag((scale * units) @ before) - (before * scale[:, None]).T @ before
    return _checked(stage, arms, found, rate[:, None] * before, variance)


def _columns(per_arm: PerArm, arms: Sequence[str]) -> Array:
    """Counts as (H, arms)."""
    columns = [np.atleast_1d(np.asarray(per_arm[arm], dtype=np.float64)) for arm in arms]
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))


def _checked(
    stage: str, arms: Sequence[str], counts: Array, expected: Array, variance: Array
) -> StageCheck:
    """The check of what the phases have together against its covariance (arms, arms)."""
    from scipy import stats

    found, due = counts.sum(axis=0), expected.sum(axis=0)
    gap = found - due
    # The covariance is singular, and rounding of some 1e-16 of it is no dimension: by numpy's own
    # tolerance one in five holdouts of 5 % had two, and a p-value up to five times too large.
    largest = float(variance.diagonal().max(initial=0.0))
    rank = int(np.linalg.matrix_rank(variance, tol=SINGULAR * largest, hermitian=True))
    if not rank:  # nothing could have come out otherwise
        return StageCheck(stage, 1.0, None, 0.0)
    statistic = float(gap @ np.linalg.pinv(variance, rcond=SINGULAR, hermitian=True) @ gap)
    # Per standard deviation, so that a large arm does not always look worst.
    worst = int(np.argmax(-gap / np.sqrt(np.maximum(due, 1e-12))))
    # What the arm would have at the rate of all others.
    rest = np.arange(len(arms)) != worst
    missing = float(found[rest].sum() * due[worst] / due[rest].sum() - found[worst])
    return StageCheck(stage, float(stats.chi2.sf(statistic, rank)), arms[worst], missing)
