"""Posteriors, exact probabilities, the floor, and what adaptive weights do to plain means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from ml.bandit import (
    POOLED,
    BetaPosterior,
    Evidence,
    NormalPosterior,
    Settings,
    best_probabilities,
    probabilities,
    update_policy,
    with_floor,
)

EVEN = {"control": 0.5, "coupon": 0.5}


def log_of(counts: dict[tuple[str, str], tuple[int, int]], propensity: float = 0.5) -> pd.DataFrame:
    """(segment, arm) -> (customers, successes)."""
    rows = [
        (segment, arm, propensity, float(i < successes))
        for (segment, arm), (n, successes) in counts.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows, columns=["segment", "arm", "propensity", "reward"])


def test_two_rates_against_the_integral() -> None:
    posteriors = [BetaPosterior(10, 90), BetaPosterior(15, 85)]
    a, b = stats.beta(11, 91), stats.beta(16, 86)
    exact = integrate.quad(lambda x: a.pdf(x) * b.cdf(x), 0, 1, epsabs=1e-12)[0]
    assert best_probabilities(posteriors)[0] == pytest.approx(exact, abs=1e-5)


def test_two_means_against_the_closed_form() -> None:
    posteriors = [NormalPosterior(0.10, 0.05), NormalPosterior(0.15, 0.01)]
    exact = stats.norm.sf(0.05 / np.hypot(0.05, 0.01))
    assert best_probabilities(posteriors)[0] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_several_arms_against_draws(larger_is_better: bool) -> None:
    """Very different widths; less is better too, for two arms and more (churn)."""
    posteriors = [BetaPosterior(10, 90), BetaPosterior(1000, 9000), BetaPosterior(0, 0)]
    random = np.random.default_rng(1)
    drawn = np.array([random.beta(1 + p.successes, 1 + p.failures, 400_000) for p in posteriors])
    best = drawn.argmax(axis=0) if larger_is_better else drawn.argmin(axis=0)
    share = np.bincount(best, minlength=3) / 400_000
    found = best_probabilities(posteriors, larger_is_better=larger_is_better)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert found == pytest.approx(share, abs=4 * 0.5 / np.sqrt(400_000))
    pair = best_probabilities(posteriors[:2], larger_is_better=larger_is_better)
    other = best_probabilities(posteriors[:2], larger_is_better=not larger_is_better)
    assert pair == pytest.approx(other[::-1], abs=1e-6)  # of two, one is best and one is least


def test_growthbook_weights(shared: Path) -> None:
    """Its plain Thompson by 10,000 draws; ours is exact, so a sampling error apart."""
    fixtures = dict(json.loads((shared / "fixtures" / "ab_fixtures.json").read_text()))
    published = fixtures["bandit_top2=False_floor=0.0"]["w"]
    sums = [(10, 2000), (20, 2000), (30, 2000), (300, 20_000)]
    posteriors = [
        NormalPosterior.of(Evidence(1000, 1000.0, s / 1000, (ss - s * s / 1000) / 999))
        for s, ss in sums
    ]
    chances = best_probabilities(posteriors)
    assert chances == pytest.approx(published, abs=4 * np.sqrt(0.05 * 0.95 / 10_000))
    floored = fixtures["bandit_top2=False_floor=0.1"]["w"]
    assert with_floor(published, 0.1) == pytest.approx(floored, abs=1e-12)


def test_the_floor() -> None:
    assert with_floor([0.0, 1.0], 0.05) == pytest.approx([0.05, 0.95])
    assert with_floor([0.9, 0.1], 0.5) == pytest.approx([0.5, 0.5])
    assert with_floor([1.0, 0.0, 0.0], 0.0).tolist() == [1, 0, 0]
    for floor in (-0.1, 0.6):
        with pytest.raises(ValueError, match="floor"):
            with_floor([0.5, 0.5], floor)
    with pytest.raises(ValueError, match="floor"):
        Settings(floor=0.6)


def test_conjugate_updates() -> None:
    evidence = Evidence.of([1, 0, 0, 1], [0.5] * 4)
    assert (evidence.count, evidence.effective_count, evidence.mean) == (4, 4.0, 0.5)
    assert BetaPosterior.of(evidence) == BetaPosterior(2.0, 2.0)
    flat = NormalPosterior.of(Evidence.of([1.0, 2.0, 3.0], [0.5] * 3))
    assert (flat.mean, flat.sd) == pytest.approx((2.0, np.sqrt(1 / 3)))
    informed = NormalPosterior.of(Evidence(4, 4.0, 2.0, 4.0), prior_mean=0.0, prior_sd=1.0)
    assert (informed.mean, informed.sd) == pytest.approx((1.0, np.sqrt(0.5)))
    assert NormalPosterior.of(Evidence.of([], []), 0.3, 0.2) == NormalPosterior(0.3, 0.2)
    with pytest.raises(ValueError, match="needs a prior"):
        NormalPosterior.of(Evidence.of([1.0], [0.5]))
    with pytest.raises(ValueError, match="mean of 2"):
        BetaPosterior.of(Evidence.of([2.0], [0.5]))
    with pytest.raises(ValueError, match="propensity"):
        Evidence.of([1.0], [0.0])


def test_a_segment_learns_for_itself_once_it_can() -> None:
    log = log_of(
        {
            ("loyal", "control"): (400, 80),
            ("loyal", "coupon"): (400, 80),
            ("asleep", "control"): (400, 20),
            ("asleep", "coupon"): (400, 80),
            ("new", "control"): (30, 3),
            ("new", "coupon"): (40, 4),
        }
    )
    policy = update_policy(log, EVEN, ["loyal", "asleep", "new", "unseen"], Settings())
    by = policy.set_index(["segment", "arm"])
    assert by.loc[("asleep", "coupon"), "propensity"] == pytest.approx(0.95, abs=1e-3)
    assert by.loc[("loyal", "coupon"), "propensity"] == pytest.approx(0.5, abs=1e-3)
    for few in ("new", "unseen"):
        assert (
            by.loc[few, "propensity"].to_numpy() == by.loc[POOLED, "propensity"].to_numpy()
        ).all()
        assert "all segments together" in by.loc[(few, "coupon"), "reason"]
    assert by.loc[("new", "control"), "customer_count"] == 30
    assert policy.groupby("segment")["propensity"].sum().to_numpy() == pytest.approx(1, abs=1e-12)
    assert (policy["propensity"] >= policy["floor"] - 1e-12).all()
    assert by.loc[("asleep", "coupon"), "posterior_mean"] == pytest.approx(81 / 402)


def test_lower_is_better() -> None:
    log = log_of({("a", "control"): (500, 100), ("a", "coupon"): (500, 50)})
    up = update_policy(log, EVEN, ["a"], Settings()).set_index(["segment", "arm"])
    down = update_policy(log, EVEN, ["a"], Settings(larger_is_better=False))
    down = down.set_index(["segment", "arm"])
    assert up.loc[("a", "coupon"), "propensity"] == pytest.approx(0.05, abs=1e-3)
    assert down.loc[("a", "coupon"), "propensity"] == pytest.approx(0.95, abs=1e-3)


def test_money_is_a_reward() -> None:
    random = np.random.default_rng(2)
    log = pd.DataFrame(
        {
            "segment": "a",
            "arm": np.repeat(["control", "coupon"], 500),
            "propensity": 0.5,
            "reward": np.r_[random.gamma(2, 5, 500), random.gamma(2, 7, 500)],
        }
    )
    policy = update_policy(log, EVEN, ["a"], Settings(reward="normal"))
    found = policy.set_index(["segment", "arm"])
    assert found.loc[("a", "coupon"), "best_probability"] > 0.99
    same = update_policy(log.assign(reward=1.0), EVEN, ["a"], Settings(reward="normal"))
    assert (same["propensity"] == 0.5).all()
    assert "do not differ" in same["reason"].iloc[0]


def test_before_there_is_evidence_the_campaign_decides() -> None:
    weights = {"control": 0.98, "coupon": 0.02}
    policy = update_policy(log_of({}), weights, ["a"], Settings(floor=0.05))
    assert policy["best_probability"].isna().all()
    assert policy["propensity"].tolist() == pytest.approx([0.932, 0.068] * 2)
    assert "0 closed windows, 100 are needed" in policy["reason"].iloc[0]
    with pytest.raises(ValueError, match="the campaign does not"):
        update_policy(log_of({("a", "third"): (1, 0)}), weights, ["a"], Settings())
    with pytest.raises(ValueError, match="sum to"):
        update_policy(log_of({}), {"control": 0.5}, ["a"], Settings())


def test_the_order_of_rows_does_not_matter() -> None:
    log = log_of({("a", "control"): (200, 31), ("a", "coupon"): (200, 40)})
    log["propensity"] = np.where(np.arange(len(log)) % 3, 0.3, 0.7)
    policy = update_policy(log, EVEN, ["a"], Settings())
    again = update_policy(log.sample(frac=1, random_state=1), EVEN, ["a"], Settings())
    pd.testing.assert_frame_equal(policy, again)


def test_an_unknown_segment_takes_what_all_get() -> None:
    log = log_of({("a", "control"): (300, 30), ("a", "coupon"): (300, 60)})
    policy = update_policy(log, EVEN, ["a", "b"], Settings())
    found = probabilities(policy, ["a", "unheard of", "all", "b"], ["coupon", "control"])
    by = policy.set_index(["segment", "arm"])["propensity"]
    assert found[0].tolist() == [by["a", "coupon"], by["a", "control"]]
    assert found[1].tolist() == found[2].tolist() == [by["all", "coupon"], by["all", "control"]]
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)


# ------------------------------------------------------------------ adaptive logging


def adaptive(rates: np.ndarray, per_day: int, seed: int) -> pd.DataFrame:
    """Thompson sampling over two equal arms; `rates` are the base rates of the days."""
    random = np.random.default_rng(seed)
    p, days = 0.5, []
    for rate in rates:
        arm = (random.random(per_day) < p).astype(int)
        reward = (random.random(per_day) < rate).astype(float)
        days.append(
            pd.DataFrame({"arm": arm, "reward": reward, "propensity": np.where(arm, p, 1 - p)})
        )
        log = pd.concat(days)
        mine = [log[log["arm"] == a] for a in (0, 1)]
        posteriors = [
            BetaPosterior.of(Evidence.of(one["reward"], one["propensity"])) for one in mine
        ]
        p = float(with_floor(best_probabilities(posteriors), 0.05)[1])
    return pd.concat(days, ignore_index=True)


def arm_means(log: pd.DataFrame, *, weighted: bool) -> list[float]:
    return [
        Evidence.of(one["reward"], one["propensity"] if weighted else np.ones(len(one))).mean
        for _, one in log.groupby("arm")
    ]


@pytest.mark.slow
def test_adaptive_weights_bias_plain_means_and_not_weighted_ones() -> None:
    """Equal arms at 10 %: the plain means come out low."""
    logs = [adaptive(np.full(20, 0.1), 50, seed) for seed in range(250)]
    naive = np.array([arm_means(log, weighted=False) for log in logs]) - 0.1
    weighted = np.array([arm_means(log, weighted=True) for log in logs]) - 0.1
    se = naive.std() / np.sqrt(naive.size)
    assert naive.mean() < -3 * se
    assert abs(weighted.mean()) < 0.5 * abs(naive.mean())


def test_a_drifting_base_rate_is_no_effect() -> None:
    """The base rate climbs from 5 to 15 % while the weights move: nothing is different."""
    logs = [adaptive(np.linspace(0.05, 0.15, 10), 200, seed) for seed in range(40)]
    naive = np.array([np.subtract(*arm_means(log, weighted=False)) for log in logs])
    weighted = np.array([np.subtract(*arm_means(log, weighted=True)) for log in logs])
    assert (np.abs(naive) > 0.02).mean() > 0.15
    assert abs(weighted.mean()) < 3 * weighted.std() / np.sqrt(len(logs))


def test_a_ramp_is_no_effect() -> None:
    """5 % treated at a base rate of 5 %, then 50 % at 8 %: pooled, nearly always significant."""
    random = np.random.default_rng(3)
    wrong = right = 0
    for _ in range(300):
        p = np.repeat([0.05, 0.5], 10_000)
        arm = random.random(20_000) < p
        reward = (random.random(20_000) < np.repeat([0.05, 0.08], 10_000)).astype(float)
        z = []
        for propensity in (np.ones(20_000), np.where(arm, p, 1 - p)):
            a, b = (Evidence.of(reward[m], propensity[m]) for m in (arm, ~arm))
            spread = a.variance / a.effective_count + b.variance / b.effective_count
            z.append(abs(a.mean - b.mean) / np.sqrt(spread))
        wrong += z[0] > 1.96
        right += z[1] > 1.96
    assert wrong / 300 > 0.9
    assert right / 300 < 0.1
