"""What another policy would have earned, from the log of the one that ran; or why nobody can say.

What belongs here: estimators with intervals, the checks that refuse an answer, the decision to
promote. What does not: how a policy is made (bandit.py, targeting.py), where logs lie.

Sources: Horvitz & Thompson 1952 (IPS), Swaminathan & Joachims, NeurIPS 2015 (SNIPS), Dudik et al.,
ICML 2011 (DR), Wang et al., ICML 2017 (switch-DR). Each estimate is a mean of one number per unit
(`scores`), so intervals are those of a mean and two policies are compared unit by unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.experiments.sequential import confidence_sequence
from ml.validation import Interval

Array = npt.NDArray[np.float64]

MIN_EFFECTIVE_COUNT = 200
MIN_EFFECTIVE_SHARE = 0.05
MAX_WEIGHT_ERROR = 4.0  # standard errors by which the mean weight may miss 1


class OffPolicyError(ValueError):
    """The log cannot tell what the policy would have earned; the message says why."""


@dataclass(frozen=True)
class Log:
    """What one policy did: n units, k actions.

    action: (n,), 0 .. k - 1; reward: (n,); probabilities: (n, k), with which the actions were drawn
    at the time (logged, never recomputed).
    """

    action: npt.NDArray[np.intp]
    reward: Array
    probabilities: Array

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit, rows that do not sum to 1, draws that could not happen."""
        n = len(self.action)
        if self.reward.shape != (n,) or self.probabilities.shape[:1] != (n,):
            raise ValueError(
                f"{n} actions, rewards of shape {self.reward.shape}, probabilities of shape "
                f"{self.probabilities.shape}: all need one row per unit"
            )
        if n == 0 or not np.isfinite(self.reward).all():
            raise ValueError("a log needs units, and a finite reward for each")
        _check_probabilities(self.probabilities, "logged probabilities")
        if not ((self.action >= 0) & (self.action < self.probabilities.shape[1])).all():
            raise ValueError("an action is not a column of the probabilities")
        if not (self.propensity > 0).all():
            raise ValueError("an action was drawn that had a probability of 0: the log is wrong")

    @property
    def propensity(self) -> Array:
        """Probability of what was drawn, (n,)."""
        return self.probabilities[np.arange(len(self.action)), self.action]

    def weights(self, policy: Array) -> Array:
        """pi_e(a | x) / pi_b(a | x) of what was drawn, (n,)."""
        return policy[np.arange(len(self.action)), self.action] / self.propensity


@dataclass(frozen=True)
class Estimate:
    """Value of a policy per unit with its 95 % interval; `scores` are the units' own."""

    method: str
    interval: Interval
    standard_error: float
    scores: Array

    @property
    def value(self) -> float:
        """The estimate."""
        return self.interval.estimate


@dataclass(frozen=True)
class Diagnosis:
    """Whether a log can tell of a policy: mean weight, effective units, and what forbids it."""

    mean_weight: float
    weight_error: float
    effective_count: float
    effective_share: float
    problems: tuple[str, ...]

    def demand(self) -> None:
        """Raise OffPolicyError with every problem, if there is one."""
        if self.problems:
            raise OffPolicyError("; ".join(self.problems))


