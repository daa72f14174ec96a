"""Sample-ratio check: are the arms as large as their weights say, at every stage?

What belongs here: the chi-square test on counts of units, and the arm that is short. What does not:
what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def check_stage(stage: str, counts: Mapping[str, int], expected: Mapping[str, float]) -> StageCheck:
    """Compare the units of each arm with what was due: the draw itself.

    counts: units per arm. expected: any numbers in proportion to what was due, e.g. weights. Where
    fewer than two arms can be compared the p-value is None.
    """
    arms = [arm for arm in counts if expected.get(arm, 0) > 0]
    units, due = sum(counts[arm] for arm in arms), sum(expected[arm] for arm in arms)
    if len(arms) < 2 or units == 0:
        return StageCheck(stage, None, None, 0.0)
    p_value = srm_p_value([counts[arm] for arm in arms], [expected[arm] for arm in arms])
    return _checked(stage, p_value, counts, {arm: units * expected[arm] / due for arm in arms})


def check_passage(stage: str, passed: Mapping[str, int], entered: Mapping[str, int]) -> StageCheck:
    """Compare the share of each arm's units that reached a stage: what came after the draw.

    passed, entered: units per arm at the stage and at the one before. Given who entered, the test
    of homogeneity sees far more than the ratio of those who passed: 1,000 of 50,000 lost in one arm
    have p = 0.0015 by the ratio, and 1e-221 here.
    """
    from scipy import stats

    arms = [arm for arm in passed if entered.get(arm, 0) > 0]
    if bad := [arm for arm in arms if not 0 <= passed[arm] <= entered[arm]]:
        raise ValueError(f"{stage}: more units of {bad} passed than had entered")
    total_in, total_out = sum(entered[a] for a in arms), sum(passed[a] for a in arms)
    if len(arms) < 2 or total_out == 0:
        return StageCheck(stage, None, None, 0.0)
    expected = {arm: total_out * entered[arm] / total_in for arm in arms}
    if total_out == total_in:
        return StageCheck(stage, 1.0, None, 0.0)
    table = [[passed[arm], entered[arm] - passed[arm]] for arm in arms]
    return _checked(
        stage, float(stats.chi2_contingency(table, correction=False)[1]), passed, expected
    )


def _checked(
    stage: str, p_value: float, counts: Mapping[str, int], expected: Mapping[str, float]
) -> StageCheck:
    # Per standard deviation, so that a large arm does not always look worst.
    worst = max(expected, key=lambda arm: (expected[arm] - counts[arm]) / expected[arm] ** 0.5)
    # What the arm would have at the rate of all others.
    others = sum(counts[arm] for arm in expected if arm != worst)
    due = sum(expected[arm] for arm in expected if arm != worst)
    return StageCheck(stage, p_value, worst, others * expected[worst] / due - counts[worst])
