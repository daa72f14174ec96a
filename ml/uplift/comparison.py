"""Does a ranking by uplift beat what the shop could do without one? Paired, with intervals.

What belongs here: candidates and baselines on the same randomised units, the bootstrap of their
differences, the decision in words. What does not: how scores are made (learners.py, training.py).

The baselines are what is there anyway: ranking by the response model, ranking by churn risk,
contacting nobody, contacting everybody. A candidate is promoted only where the interval of its
difference to the best of them excludes zero. Intervals are by Poisson bootstrap over units with the
same weights for all, since two rankings of the same units err together; with several candidates
each interval is at the level 1 - 0.05 / candidates, since the best of several is best by luck too.
The spread over overlapping splits is no standard error, and is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.uplift.curves import (
    Array,
    Ranked,
    Totals,
    checked,
    perfect_area,
    propensities,
    uplift_at_k,
)
from ml.validation import Interval, customer_bootstrap, interval, poisson_weights

NOBODY, EVERYBODY = "nobody", "everybody"
ALPHA = 0.05


@dataclass(frozen=True)
class Entry:
    """One ranking or rule: the value it is compared by, and what else is worth knowing of it."""

    name: str
    is_baseline: bool
    value: float
    details: Mapping[str, float]


@dataclass(frozen=True)
class Decision:
    """Whether a candidate is used, which one, and why in words."""

    promote: bool
    name: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Candidates against baselines by one measure, larger is better.

    `differences` holds each candidate's value less that of `best_baseline`.
    """

    measure: str
    entries: tuple[Entry, ...]
    best_baseline: str
    differences: Mapping[str, Interval]
    unit_count: int

    def entry(self, name: str) -> Entry:
        """Return the entry of that name."""
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def best_candidate(self) -> str:
        """Return the candidate with the largest difference; of equal ones the first."""
        return max(self.differences, key=lambda key: self.differences[key].estimate)

    @property
    def decision(self) -> Decision:
        """Promote the best candidate, if the interval of its difference lies above zero."""
        name = self.best_candidate
        found = self.differences[name]
        by = f"by {found} in {self.measure} on {self.unit_count:,} units"
        if found.low > 0:
            return Decision(True, name, f"{name} beats {self.best_baseline} {by}")
        return Decision(
            False,
            self.best_baseline,
            f"nothing beats {self.best_baseline}: the best candidate, {name}, differs from it {by},"
            " and that interval does not lie above zero",
        )

    def table(self) -> str:
        """Return the comparison as a Markdown table, best first."""
        names = list(self.entries[0].details)
        lines = [
            f"| ranking | {self.measure} | " + " | ".join(names) + " | less best baseline |",
            "| --- |" + " --- |" * (len(names) + 2),
        ]
        for entry in sorted(self.entries, key=lambda entry: -entry.value):
            details = " | ".join(f"{entry.details[name]:.4f}" for name in names)
            found = self.differences.get(entry.name)
            told = str(found) if found else ("baseline" if entry.is_baseline else "")
            lines.append(f"| {entry.name} | {entry.value:.4f} | {details} | {told} |")
        return "\n".join(lines)