def diagnose(log: Log, policy: npt.ArrayLike) -> Diagnosis:
    """Judge weights and support.

    The mean weight is 1 in expectation whatever the rewards: beyond 4 standard errors the logged
    probabilities are not those that were used. The effective count is (sum w)^2 / sum w^2.

    Raises:
        ValueError: the policy's shape differs from the log's, or its rows do not sum to 1.
    """
    target = _policy(log, policy)
    n = len(log.action)
    w = log.weights(target)
    mean = float(w.mean())
    se = float(w.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    # equal policies have weights of 1 up to rounding, and no spread to compare with
    error = (mean - 1) / se if se > 1e-12 else (0.0 if abs(mean - 1) < 1e-9 else math.inf)
    worth = float(w.sum() ** 2 / (w @ w)) if w.any() else 0.0
    problems = []
    unsupported = (target > 0) & (log.probabilities == 0)
    if unsupported.any():
        problems.append(
            f"support: the policy gives {int(unsupported.any(axis=1).sum())} of {n} units an "
            "action that could not be drawn; keep a floor under every arm"
        )
    if abs(error) > MAX_WEIGHT_ERROR:
        problems.append(
            f"weights: their mean is {mean:.4f}, {error:+.1f} standard errors from 1: the logged "
            "probabilities are not those with which was drawn"
        )
    if worth < MIN_EFFECTIVE_COUNT or worth < MIN_EFFECTIVE_SHARE * n:
        problems.append(
            f"effective sample size: {worth:.0f} of {n} units, at least {MIN_EFFECTIVE_COUNT} and "
            f"{MIN_EFFECTIVE_SHARE:.0%} are needed; the policies differ too much for this log"
        )
    return Diagnosis(mean, error, worth, worth / n, tuple(problems))


def ips(log: Log, policy: npt.ArrayLike) -> Estimate:
    """Mean of w r: unbiased with right propensities, whatever is known of the rewards."""
    return _mean("ips", log.weights(_policy(log, policy)) * log.reward)


def clipped_ips(log: Log, policy: npt.ArrayLike, limit: float) -> Estimate:
    """Mean of min(w, limit) r: less noise, biased towards 0."""
    w = np.minimum(log.weights(_policy(log, policy)), limit)
    return _mean("clipped_ips", w * log.reward)


def snips(log: Log, policy: npt.ArrayLike) -> Estimate:
    """Sum of w r over sum of w, with the delta method's interval: never beyond the rewards."""
    w = log.weights(_policy(log, policy))
    if not w.sum() > 0:
        raise OffPolicyError("support: the policy would have done nothing of what was done")
    value = float(w @ log.reward / w.sum())
    return _mean("snips", value + w * (log.reward - value) / w.mean())


def direct(log: Log, policy: npt.ArrayLike, expected: npt.ArrayLike) -> Estimate:
    """Mean of what the reward model says: as good as the model, whose error no interval shows.

    expected: (n, k), the reward of each action by a model that has not seen the unit.
    """
    target = _policy(log, policy)
    return _mean("direct", (target * _expected(log, expected)).sum(axis=1))


def doubly_robust(log: Log, policy: npt.ArrayLike, expected: npt.ArrayLike) -> Estimate:
    """Direct, plus the mean of w times what the model missed: right if either of the two is."""
    return _doubly_robust("doubly_robust", log, policy, expected, math.inf)


def switch_dr(log: Log, policy: npt.ArrayLike, expected: npt.ArrayLike, limit: float) -> Estimate:
    """Doubly robust, trusting the model where a weight exceeds `limit`: 0 is direct."""
    return _doubly_robust("switch_dr", log, policy, expected, limit)


def cell_means(
    cells: npt.ArrayLike, log: Log, folds: npt.NDArray[np.int64], *, prior_count: float = 20.0
) -> Array:
    """Reward of each action in each unit's cell (segment), from the other folds, (n, k).

    Cells with few units are drawn to the action's own mean, which counts `prior_count` units.
    """
    cell = np.unique(np.asarray(cells), return_inverse=True)[1]
    n, k = log.probabilities.shape
    expected = np.zeros((n, k))
    for fold in np.unique(folds):
        rest, own = folds != fold, folds == fold
        for action in range(k):
            rows = rest & (log.action == action)
            overall = float(log.reward[rows].mean()) if rows.any() else 0.0
            sums = np.bincount(cell[rows], log.reward[rows], minlength=cell.max() + 1)
            counts = np.bincount(cell[rows], minlength=cell.max() + 1)
            means = (sums + prior_count * overall) / (counts + prior_count)
            expected[own, action] = means[cell[own]]
    return expected


@dataclass(frozen=True)
class PolicyDecision:
    """Whether a policy replaces the incumbent, and why; gains are per unit, larger is better."""

    promote: bool
    reason: str
    gains: Mapping[str, Interval]


def decide(
    log: Log,
    candidate: npt.ArrayLike,
    rivals: Mapping[str, npt.ArrayLike],
    expected: npt.ArrayLike,
    *,
    larger_is_better: bool = True,
    planned_count: int | None = None,
) -> PolicyDecision:
    """Promote where the lower bound of the doubly robust gain over every rival is above 0.

    rivals: policies by name, the incumbent and the response model's among them. Gains are taken
    unit by unit on one log, at the level 0.95: of one look, or, with planned_count (units at which
    it is tightest, chosen beforehand), of a confidence sequence that holds at every look. A log
    that cannot tell of the candidate or of a rival promotes nobody, and the decision says why.
    """
    if not rivals:
        raise ValueError("a policy is promoted over something: name the incumbent")
    for name, policy in {"the candidate": candidate, **rivals}.items():
        if problems := diagnose(log, policy).problems:
            return PolicyDecision(False, f"not promoted; {name}: {'; '.join(problems)}", {})
    sign = 1.0 if larger_is_better else -1.0
    own = doubly_robust(log, candidate, expected).scores
    gains = {
        name: _gain(sign * (own - doubly_robust(log, rival, expected).scores), planned_count)
        for name, rival in rivals.items()
    }
    beaten = [name for name, gain in gains.items() if gain.low > 0]
    told = ", ".join(f"{name} {gain}" for name, gain in gains.items())
    if len(beaten) == len(gains):
        return PolicyDecision(True, f"promoted; gain per customer over {told}", gains)
    held = ", ".join(name for name in gains if name not in beaten)
    return PolicyDecision(
        False, f"not promoted: it does not surely beat {held}; gain per customer over {told}", gains
    )


def _doubly_robust(
    method: str, log: Log, policy: npt.ArrayLike, expected: npt.ArrayLike, limit: float
) -> Estimate:
    target, q = _policy(log, policy), _expected(log, expected)
    w = log.weights(target)
    missed = log.reward - q[np.arange(len(log.action)), log.action]
    return _mean(method, (target * q).sum(axis=1) + np.where(w <= limit, w, 0.0) * missed)


def _gain(scores: Array, planned_count: int | None) -> Interval:
    found = _mean("gain", scores)
    if planned_count is None or not 0 < found.standard_error < math.inf:
        return found.interval
    low, high, _ = confidence_sequence(
        found.value, found.standard_error, len(scores), planned_count
    )
    return Interval(found.value, low, high)


def _mean(method: str, scores: Array) -> Estimate:
    """Mean with its interval (Student's t)."""
    from scipy import stats

    n = len(scores)
    value = float(scores.mean())
    se = float(scores.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    margin = float(stats.t.isf(0.025, n - 1)) * se if n > 1 else math.inf
    return Estimate(method, Interval(value, value - margin, value + margin), se, scores)


def _policy(log: Log, policy: npt.ArrayLike) -> Array:
    target = np.asarray(policy, dtype="float64")
    if target.shape != log.probabilities.shape:
        raise ValueError(
            f"the policy has shape {target.shape}, the log's probabilities "
            f"{log.probabilities.shape}"
        )
    _check_probabilities(target, "the policy's probabilities")
    return target


def _expected(log: Log, expected: npt.ArrayLike) -> Array:
    q = np.asarray(expected, dtype="float64")
    if q.shape != log.probabilities.shape or not np.isfinite(q).all():
        raise ValueError(
            f"expected rewards: finite values of shape {log.probabilities.shape} are needed, got "
            f"{q.shape}"
        )
    return q


def _check_probabilities(p: Array, what: str) -> None:
    if p.ndim != 2 or not ((p >= 0) & (p <= 1)).all() or np.abs(p.sum(axis=1) - 1).max() > 1e-6:
        raise ValueError(f"{what}: rows of numbers in [0, 1] that sum to 1 are needed")
