"""Effects against real e-mail data, scipy, and formulas; published values: test_ab_fixtures.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ml.experiments.two_sample import (
    Effect,
    PairedSample,
    Sample,
    cuped,
    cuped_sample,
    cuped_theta,
    pooled_cap,
    poststratified,
    ratio,
    ratio_pair,
    variance_reduction,
    welch,
)


@pytest.fixture(scope="module")
def hillstrom(shared: Path) -> dict[str, pd.DataFrame]:
    frame = pd.read_parquet(shared / "data" / "hillstrom" / "hillstrom.parquet")
    return {str(arm): group for arm, group in frame.groupby("segment")}


def test_a_useless_covariate_is_said_to_be_useless(hillstrom: dict[str, pd.DataFrame]) -> None:
    # Twelve months of history explain next to nothing here; a reduction is measured, never assumed.
    for arm in ("Mens E-Mail", "Womens E-Mail"):
        groups = (hillstrom["No E-Mail"], hillstrom[arm])
        pairs = [PairedSample.from_values(g["spend"], g["history"]) for g in groups]
        assert variance_reduction(*pairs) == pytest.approx(0.0004, abs=1e-4)


def test_the_absolute_difference_decides_and_its_goldens_hold(
    hillstrom: dict[str, pd.DataFrame],
) -> None:
    golden = {
        ("Mens E-Mail", "visit"): (0.076589564, 1.4e-112),
        ("Mens E-Mail", "conversion"): (0.006805007, 1.5e-13),
        ("Womens E-Mail", "visit"): (0.045233107, 2.4e-44),
        ("Womens E-Mail", "conversion"): (0.003111058, 1.5603e-4),
    }
    for (arm, metric), (difference, p_value) in golden.items():
        groups = (hillstrom["No E-Mail"][metric], hillstrom[arm][metric])
        effect = welch(*(Sample.from_count(int(g.sum()), len(g)) for g in groups))
        assert effect.effect == pytest.approx(difference, abs=5e-10)
        assert effect.p_value == pytest.approx(p_value, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=40),
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=40),
)
def test_welch_equals_scipy_and_is_antisymmetric(a: list[float], b: list[float]) -> None:
    ours = welch(Sample.from_values(a), Sample.from_values(b))
    if ours.status != "ok" or min(np.ptp(a), np.ptp(b)) < 1e-3:
        return
    theirs = stats.ttest_ind(b, a, equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    low, high = theirs.confidence_interval()
    assert [ours.low, ours.high] == pytest.approx([low, high], rel=1e-6, abs=1e-6)
    back = welch(Sample.from_values(b), Sample.from_values(a))
    assert ours.effect is not None
    assert back.effect == pytest.approx(-ours.effect)


def test_the_relative_interval_is_the_log_delta_one() -> None:
    effect = welch(Sample(1000, 10.0, 25.0), Sample(1000, 12.0, 36.0))
    t = stats.t.isf(0.025, (0.061**2) / (0.025**2 / 999 + 0.036**2 / 999))
    margin = t * math.sqrt(0.036 / 144 + 0.025 / 100)
    assert effect.relative_effect == pytest.approx(0.2)
    assert effect.relative_low == pytest.approx(1.2 * math.exp(-margin) - 1)
    assert effect.relative_high == pytest.approx(1.2 * math.exp(margin) - 1)
    assert welch(Sample(9, 0.0, 1.0), Sample(9, 1.0, 1.0)).relative_effect is None


def test_nothing_to_test_with_is_said_and_not_computed() -> None:
    few = welch(Sample.from_values([1.0]), Sample.from_values([2.0, 3.0]))
    assert (few.status, few.effect, few.p_value) == ("too_few_units", 1.5, None)
    flat = welch(Sample.from_values([1.0, 1.0]), Sample.from_values([2.0, 2.0]))
    assert (flat.status, flat.effect, flat.low) == ("no_variance", 1.0, None)
    assert welch(Sample.from_values([0.1] * 3), Sample.from_values([0.2] * 3)).p_value is None
    assert welch(Sample.from_values([]), Sample.from_values([])).effect is None
    zero = PairedSample.from_values([1.0, 2.0], [0.0, 0.0])
    assert ratio(zero, zero).status == "no_variance"
    assert cuped_theta([zero, zero]) == 0.0


@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.inf, 1.0], [[1.0], [2.0]]])
def test_bad_values_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"missing or infinite|dimensions"):
        Sample.from_values(bad)


def test_pairs_must_be_the_same_units() -> None:
    with pytest.raises(ValueError, match="same units"):
        PairedSample.from_values([1.0, 2.0], [1.0])


def test_the_cap_is_one_quantile_of_all_arms() -> None:
    arms = [np.arange(100.0), np.full(100, 1000.0)]
    assert pooled_cap(np.concatenate(arms), 0.4) == pytest.approx(np.quantile(np.r_[0:100], 0.8), 1)
    with pytest.raises(ValueError, match="quantile"):
        pooled_cap([1.0], 1.5)


def test_post_stratification_weights_strata_and_adds_their_chance() -> None:
    rng = np.random.default_rng(5)
    n = 6_000
    stratum = rng.integers(0, 3, n)
    treated = rng.random(n) < 0.4
    y = 10.0 * stratum + rng.normal(0, 2, n) + treated * (1.0 + stratum)

    def pairs(arm: bool) -> list[PairedSample]:
        values = [y[(treated == arm) & (stratum == s)] for s in range(3)]
        return [PairedSample.from_values(v, np.zeros(len(v))) for v in values]

    found = poststratified(pairs(False), pairs(True), theta=0.0)
    shares = [(stratum == s).mean() for s in range(3)]
    cells = [[y[(treated == arm) & (stratum == s)] for s in range(3)] for arm in (False, True)]
    means = [[cell.mean() for cell in arm] for arm in cells]
    effects = np.subtract(means[1], means[0])
    variances = np.sum([[c.var(ddof=1) / len(c) for c in arm] for arm in cells], axis=0)
    variance = np.dot(np.square(shares), variances)
    variance += (np.dot(shares, effects**2) - np.dot(shares, effects) ** 2) / n
    assert found.effect == pytest.approx(np.dot(shares, effects))
    assert found.standard_error == pytest.approx(np.sqrt(variance))
    plain = welch(Sample.from_values(y[~treated]), Sample.from_values(y[treated]))
    assert plain.standard_error is not None
    assert found.standard_error is not None
    assert found.standard_error < 0.5 * plain.standard_error
    one = poststratified(pairs(False)[:1], pairs(True)[:1], theta=0.0)
    first = welch(*(Sample(p.n, p.mean_y, p.variance_y) for p in (pairs(False)[0], pairs(True)[0])))
    assert one == first, "with one stratum it is Welch's test"
    with pytest.raises(ValueError, match="3 strata of the control, 2"):
        poststratified(pairs(False), pairs(True)[:2])


def test_ratio_cuped_is_cuped_on_linearised_values() -> None:
    rng = np.random.default_rng(8)
    n = 20_000
    rate = rng.gamma(2, 1, n)
    visits, visits_before = rng.poisson(rate) + 1.0, rng.poisson(rate) + 1.0
    taste = rng.beta(2, 5, n)
    orders = rng.binomial(visits.astype(int), taste).astype(float)
    before = rng.binomial(visits_before.astype(int), taste).astype(float)
    columns = np.stack([orders, visits, before, visits_before])
    arms = [columns[:, :9_000], columns[:, 9_000:]]

    def pair(arm: np.ndarray, k: int) -> PairedSample:
        return ratio_pair(arm.shape[1], arm[:k].mean(axis=1), np.cov(arm[:k]))

    plain = ratio(*(PairedSample.from_values(a[0], a[1]) for a in arms))
    adjusted = cuped(*(pair(a, 4) for a in arms))
    linear = []
    for a in arms:
        r, p = a[0].mean() / a[1].mean(), a[2].mean() / a[3].mean()
        y = r + (a[0] - r * a[1]) / a[1].mean()
        linear.append(PairedSample.from_values(y, p + (a[2] - p * a[3]) / a[3].mean()))
    same = cuped(*linear)
    assert adjusted.effect == pytest.approx(same.effect)
    assert adjusted.standard_error == pytest.approx(same.standard_error)
    assert plain.standard_error is not None
    assert adjusted.standard_error is not None
    assert adjusted.standard_error < 0.96 * plain.standard_error
    assert plain == welch(
        *(Sample(p.n, p.mean_y, p.variance_y) for p in (pair(a, 2) for a in arms))
    )
    with_mean = cuped(*(pair(a, 3) for a in arms))
    assert with_mean.standard_error is not None
    assert with_mean.standard_error <= plain.standard_error
    with pytest.raises(ValueError, match="2, 3 or 4 moments"):
        ratio_pair(10, [1.0], [[1.0]])


def test_a_ratio_by_strata_is_that_of_the_post_stratified_means() -> None:
    """Strata differ in orders and in what one is worth; the error is that of a bootstrap."""
    rng = np.random.default_rng(9)
    n = 6_000
    stratum, treated = rng.choice(3, n, p=[0.5, 0.3, 0.2]), rng.random(n) < 0.5
    taste = rng.gamma(4, 0.25, n)
    orders = rng.poisson(np.array([1.0, 2.0, 6.0])[stratum] * (1 + 0.1 * treated)).astype(float)
    revenue = orders * np.array([20.0, 30.0, 80.0])[stratum] * taste * (1 + 0.05 * treated)
    columns = np.stack([revenue, orders, taste])

    def found(rows: np.ndarray) -> Effect:
        c, s, t = columns[:, rows], stratum[rows], treated[rows]
        shares = np.bincount(s) / len(rows)
        arms = []
        for arm in (False, True):
            cells = [c[:, (t == arm) & (s == i)] for i in range(3)]
            about = shares @ np.array([cell.mean(axis=1) for cell in cells])
            arms.append(
                [
                    ratio_pair(cell.shape[1], cell.mean(axis=1), np.cov(cell), about=about)
                    for cell in cells
                ]
            )
        return poststratified(*arms, shares=list(shares), theta=30.0)

    whole = found(np.arange(n))
    shares = np.bincount(stratum) / n
    levels = []
    for arm in (False, True):
        means = [columns[:, (treated == arm) & (stratum == i)].mean(axis=1) for i in range(3)]
        y, x, before = shares @ np.array(means)
        levels.append(y / x - 30.0 * before)
    assert whole.effect == pytest.approx(levels[1] - levels[0], rel=1e-12)
    drawn = [found(rng.integers(0, n, n)).effect for _ in range(400)]
    assert whole.standard_error == pytest.approx(np.std(np.array(drawn, dtype=float)), rel=0.1)
    plain = ratio(
        *(PairedSample.from_values(revenue[treated == a], orders[treated == a]) for a in (0, 1))
    )
    assert plain.standard_error is not None
    assert whole.standard_error is not None
    assert whole.standard_error < 0.8 * plain.standard_error


def test_cuped_moves_the_estimate_little_and_never_adds_error() -> None:
    rng = np.random.default_rng(3)
    x = rng.gamma(2, 10, 4_000)
    y = 0.8 * x + rng.normal(0, 5, 4_000) + np.repeat([0.0, 1.0], 2_000)
    arms = [PairedSample.from_values(y[i : i + 2_000], x[i : i + 2_000]) for i in (0, 2_000)]
    plain = welch(*(Sample.from_values(y[i : i + 2_000]) for i in (0, 2_000)))
    adjusted = cuped(*arms)
    assert plain.effect is not None
    assert plain.standard_error is not None
    assert adjusted.effect is not None
    assert adjusted.standard_error is not None
    assert abs(adjusted.effect - plain.effect) < 3 * plain.standard_error
    assert adjusted.standard_error < 0.6 * plain.standard_error
    assert cuped_sample(arms[0], 0.0).variance == arms[0].variance_y
