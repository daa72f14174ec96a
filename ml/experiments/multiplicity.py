"""Several questions at once: adjusted p-values for goals, non-inferiority for guardrails.

What belongs here: rules over p-values and effects. What does not: which metric is a goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ml.experiments.two_sample import Effect

Verdict = Literal["non_inferior", "inferior", "inconclusive"]


def adjusted_p_values(
    p_values: Sequence[float | None], method: Literal["holm", "fdr_bh"] = "holm"
) -> list[float | None]:
    """p-values adjusted over those that are known, in their order; None stays None.

    holm: one false claim among all with probability alpha at most (Holm 1979), for goals. fdr_bh:
    share of false ones among the claims (Benjamini & Hochberg 1995), for what is only explored.
    """
    from statsmodels.stats.multitest import multipletests

    known = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    if len(known) == 1:  # nothing to adjust; statsmodels would collect garbage first, for 0.1 s
        adjusted[known[0]] = p_values[known[0]]
    elif known:
        found = multipletests([p_values[i] for i in known], method=method)[1]
        for i, p in zip(known, found, strict=True):
            adjusted[i] = float(p)
    return adjusted


def non_inferiority(effect: Effect, margin: float, *, higher_is_better: bool = True) -> Verdict:
    """Whether the harm can be excluded to reach `margin` (> 0, in the metric's unit).

    Read from the two-sided interval of `effect`, so one-sided at half its error: non_inferior where
    all of it is better than -margin, inferior where all of it is worse, else inconclusive.
    """
    if not margin > 0:
        raise ValueError(f"the margin of a guardrail must be positive, got {margin}")
    if effect.low is None or effect.high is None:
        return "inconclusive"
    worst, best = effect.low, effect.high
    if not higher_is_better:
        worst, best = -best, -worst
    if worst > -margin:
        return "non_inferior"
    return "inferior" if best < -margin else "inconclusive"
