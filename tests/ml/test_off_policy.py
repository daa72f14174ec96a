"""Estimators against a world whose truth is known, their identities, and the refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.off_policy import (
    Estimate,
    Log,
    OffPolicyError,
    cell_means,
    clipped_ips,
    decide,
    diagnose,
    direct,
    doubly_robust,
    ips,
    snips,
    switch_dr,
)

# Four segments, three offers: reward rates, shares, the policy that logged, the one in question.
Q = np.array([[0.10, 0.12, 0.08], [0.05, 0.15, 0.05], [0.20, 0.18, 0.30], [0.02, 0.02, 0.02]])
SHARE = np.array([0.4, 0.3, 0.2, 0.1])
LOGGING = np.array([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.4, 0.4, 0.2], [0.8, 0.1, 0.1]])
TARGET = np.full((4, 3), 0.05)
TARGET[np.arange(4), Q.argmax(axis=1)] += 0.85
TRUTH = float(SHARE @ (TARGET * Q).sum(axis=1))


def world(
    n: int, seed: int, logging: np.ndarray = LOGGING
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment, action, reward of n units."""
    random = np.random.default_rng(seed)
    segment = random.choice(4, n, p=SHARE)
    action = (random.random(n)[:, None] > np.cumsum(logging[segment], axis=1)).sum(axis=1)
    reward = (random.random(n) < Q[segment, action]).astype(float)
    return segment, action, reward


def log_of(n: int = 4000, seed: int = 0) -> tuple[Log, np.ndarray]:
    segment, action, reward = world(n, seed)
    return Log(action, reward, LOGGING[segment]), segment


