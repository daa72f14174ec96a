"""Sample-ratio check: are the arms as large as their weights say?

What belongs here: the chi-square test on counts of units. What does not: what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence

# GrowthBook's and Statsig's alarm level; at 0.001 thirty daily looks alarm falsely in 0.95 %.
SRM_ALARM = 0.001


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