def compare_rankings(
    outcome: npt.ArrayLike,
    treatment: npt.ArrayLike,
    propensity: npt.ArrayLike,
    units: pd.Series,
    candidates: Mapping[str, Array],
    baselines: Mapping[str, Array],
    *,
    k: float = 0.3,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare scores by the normalised Qini (see `qini_score`) on units that they have not seen.

    `nobody` and `everybody` are added to the baselines: neither ranks, so both have a Qini of 0.
    The area of the perfect curve is that of the sample in every resample: it is the unit of
    measurement, and not estimated.

    Raises:
        ValueError: no candidate; see `ml.uplift.curves`.
    """
    if not candidates:
        raise ValueError("there is no candidate to compare")
    y, t = checked(outcome, treatment)
    p = propensities(propensity, len(y))
    unit = perfect_area(y, t, p)
    constant = np.zeros(len(y))
    known = {NOBODY: constant, EVERYBODY: constant, **baselines}
    scores = {**candidates, **known}
    ranked = {name: Ranked(y, t, score, p) for name, score in scores.items()}
    value = {name: float(_area(found.totals()) / unit) for name, found in ranked.items()}
    best = max(known, key=lambda name: value[name])  # of equal ones the simplest

    # A ranking of many units is summed 2,000 times: only those that an interval needs.
    resampled: dict[str, list[Array]] = {name: [] for name in (*candidates, best)}
    codes, keys = pd.factorize(np.asarray(units, dtype=object), sort=True)
    for weights in poisson_weights(len(keys), n_resamples, seed, at_once=20):
        drawn = weights[:, codes]
        for name, areas in resampled.items():
            areas.append(_area(ranked[name].totals(drawn)) / unit)
    draws = {name: np.concatenate(areas) for name, areas in resampled.items()}
    level = 1 - ALPHA / len(candidates)
    return Comparison(
        "Qini",
        tuple(
            Entry(
                name,
                name in known,
                value[name],
                {
                    f"uplift@{k:.0%}": uplift_at_k(y, t, score, k, p),
                    f"uplift@{k:.0%} by group": uplift_at_k(y, t, score, k, p, strategy="by_group"),
                },
            )
            for name, score in scores.items()
        ),
        best,
        {
            name: interval(value[name] - value[best], draws[name] - draws[best], level)
            for name in candidates
        },
        len(keys),
    )


def compare_rules(
    profit: npt.ArrayLike,
    treatment: npt.ArrayLike,
    propensity: npt.ArrayLike,
    units: pd.Series,
    candidates: Mapping[str, npt.NDArray[np.bool_]],
    baselines: Mapping[str, npt.NDArray[np.bool_]],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare rules of whom to contact by incremental profit per unit, against contacting nobody.

    `profit` is what each unit brought as it was treated, all costs of the arm taken off. A rule
    names who is contacted; it must not have been chosen by these outcomes. The value of a rule is
    the mean of contacted * (t / p - (1 - t) / (1 - p)) * (profit - mean profit): unbiased with
    known propensities; taking off the mean costs nothing and spares most of the noise.

    Raises:
        ValueError: no candidate; see `ml.uplift.curves`.
    """
    if not candidates:
        raise ValueError("there is no candidate to compare")
    y, t = checked(profit, treatment)
    p = propensities(propensity, len(y))
    assert p is not None
    known = {
        NOBODY: np.zeros(len(y), dtype=bool),
        EVERYBODY: np.ones(len(y), dtype=bool),
        **baselines,
    }
    rules = {name: np.asarray(rule, dtype=bool) for name, rule in {**candidates, **known}.items()}
    effect = (t / p - (1 - t) / (1 - p)) * (y - y.mean())
    values = np.column_stack([rule * effect for rule in rules.values()])
    value = dict(zip(rules, values.mean(axis=0).tolist(), strict=True))
    best = max(known, key=lambda name: value[name])
    means = customer_bootstrap(values, units, n_resamples=n_resamples, seed=seed)
    draws = dict(zip(rules, means.T, strict=True))
    level = 1 - ALPHA / len(candidates)
    return Comparison(
        "profit per customer",
        tuple(
            Entry(name, name in known, value[name], {"contacted": float(rule.mean())})
            for name, rule in rules.items()
        ),
        best,
        {
            name: interval(value[name] - value[best], draws[name] - draws[best], level)
            for name in candidates
        },
        int(pd.Series(np.asarray(units, dtype=object)).nunique()),
    )


def _area(totals: Totals) -> Array:
    """Area of Qini curves above their chords; the last axis runs along the curve."""
    height, units = totals.qini, totals.units
    return np.asarray(np.trapezoid(height, units, axis=-1) - units[..., -1] * height[..., -1] / 2)