def table(runs: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Bias and coverage by (estimator, what is wrong), n = 4,000."""
    found: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for seed in range(runs):
        segment, action, reward = world(4000, seed)
        policy, q = TARGET[segment], Q[segment]
        right, wrong = LOGGING[segment], np.full((4000, 3), 1 / 3)
        for case, p, expected in (
            ("nothing", right, q),
            ("model", right, q + 0.05),
            ("propensity", wrong, q),
            ("both", wrong, q + 0.05),
        ):
            log = Log(action, reward, p)
            estimates: list[Estimate] = [
                ips(log, policy),
                snips(log, policy),
                direct(log, policy, expected),
                doubly_robust(log, policy, expected),
            ]
            for e in estimates:
                covered = e.interval.low <= TRUTH <= e.interval.high
                found.setdefault((e.method, case), []).append((e.value - TRUTH, covered))
        found.setdefault(("naive", "nothing"), []).append((reward.mean() - TRUTH, False))
    return {key: tuple(np.mean(rows, axis=0).tolist()) for key, rows in found.items()}


# Bias and coverage that were measured elsewhere in 1,000 runs; None: not said.
EXPECTED: dict[tuple[str, str], tuple[float, float | None]] = {
    ("naive", "nothing"): (-0.0421, None),
    ("ips", "nothing"): (0.0002, 0.953),
    ("snips", "nothing"): (0.0004, 0.945),
    ("direct", "nothing"): (0.0, 0.951),
    ("doubly_robust", "nothing"): (0.0004, 0.947),
    ("ips", "model"): (0.0002, None),
    ("direct", "model"): (0.05, 0.0),
    ("doubly_robust", "model"): (0.0005, 0.945),
    ("ips", "propensity"): (-0.0380, 0.01),
    ("snips", "propensity"): (-0.0277, 0.12),
    ("direct", "propensity"): (0.0, None),
    ("doubly_robust", "propensity"): (0.0004, 0.944),
    ("ips", "both"): (-0.0380, None),
    ("direct", "both"): (0.05, None),
    ("doubly_robust", "both"): (0.0047, 0.907),
}


def test_the_truth_of_the_world(shared: Path) -> None:
    fixture = dict(json.loads((shared / "fixtures" / "ab_fixtures.json").read_text()))["ope_dgp"]
    assert pytest.approx(fixture["V_e"], abs=1e-12) == TRUTH
    assert pytest.approx(fixture["V_b"], abs=1e-12) == SHARE @ (LOGGING * Q).sum(axis=1)
    assert fixture["q"] == Q.tolist()
    assert fixture["pi_b"] == LOGGING.tolist()
    diagnosis = diagnose(*_with_policy(log_of(20_000)))
    assert diagnosis.effective_share == pytest.approx(fixture["ess_over_n"], abs=0.01)


def _with_policy(made: tuple[Log, np.ndarray]) -> tuple[Log, np.ndarray]:
    return made[0], TARGET[made[1]]


def check_table(runs: int, bias: float, coverage: float) -> None:
    found = table(runs)
    for key, (expected_bias, expected_coverage) in EXPECTED.items():
        assert found[key][0] == pytest.approx(expected_bias, abs=bias), key
        if expected_coverage is not None:
            assert found[key][1] == pytest.approx(expected_coverage, abs=coverage), key


def test_bias_and_coverage_in_short() -> None:
    # standard errors of 120 runs: 0.0010 of a bias, 0.02 of a coverage
    check_table(120, bias=0.004, coverage=0.08)


@pytest.mark.slow
def test_bias_and_coverage_in_full() -> None:
    # two sets of 1,000 runs differ by so much in one of 300 comparisons
    check_table(1000, bias=0.0017, coverage=0.045)


def test_wrong_propensities_are_seen_in_their_weights() -> None:
    segment, action, reward = world(40_000, 1)
    wrong = Log(action, reward, np.full((40_000, 3), 1 / 3))
    found = diagnose(wrong, TARGET[segment])
    assert found.mean_weight == pytest.approx(0.9145, abs=0.03)
    assert any("not those with which was drawn" in problem for problem in found.problems)
    with pytest.raises(OffPolicyError, match="weights"):
        found.demand()
    right = diagnose(*_with_policy(log_of()))
    assert right.problems == ()
    right.demand()


def test_too_few_effective_units_are_refused() -> None:
    small = diagnose(*_with_policy(log_of(400)))
    assert small.effective_count < 200
    assert any("effective sample size" in problem for problem in small.problems)
    # many units, and a policy that does what was hardly ever done: under 5 % of them count
    n = 30_000
    random = np.random.default_rng(2)
    p = np.tile([0.99, 0.01], (n, 1))
    log = Log((random.random(n) > 0.99).astype(int), np.zeros(n), p)
    found = diagnose(log, np.tile([0.0, 1.0], (n, 1)))
    assert found.effective_count > 200
    assert any("effective sample size" in problem for problem in found.problems)


def test_a_policy_outside_the_support_is_refused_and_not_zero() -> None:
    n = 2000
    action = np.arange(n) % 2
    log = Log(action, np.ones(n), np.tile([0.5, 0.5, 0.0], (n, 1)))
    never = np.tile([0.0, 0.0, 1.0], (n, 1))
    assert any("support" in problem for problem in diagnose(log, never).problems)
    with pytest.raises(OffPolicyError, match="support"):
        diagnose(log, never).demand()
    with pytest.raises(OffPolicyError, match="support"):
        snips(log, never)
    decided = decide(log, never, {"incumbent": log.probabilities}, np.ones((n, 3)))
    assert not decided.promote
    assert "support" in decided.reason


def test_identities() -> None:
    log, segment = log_of()
    policy, q = TARGET[segment], Q[segment] + 0.03
    # the logging policy itself: every weight is 1
    assert ips(log, log.probabilities).value == pytest.approx(log.reward.mean(), abs=1e-12)
    assert diagnose(log, log.probabilities).problems == ()
    # no weight is trusted, all are
    assert switch_dr(log, policy, q, 0).value == direct(log, policy, q).value
    assert switch_dr(log, policy, q, np.inf).value == doubly_robust(log, policy, q).value
    assert clipped_ips(log, policy, np.inf).value == ips(log, policy).value
    assert clipped_ips(log, policy, 2.0).value < ips(log, policy).value
    # a self-normalised mean never leaves the rewards, however odd the weights
    odd = Log(log.action, log.reward, np.tile([1e-6, 1e-3, 1 - 1e-6 - 1e-3], (4000, 1)))
    assert 0 <= snips(odd, policy).value <= 1
    # every reward 1 higher
    up = Log(log.action, log.reward + 1, log.probabilities)
    assert snips(up, policy).value == pytest.approx(snips(log, policy).value + 1)
    shifted = doubly_robust(up, policy, q + 1).value
    assert shifted == pytest.approx(doubly_robust(log, policy, q).value + 1)
    mean = diagnose(log, policy).mean_weight
    assert ips(up, policy).value == pytest.approx(ips(log, policy).value + mean)


def test_the_order_of_units_does_not_matter() -> None:
    log, segment = log_of()
    new = np.random.default_rng(3).permutation(4000)
    moved = Log(log.action[new], log.reward[new], log.probabilities[new])
    q = Q[segment]
    for estimate in (ips, snips):
        assert estimate(moved, TARGET[segment[new]]).value == pytest.approx(
            estimate(log, TARGET[segment]).value, abs=1e-12
        )
    assert doubly_robust(moved, TARGET[segment[new]], q[new]).value == pytest.approx(
        doubly_robust(log, TARGET[segment], q).value, abs=1e-12
    )


def test_cell_means_have_not_seen_their_unit() -> None:
    log, segment = log_of(8000)
    folds = np.arange(8000) % 5
    expected = cell_means(segment, log, folds)
    assert np.abs(expected - Q[segment]).max() < 0.08
    changed = log.reward.copy()
    changed[0] += 1000
    again = cell_means(segment, Log(log.action, changed, log.probabilities), folds)
    assert (again[folds == 0] == expected[folds == 0]).all()
    assert (again != expected).any()


def test_a_better_policy_is_promoted_over_all_rivals() -> None:
    log, segment = log_of(20_000, 4)
    expected = cell_means(segment, log, np.arange(20_000) % 5)
    rivals = {"incumbent": log.probabilities, "response model": LOGGING[segment][:, [1, 0, 2]]}
    decided = decide(log, TARGET[segment], rivals, expected)
    assert decided.promote, decided.reason
    assert decided.gains["incumbent"].estimate == pytest.approx(TRUTH - 0.1062, abs=0.02)
    assert decided.reason.startswith("promoted; gain per customer over incumbent +0.0")


def test_looking_every_day_promotes_no_policy_that_is_worth_the_same() -> None:
    """Nine looks at 100 logs in which no action matters: uncorrected, they promote many."""
    promoted = {None: 0, 2_100: 0}
    for seed in range(100):
        segment, action, _ = world(2_100, seed)
        reward = (np.random.default_rng(10_000 + seed).random(2_100) < 0.2).astype(float)
        for planned, count in promoted.items():
            looks = (
                decide(
                    Log(action[:n], reward[:n], LOGGING[segment[:n]]),
                    TARGET[segment[:n]],
                    {"the incumbent": LOGGING[segment[:n]]},
                    np.full((n, 3), 0.2),
                    planned_count=planned,
                ).promote
                for n in range(900, 2_101, 150)
            )
            promoted[planned] = count + any(looks)
    assert promoted[None] >= 5, "looks that are not corrected must be seen to be wrong"
    assert promoted[2_100] <= 3


def test_beating_the_incumbent_alone_is_not_enough() -> None:
    log, segment = log_of(20_000, 5)
    expected = cell_means(segment, log, np.arange(20_000) % 5)
    rivals = {"incumbent": log.probabilities, "response model": TARGET[segment]}
    decided = decide(log, TARGET[segment], rivals, expected)
    assert not decided.promote
    assert "does not surely beat response model" in decided.reason
    assert decided.gains["response model"].high == 0


def test_lower_is_better() -> None:
    """Rewards that are churn: the policy that seeks them is not promoted, its opposite is."""
    log, segment = log_of(20_000, 6)
    expected = cell_means(segment, log, np.arange(20_000) % 5)
    rivals = {"incumbent": log.probabilities}
    worst = np.full((4, 3), 0.05)
    worst[np.arange(4), Q.argmin(axis=1)] += 0.85
    assert not decide(log, TARGET[segment], rivals, expected, larger_is_better=False).promote
    assert decide(log, worst[segment], rivals, expected, larger_is_better=False).promote


@pytest.mark.parametrize(
    ("action", "reward", "probabilities", "message"),
    [
        ([0, 1], [1.0], [[0.5, 0.5]] * 2, "one row per unit"),
        ([0, 1], [1.0, np.nan], [[0.5, 0.5]] * 2, "finite reward"),
        ([0, 1], [1.0, 0.0], [[0.5, 0.6]] * 2, "sum to 1"),
        ([0, 2], [1.0, 0.0], [[0.5, 0.5]] * 2, "not a column"),
        ([0, 1], [1.0, 0.0], [[1.0, 0.0]] * 2, "probability of 0"),
    ],
)
def test_bad_logs_are_refused(
    action: list[int], reward: list[float], probabilities: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Log(np.array(action), np.array(reward), np.array(probabilities))


def test_bad_policies_are_refused() -> None:
    log, segment = log_of(100)
    with pytest.raises(ValueError, match="shape"):
        ips(log, TARGET[segment][:50])
    with pytest.raises(ValueError, match="sum to 1"):
        ips(log, 2 * TARGET[segment])
    with pytest.raises(ValueError, match="expected rewards"):
        direct(log, TARGET[segment], np.full((100, 3), np.nan))
    with pytest.raises(ValueError, match="name the incumbent"):
        decide(log, TARGET[segment], {}, Q[segment])
